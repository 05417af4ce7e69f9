"""Models on an accelerator, without one: tensors stay on one device, and results are those of the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def test_an_accelerator_does_what_the_cpu_does() -> None:
    # In a process of its own: the pretend device changes torch for all of it.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/on_pretend_device.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
