"""The study of single changes, end to end on a tiny cohort."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.quality.study import measure
from oasisvq import cli
from oasisvq.data.layout import SliceSet
from oasisvq.models.vqvae import Quantised

NAME = "half the channels"


def test_a_study_measures_a_change_once(tiny_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study.json"
    words = ["benchmark", "study", "--data", str(tiny_cohort), "--out", str(out), "--steps", "1", "--only", NAME]
    assert cli.main(words) == 0
    assert NAME in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert figures["people"] == 2
    assert [row["name"] for row in figures["rows"]] == [NAME]
    assert figures["rows"][0]["measured"]["date"]
    assert f"| {NAME} |" in out.with_suffix(".md").read_text()
    assert cli.main(words) == 0
    assert NAME not in capsys.readouterr().out
    assert json.loads(out.read_text()) == figures


class Faithful(nn.Module):
    """Gives back what it is shown, and codes the left half as 1 and the right half as 2."""

    def forward(self, slices: Tensor) -> tuple[Tensor, Quantised]:
        indices = torch.ones(len(slices), 4, 4, dtype=torch.int64)
        indices[:, :, 2:] = 2
        return slices, Quantised(slices, indices, slices.new_zeros(()))


def test_a_variant_is_measured_by_its_pictures_and_by_its_codes_on_the_brain() -> None:
    slices = np.full((4, 64, 64), -0.5, np.float32)
    slices[:, 8:56, 8:56] = np.random.default_rng(0).uniform(0, 0.5, (4, 48, 48))
    about = np.zeros(4, [("person", "S8"), ("level", int), ("grade", int)])
    found = measure(Faithful(), SliceSet(slices, about), 8)
    assert (found["ssim"], found["ssim_brain"], found["sharpness"]) == pytest.approx((1, 1, 1))
    assert found["utilisation"] == 2 / 8
    assert found["entropy_bits_brain"] == pytest.approx(1)  # as many brain cells of either code
