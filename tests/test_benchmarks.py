"""Every command of `benchmark` on tiny weights and few people: it runs, and writes figures with their circumstances."""

import importlib
import importlib.util
import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LEVELS
from safetensors.torch import load_file, save_file
from tiny_weights import DATA, TINY, TRAINING, forget_the_hub, write_weights

from oasisvq import OasisVQ, cli
from oasisvq.errors import OasisVQError
from oasisvq.hub.manifest import write_manifest
from oasisvq.measure import atypical, realism
from oasisvq.measure.evaluation import evaluate
from oasisvq.models import sampling
from oasisvq.models.presets import TOP_K

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

# Run in other files.
ELSEWHERE = {
    "align": "tests/test_system.py",
    "app": "tests/test_system.py",
    "container": "tests/test_container.py",
    "crowd": "tests/test_system.py",
    "draws": "tests/test_realism.py",
    "mutants": "tests/test_mutants.py",
    "sampler": "tests/test_sampling.py",
    "screenshots": "tests/test_system.py",
    "streaming": "tests/test_system.py",
    "study": "tests/test_study.py",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> Path:
    """Weights for slices as large as base's and as many levels as the tiny cohort has, measured on it."""
    preset = replace(TINY, size=80, levels=LEVELS)
    folder = write_weights(tmp_path_factory.mktemp("weights") / "tiny", preset=preset)
    state = load_file(folder / "vqvae.safetensors")
    state["quantiser.codebook"].normal_(generator=torch.Generator().manual_seed(0))
    save_file(state, folder / "vqvae.safetensors")
    (folder / "results.json").unlink()  # of other codes
    write_manifest(folder, preset, DATA, TRAINING)
    results = evaluate(OasisVQ.from_pretrained(folder, device="cpu"), tiny_cohort)
    (folder / "results.json").write_text(json.dumps(results))
    write_manifest(folder, preset, DATA, TRAINING)
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs `benchmark NAME ...`; returns what it wrote to --json."""
    forget_the_hub(monkeypatch, tmp_path)
    out = tmp_path / "figures.json"

    def run(name: str, *words: object) -> dict[str, Any]:
        assert cli.main(["benchmark", name, *map(str, words), "--json", str(out)]) == 0
        figures = json.loads(out.read_text())
        assert figures["measured"]["date"]
        return figures

    return run


def test_codes(run: Callable[..., Any], folder: Path, tiny_cohort: Path) -> None:
    found = run("codes", "--weights", folder, "--data", tiny_cohort, "--slices", 8)
    assert found["slices"] == 8
    [stage] = found["stages"]
    assert len(stage["share"]) == TINY.codebook_size
    assert sum(stage["share"]) == pytest.approx(1, abs=0.01)


def test_lesions(run: Callable[..., Any], folder: Path, tiny_cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lesions = importlib.import_module("benchmarks.quality.lesions")
    found = run("lesions", "--weights", folder, "--data", tiny_cohort, "--count", 1)
    assert found["least_change"] == 0.15
    by_kind = found["scores"]["unusual"]["by_kind_and_size"]
    assert list(by_kind) == ["bright", "dark", "displaced", "missing"]

    def told(_model: Any, slices: Any, _levels: Any, name: str) -> dict[str, Any]:
        return dict.fromkeys(("bits", "unusual"), np.full((len(slices), 8, 8), float(name == "lesions")))

    monkeypatch.setattr(lesions, "maps", told)
    found = run("lesions", "--weights", folder, "--data", tiny_cohort, "--count", 1)["scores"]["unusual"]
    assert found["at_6_and_more"]["auroc_slice"] == 1  # all lesions score higher than all that is untouched


def test_refill(run: Callable[..., Any], folder: Path, tiny_cohort: Path) -> None:
    found = run("refill", "--weights", folder, "--data", tiny_cohort, "--slices", 4, "--proposals", 1, 2)
    assert [row["proposals"] for row in found["rows"]] == [1, 2]
    assert set(found["weights_sha256"]) == {"vqvae.safetensors", "prior.safetensors"}
    assert all(math.isfinite(row["excess_below"]) for row in found["rows"])


def test_strength(run: Callable[..., Any], tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strength = importlib.import_module("benchmarks.quality.strength")
    before, told, draw = sampling.APPEARANCE_SCALE, [], strength.draw
    monkeypatch.setattr(strength, "draw", lambda *a, **b: told.append(sampling.APPEARANCE_SCALE) or draw(*a, **b))
    monkeypatch.setattr(realism, "FRECHET_SPLITS", 1)
    weights = write_weights(tmp_path / "small", preset=replace(TINY, levels=LEVELS))
    found = run("strength", "--weights", weights, "--data", tiny_cohort, "--count", 32, "--seeds", 1)
    assert told == [1.0, 1.3, 1.6]
    assert [row["strength"] for row in found["rows"]] == [1.0, 1.3, 1.6]
    assert all(len(row["frechet_ratio"]) == 1 and min(row["frechet_ratio"]) > 0 for row in found["rows"])
    assert (found["split"], found["top_k"]) == ("validate", TOP_K)
    assert before == sampling.APPEARANCE_SCALE


def test_top_k(run: Callable[..., Any], tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realism, "FRECHET_SPLITS", 1)
    monkeypatch.setattr(realism, "CLASSIFIER_SEEDS", 1)
    top_k = importlib.import_module("benchmarks.quality.top_k")
    drawn, draw = [], top_k.draw
    monkeypatch.setattr(top_k, "draw", lambda *a, **b: drawn.append(b["top_k"]) or draw(*a, **b))
    monkeypatch.setattr(top_k, "NUMBERS", (None, 2))
    weights = write_weights(tmp_path / "small", preset=replace(TINY, levels=LEVELS))
    found = run("top_k", "--weights", weights, "--data", tiny_cohort, "--count", 32)
    assert drawn == [row["top_k"] for row in found["rows"]] == [None, 2]
    assert all(row["frechet_ratio"] > 0 and row["nearest_ratio"] > 0 for row in found["rows"])
    assert all(set(row["anatomy_ratio"]) == set(realism.MEASURES) for row in found["rows"])
    assert all(0 <= area <= 1 for row in found["rows"] for area in (*row["auc"], *row["auc_linear"]))


def test_deviation(run: Callable[..., Any], folder: Path, tiny_cohort: Path) -> None:
    usual = {name: getattr(atypical, name.upper()) for name in ("nearness", "least", "smoothing")}
    found = run("deviation", "--weights", folder, "--data", tiny_cohort, "--count", 1)
    assert found["split"] == "validate"
    tried = [{name: row[name] for name in usual} for row in found["rows"]]
    assert tried[0] == usual
    changed = [[name for name in usual if row[name] != usual[name]] for row in tried[1:]]
    assert changed == [[name] for name in usual for _ in range(2)]
    assert len({row["auroc_slice"] for row in found["rows"]}) > 1  # constants are heard
    assert usual == {name: getattr(atypical, name.upper()) for name in usual}


def test_failures(run: Callable[..., Any], folder: Path, tiny_cohort: Path) -> None:
    found = run("failures", "--weights", folder, "--data", tiny_cohort)
    assert {"unchanged", "mirrored", "rotated by 5 degrees", "phantom people"} <= set(found["foreign"])
    assert found["foreign"]["white"]["unlike"] == 1


def test_rate(run: Callable[..., Any], folder: Path, tiny_cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = importlib.import_module("benchmarks.quality.rate")
    one = rate.CODECS["JPEG"]
    monkeypatch.setattr(rate, "CODECS", {"JPEG": one._replace(steps=dict(list(one.steps.items())[4:6]))})
    found = run("rate", "--weights", folder, "--data", tiny_cohort)
    assert set(found["sizes"]["80"]["chosen"]["codecs"]["JPEG"]["bytes_as_clear"]) == {"baseline", "progressive"}
    assert json.loads((folder / "rate.json").read_text())["sizes"] == found["sizes"]


def test_phantom(run: Callable[..., Any], tiny_cohort: Path) -> None:
    found = run("phantom", "--phantom", tiny_cohort, "--real", tiny_cohort, "--people", 3)
    assert found["phantom"] == found["real"]
    assert found["histogram_overlap"] == pytest.approx(1)


def test_heads(run: Callable[..., Any], tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realism, "CLASSIFIER_SEEDS", 1)
    video = importlib.import_module("benchmarks.quality._video")
    av1, *_ = video.SETTINGS
    library, options, quality, steps = video.SETTINGS[av1]
    monkeypatch.setattr(video, "SETTINGS", {av1: (library, options | {"preset": "10"}, quality, steps[::3])})
    preset = replace(TINY, size=64, levels=LEVELS, prior_neighbours=2)
    weights = write_weights(tmp_path / "heads", preset=preset)
    monkeypatch.setattr(importlib.import_module("benchmarks.quality.heads"), "SIZE", preset.size)
    scheduling = getattr(os, "sched_getscheduler", lambda _: None)  # of Linux
    before = scheduling(0)
    found = run("heads", "--weights", weights, "--data", tiny_cohort)
    assert found["step_ratio_full_size"] == pytest.approx(found["step_ratio"], rel=1e-3)
    assert scheduling(0) == before, "SVT-AV1 makes a thread of root's a real-time one"
    assert found["files"]["exact"]
    assert found["people"] == 2


def test_figures_are_checked() -> None:
    assert cli.main(["benchmark", "figures", "--check"]) == 0


@pytest.mark.skipif(importlib.util.find_spec("atheris") is not None, reason="atheris is here")
def test_fuzz_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["benchmark", "fuzz", "png"]) == 2
    assert "pip install atheris" in capsys.readouterr().err


def test_fuzz_adds_to_a_record_what_found_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz = importlib.import_module("benchmarks.system.fuzz")
    status, asked = [0], []

    def child(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        if "fuzz" in command:
            asked.append(command[-5:])
        return subprocess.CompletedProcess(command, status[0], "")

    monkeypatch.setattr(fuzz.subprocess, "run", child)
    out = tmp_path / "fuzz.json"
    for reader, inputs in (("png", "5"), ("links", "7")):
        fuzz.main([reader, "--inputs", inputs, "--json", str(out)])
    assert json.loads(out.read_text())["readers"] == {"png": {"inputs": 5}, "links": {"inputs": 7}}
    assert asked[0] == ["png", "--inputs", "5", "--out", "fuzz"]
    status[0] = 77
    with pytest.raises(OasisVQError, match="the fuzzer of png failed"):
        fuzz.main(["png", "--json", str(out)])


@pytest.mark.parametrize("differ", [False, True])
def test_same_bytes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, differ: bool) -> None:
    same = importlib.import_module("benchmarks.system.same_bytes")
    started = []

    def start(copy: Path) -> subprocess.Popen[bytes]:
        started.append(copy.name)
        shutil.copytree(folder, copy / same.WEIGHTS, dirs_exist_ok=True)
        if differ and copy.name == "killed":
            (copy / same.WEIGHTS / "prior.safetensors").write_bytes(b"other")
        return subprocess.Popen(["true"], start_new_session=True)

    monkeypatch.setattr(same, "start", start)
    monkeypatch.setattr(same.os, "killpg", lambda *_: None)
    words = ["--folder", str(tmp_path / "runs"), "--seed", "0", "--json", str(tmp_path / "same.json")]
    if differ:
        with pytest.raises(OasisVQError, match="the runs differ"):
            same.main(words)
    else:
        same.main(words)
    assert started == ["first", "second", "killed", "killed"]
    assert "prior.safetensors" in json.loads((tmp_path / "same.json").read_text())["sha256"]


def test_training(run: Callable[..., Any]) -> None:
    found = run("training", "--batch", 1, "--rounds", 1)
    for row in found["rows"]:
        at_best = max(row["monai_slices_per_second"], row["monai_channels_last_slices_per_second"])
        assert row["ours_over_monai"] == pytest.approx(row["ours_slices_per_second"] / at_best)
        assert row["ours_gflop_per_slice"] == pytest.approx(row["monai_gflop_per_slice"], rel=0.1)


def test_no_command_is_forgotten() -> None:
    here = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    here |= {"figures", "fuzz"}
    commands = {path.stem for path in (ROOT / "benchmarks").rglob("*.py") if "def main(" in path.read_text()}
    assert commands == (here & commands) | set(ELSEWHERE)
    for command, file in ELSEWHERE.items():
        assert command in (ROOT / file).read_text()
