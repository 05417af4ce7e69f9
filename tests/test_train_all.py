"""train_all.sh: its options. What it does with them is in test_road.py, command by command."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent.parent / "train_all.sh"


# Stands in for Python: says what it is asked to run, and its VQ-VAE learns the word "codes".
RECORDER = """#!/bin/bash
[ "$1" = -c ] && exit
shift 2
echo "$*"
[ "$1 $2" != "train vqvae" ] || { mkdir -p "${@: -1}" && printf codes > "${@: -1}/vqvae.safetensors"; }
"""


def train_all(*words: str, cwd: Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *words],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "PYTHON": python},
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


@pytest.mark.parametrize("codes", ["codes", "other codes"])
def test_a_prior_starts_from_one_of_the_same_codes_alone(codes: str, tmp_path: Path) -> None:
    python, start, out = tmp_path / "python", tmp_path / "start", tmp_path / "out"
    python.write_text(RECORDER)
    python.chmod(0o700)
    start.mkdir()
    (start / "vqvae.safetensors").write_text(codes)
    words = ("--preset", "heads", "--data", "slices", "--out", "out", "--start", "start")
    told = train_all(*words, cwd=tmp_path, python=str(python))
    ran = told.stdout.splitlines()
    common = f"--preset heads --data {tmp_path / 'slices'} --out {out}"
    assert ran[0] == f"train vqvae {common}"
    if codes == "codes":
        assert told.returncode == 0
        assert ran[1] == f"train prior {common} --start {start}"
        assert [line.split()[0] for line in ran[2:]] == ["evaluate", "package", "verify"]
    else:
        assert told.returncode == 1
        assert len(ran) == 1
        assert "its prior knows other codes" in told.stderr


def test_a_finished_vqvae_is_taken_as_it_is(tmp_path: Path) -> None:
    python, finished, out = tmp_path / "python", tmp_path / "finished", tmp_path / "out"
    python.write_text(RECORDER)
    python.chmod(0o700)
    finished.mkdir()
    for name in ("vqvae.safetensors", "vqvae.jsonl", "manifest.json", "prior.safetensors"):
        (finished / name).write_text(name)
    words = ("--preset", "heads", "--data", "slices", "--out", "out", "--vqvae", "finished")
    told = train_all(*words, cwd=tmp_path, python=str(python))
    assert told.returncode == 0
    ran = [line.split()[:2] for line in told.stdout.splitlines()]
    assert ran[0] == ["train", "prior"]
    files = {str(file.relative_to(out)): file.read_text() for file in out.rglob("*") if file.is_file()}
    taken = {"vqvae.safetensors": "vqvae.safetensors", "vqvae.jsonl": "vqvae.jsonl"}
    assert files == taken | {"state/vqvae/manifest.json": "manifest.json"}

    (out / "state" / "vqvae.safetensors").write_text("a training of its own")
    for folder in ("out", "finished"):
        told = train_all(*words, "--out", folder, cwd=tmp_path, python=str(python))
        assert (told.returncode, told.stdout) == (2, "")
        assert "has a VQ-VAE of its own" in told.stderr
    assert (finished / "vqvae.safetensors").exists()


def test_a_trained_coarse_stage_is_never_lost(tmp_path: Path) -> None:
    trained, other = tmp_path / "out" / "coarse", tmp_path / "other"
    for folder in (trained, trained / "state", other):
        folder.mkdir(parents=True)
    for name in ("vqvae.safetensors", "prior.safetensors", "manifest.json"):
        (trained / name).write_text("hours of work")
    words = ("--preset", "large", "--data", "slices", "--out", "out", "--coarse", "other")
    told = train_all(*words, cwd=tmp_path)
    assert told.returncode == 2
    assert "other/vqvae.safetensors is missing" in told.stderr
    for path in trained.glob("*.*"):
        (other / path.name).write_text("another")
    told = train_all(*words, cwd=tmp_path)
    assert told.returncode == 2
    assert "was trained there: choose another --out" in told.stderr
    assert {path.read_text() for path in trained.glob("*.*")} == {"hours of work"}


def test_a_finished_vqvae_of_a_cascade_needs_its_coarse_stage(tmp_path: Path) -> None:
    told = train_all("--preset", "large", "--data", "slices", "--vqvae", "finished", cwd=tmp_path)
    assert told.returncode == 2
    assert "name it with --coarse" in told.stderr
