"""The whole road on a tiny phantom: prepare, train both models, evaluate, package, verify, use."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_weights import forget_the_hub

from oasisvq import cli
from oasisvq.models.presets import PRESETS

pytestmark = pytest.mark.slow

QUICK = replace(
    PRESETS["smoke"], vqvae_batch=8, prior_batch=8, vqvae_epochs=4, prior_epochs=2, prior_channels=16, vqvae_rate=3e-3
)


def run(*words: object) -> None:
    assert cli.main([str(word) for word in words]) == 0


def test_from_phantom_to_figures_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_the_hub(monkeypatch, tmp_path)
    monkeypatch.setitem(PRESETS, "smoke", QUICK)
    data, out = tmp_path / "data", tmp_path / "out"
    run("prepare", "--out", data, "--people", 3, 1, 2)
    for model in ("vqvae", "prior"):
        run("train", model, "--data", data, "--out", out, "--preset", "smoke", "--precision", "fp32")
    results = out / "results.json"
    run("evaluate", "--data", data, "--split", "test", "--weights", out, "--json", results)
    run("package", out)
    run("verify", out)

    training = json.loads((out / "manifest.json").read_text())["training"]
    assert {"command", "seed", "precision", "versions", "threads", "processes", "device"} <= set(training)
    assert "--preset smoke --precision fp32" in training["command"]
    figures = json.loads(results.read_text())
    assert (figures["people"], figures["slices"]) == (2, 64)
    assert figures["ssim_ci95"][0] <= figures["ssim_mean"] <= figures["ssim_ci95"][1]
    assert 0.5 < figures["ssim_mean"] < 1
    assert figures["bits_per_pixel"] == pytest.approx(400 * 9 / 6400)
    assert 0 < figures["nll_bits_per_code"] < 9.5
    assert figures["table_bits_per_code"] < figures["histogram_bits_per_code"] < 9
    assert set(figures) >= {
        "ssim_foreground_mean", "psnr_mean", "codebook_size", "codebook_utilisation", "perplexity", "weights_sha256",
    }  # fmt: skip
    assert len(figures["ssim_by_level"]) == 32

    # The figures again by another way: what the commands write to disk, measured from there.
    case = sorted((data / "keras_png_slices_test").iterdir())[0]
    run("reconstruct", case, "--out", tmp_path / "again", "--weights", out)
    run("encode", case, "--out", tmp_path / "codes.npz", "--weights", out)
    assert np.load(tmp_path / "codes.npz")["indices"].shape == (1, 20, 20)
    run("sample", "--count", 2, "--seed", 1, "--out", tmp_path / "draws", "--weights", out)
    assert len(list((tmp_path / "draws").glob("*.png"))) == 2
    card = (out / "README.md").read_text()
    assert f"{figures['ssim_mean']:.4g}" in card
    assert "not for diagnosis" in card
