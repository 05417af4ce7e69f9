"""The container's own steps, without Docker: unprivileged, read-only, without a network, in a frame of another site."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("unshare", "setpriv", "/usr/bin/chromium")


def namespaces_are_granted() -> bool:
    """Whether this may give a process mounts and a network of its own: what stands in for Docker."""
    if os.getuid() != 0 or not all(map(shutil.which, TOOLS)):
        return False
    trial = ["unshare", "--mount", "--net", "mount", "--bind", ROOT, ROOT]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@pytest.mark.browser
@pytest.mark.skipif(not namespaces_are_granted(), reason=f"needs root, namespaces and {', '.join(TOOLS)}")
def test_the_app_runs_as_the_dockerfile_says_and_takes_an_upload_in_a_frame(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "oasisvq", "benchmark", "container", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text())
    assert figures["upload_in_frame"]
    assert figures["hosts"] == ["hub.test", "space.test"]


def test_everything_that_the_app_needs_is_copied() -> None:
    copied = [line.split()[2] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    assert {"requirements.txt", "app.py", ".streamlit", "pages", "oasisvq", "checkpoints"} <= set(copied)
