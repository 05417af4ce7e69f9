"""train_all.sh: its options. What it does with them is in test_road.py, command by command."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "train_all.sh"


def train_all(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *words],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_from_any_folder(tmp_path: Path) -> None:
    told = train_all("--help", cwd=tmp_path)
    assert told.returncode == 0
    assert "usage: train_all.sh [--data DIR] [--out DIR] [--preset NAME | --smoke]" in told.stdout


@pytest.mark.parametrize("words", [("--fast",), ("--data",)])
def test_typing_errors_exit_2(words: tuple[str, ...], tmp_path: Path) -> None:
    told = train_all(*words, cwd=tmp_path)
    assert told.returncode == 2
    assert told.stderr.startswith("error: ")


def test_stops_at_the_first_failure_and_means_the_callers_folder(tmp_path: Path) -> None:
    told = train_all("--smoke", "--data", "slices", "--out", "out", cwd=tmp_path)
    assert told.returncode == 2
    assert str(tmp_path / "slices") in told.stderr
    assert "missing" not in told.stderr  # what `package` would say, had the script gone on
    assert not (tmp_path / "out").exists()
