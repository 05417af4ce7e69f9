"""The study of single changes, end to end on a tiny cohort."""

import json
from pathlib import Path

import pytest

from oasisvq import cli

NAME = "half the channels"


def test_a_study_measures_a_change_once(tiny_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study.json"
    words = ["benchmark", "study", "--data", str(tiny_cohort), "--out", str(out), "--steps", "1", "--only", NAME]
    assert cli.main(words) == 0
    assert NAME in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert figures["people"] == 2
    [row] = figures["rows"]
    assert 0 < row["utilisation"] <= 1
    assert 0 <= row["entropy_bits_brain"] <= 9  # of 512 codes
    assert 0 < row["ssim_brain"] < 1
    assert f"| {NAME} |" in out.with_suffix(".md").read_text()
    assert cli.main(words) == 0
    assert NAME not in capsys.readouterr().out
    assert json.loads(out.read_text()) == figures
