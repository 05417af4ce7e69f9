"""Making the same again: what a manifest says of a training, and figures held against those on record."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_weights import TINY

from oasisvq.errors import OasisVQError
from oasisvq.training.reproducibility import TOLERANCE, circumstances, compare, instructions

STATED = {
    "data": {"fingerprint": "f" * 64, "name": "a set"},
    "split": "test",
    "people": 20,
    "ssim_mean": 0.95,
    "psnr_mean": 30.0,
    "nothing": math.nan,
    "ssim_by_level": {"0": 0.9, "1": 0.91},
    "percentiles": {"ssim": [0.5, 0.9]},
}


def changed(path: str, value: float | None) -> dict:
    fresh = copy.deepcopy(STATED)
    *folders, name = path.split(".")
    inner = fresh
    for folder in folders:
        inner = inner[folder]
    if value is None:
        del inner[name]
    elif isinstance(inner, list):
        inner[int(name)] = value
    else:
        inner[name] = value
    return fresh


def test_equal_figures_agree() -> None:
    assert compare(STATED, STATED) == {"figures": 8, "largest_difference": 0}


@pytest.mark.parametrize(
    ("path", "value"),
    [("ssim_mean", 0.95 + 0.9 * TOLERANCE), ("psnr_mean", 30 - 27 * TOLERANCE), ("people", 21), ("new", 3.0)],
)
def test_rounding_is_forgiven(path: str, value: float) -> None:
    assert compare(STATED, changed(path, value))["largest_difference"] <= 1


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("ssim_mean", 0.95 + 1.1 * TOLERANCE, "1 of 8 figures .* ssim_mean 0.95 is now"),
        ("psnr_mean", 30 - 33 * TOLERANCE, "psnr_mean 30 is now"),
        ("people", 18, "people 20 is now 18"),
        ("ssim_by_level.1", 0.8, "ssim_by_level.1 0.91 is now 0.8"),
        ("percentiles.ssim.0", 0.6, "percentiles.ssim.0 0.5 is now 0.6"),
        ("ssim_mean", math.nan, "ssim_mean 0.95 is now nan"),
        ("psnr_mean", None, "psnr_mean is on record but is not measured"),
        ("data.fingerprint", "0" * 64, "not the slices that were measured"),
    ],
)
def test_what_does_not_agree_is_named(path: str, value: float, words: str) -> None:
    with pytest.raises(OasisVQError, match=words):
        compare(STATED, changed(path, value))


def test_instructions_hold_what_decides_the_bytes() -> None:
    made = circumstances()
    assert {"versions", "threads", "processes", "device"} <= set(made)
    assert {"python", "torch", "numpy", "accelerate"} <= set(made["versions"])
    runs = {"vqvae": {**made, "precision": "bf16", "threads": 2}, "prior": {**made, "precision": "fp32", "threads": 2}}
    said = instructions(replace(TINY, seed=3), runs)
    first, second = said["command"].split(" && ")
    assert first == (
        "OMP_NUM_THREADS=2 python -m oasisvq train vqvae --data DATA --out OUT --preset tiny --precision bf16"
    )
    assert second.endswith("train prior --data DATA --out OUT --preset tiny --precision fp32")
    assert (said["seed"], said["precision"], said["threads"]) == (3, "bf16, fp32", 2)
    many = instructions(TINY, {"vqvae": {**made, "precision": "fp32", "processes": 4}})
    assert "accelerate launch --multi_gpu --num_processes 4 -m oasisvq train vqvae" in many["command"]


def test_the_commit_is_that_of_the_clone() -> None:
    clone = (Path(__file__).parent.parent / ".git").exists()
    assert ("code" in circumstances()) == clone
