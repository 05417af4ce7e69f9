"""The commands of `benchmark` that start the app, a browser or other processes, on little of what they measure."""

import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from heads import head
from PIL import Image
from tiny_weights import TINY, write_weights

from benchmarks.system.app import CHROMIUM
from oasisvq import cli
from oasisvq.app import models
from oasisvq.data.frame import LEVELS
from oasisvq.models.presets import PRESETS

needs_chromium = pytest.mark.skipif(not os.path.exists(CHROMIUM), reason=f"no browser at {CHROMIUM}")


def run(out: Path, name: str, *words: object) -> dict[str, Any]:
    """Runs `benchmark NAME ...`; returns what it wrote to --json."""
    assert cli.main(["benchmark", name, *map(str, words), "--json", str(out)]) == 0
    figures: dict[str, Any] = json.loads(out.read_text())
    assert figures["measured"]["date"]
    return figures


@pytest.mark.slow
@pytest.mark.usefixtures("upright")
def test_align(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    align = importlib.import_module("benchmarks.quality.align")
    *_, one_slice = align.nothing(np.random.default_rng(0))
    monkeypatch.setattr(align, "nothing", lambda _: [one_slice])
    monkeypatch.setattr(align, "wrong", lambda *_: [])
    monkeypatch.setattr(align, "ALONE", 200)
    file = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(*head()), file)
    weights = write_weights(tmp_path / "weights", preset=replace(TINY, size=80, levels=LEVELS))
    figure = tmp_path / "head.png"
    words = ["--weights", weights, "--copies", 1, "--figure", figure]
    found = run(tmp_path / "align.json", "align", file, *words)
    assert (found["copies"], found["good_refused"]) == (1, 0)
    assert (found["wrong"], found["wrong_refused"]) == (1, 1)
    assert found["turn_worst"] < 3
    assert found["shift_worst"] < 3
    assert found["back_worst"] > 0.9
    assert [row["kind"] for row in found["rows"]] == ["head", "alone", "wrong", "copy"]
    assert found["alone_seconds"] > 0
    assert Image.open(figure).width > 800


@pytest.mark.slow
def test_streaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "base", replace(TINY, size=80))
    words = ["--slices", 64, "--race", 64, "--folder", tmp_path]
    found = run(tmp_path / "streaming.json", "streaming", *words)
    (row,) = found["rows"]
    assert row["slices"] == 64
    assert row["in_memory_would_be_mib"] == 64 * 16 * 16 * 4 / 2**20
    assert set(found["slices_per_second"]) == {"decoding", "loading", "training"}


@pytest.mark.slow
def test_crowd(tmp_path: Path) -> None:
    """Two visitors, one of them with a head: each gets its own, and the command fails if not."""
    found = run(tmp_path / "crowd.json", "crowd", "--visitors", 2, "--come-and-go", 2)
    assert (found["errors"], found["tracebacks_in_log"]) == ([], 0)
    assert found["weights_sha256"] == models.load_model().weights_sha256
    assert {"draw_median_s", "stroke_longest_s", "upload_median_s", "head_median_s"} <= set(found)
    assert found["memory_before_mb"] > 100
    assert len(found["memory_mb"]) == 2


@pytest.mark.browser
@needs_chromium
def test_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = importlib.import_module("benchmarks.system.app")
    monkeypatch.setattr(app, "PAGES", {name: app.PAGES[name] for name in ("Home", "Edit codes")})
    monkeypatch.setattr(app, "STROKES", 2)
    found = run(tmp_path / "app.json", "app", "--starts", 1)
    assert found["strokes"] == 2
    assert 0 < found["first_paint_s"] < found["first_page_complete_s"]
    assert 0 < found["stroke_s"] <= found["stroke_slowest_s"]
    assert found["weights_sha256"]


@pytest.mark.browser
@needs_chromium
def test_screenshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screenshots = importlib.import_module("benchmarks.screenshots")
    monkeypatch.setattr(screenshots, "SHOTS", {"generate": screenshots.DRAW})
    monkeypatch.setattr(screenshots, "FRAMES", 3)
    assert cli.main(["benchmark", "screenshots", "--out", str(tmp_path / "new")]) == 0
    assert Image.open(tmp_path / "new" / "generate.webp").size == (1440, 900)
    moving = Image.open(tmp_path / "new" / "demo.webp")
    assert moving.width == screenshots.WIDTH
    assert moving.n_frames > 5
