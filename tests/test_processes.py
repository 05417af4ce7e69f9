"""Two processes on two halves of a batch learn what one learns on the whole, launched as users launch them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from two_processes import PRESET, learn

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def launched(tiny_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("launched")
    # Without a GPU too it is --multi_gpu that makes it start more than one process; --cpu starts one.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    done = subprocess.run(
        [*command, "--main_process_port", "0", str(ROOT / "tests" / "two_processes.py"), str(tiny_cohort), str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_two_processes_of_32_learn_the_codebook_of_one_of_64(launched: Path) -> None:
    one = learn(0, 1)
    first, second = (torch.load(launched / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["dead"] > PRESET.codebook_size, "codes died after the first step too"
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between the two"
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(first["quantiser.codebook"], one["quantiser.codebook"], rtol=1e-4, atol=1e-5)


def test_both_models_train_under_accelerate(launched: Path) -> None:
    for model in ("vqvae", "prior"):
        lines = [json.loads(line) for line in (launched / f"{model}.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2]
        with safe_open(launched / "state" / f"{model}.safetensors", "pt") as state:
            assert json.loads(state.metadata()["made"])["processes"] == 2
