"""The same bytes again: `train_all.sh --smoke` from nothing, twice, and once killed at a random moment and resumed.

    python -m oasisvq benchmark same_bytes [--folder DIR] [--seed N] [--json FILE]

Each run has a copy of the code of its own, prepares its own phantom cohort, trains, evaluates, packages and verifies.
All of its files must come out with the same sha256. The logs hold the seconds that an epoch took: of them the rest must
be equal, and of manifest and card all but their hashes. Runs that are finished in DIR are not run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._parser import new_parser
from oasisvq.errors import OasisVQError
from oasisvq.files import HOME
from oasisvq.measure.record import write_record

WEIGHTS = Path("runs/smoke")


def start(copy: Path) -> subprocess.Popen[bytes]:
    """Begin, or go on, in a copy of the code; its output goes to a file beside it."""
    if not copy.is_dir():
        shutil.copytree(HOME / "oasisvq", copy / "oasisvq", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(HOME / "train_all.sh", copy)
    with copy.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            ["bash", str(copy / "train_all.sh"), "--smoke"],
            env=os.environ | {"PYTHON": sys.executable, "SOURCE_DATE_EPOCH": "0"},  # dates in records
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], copy: Path) -> None:
    if process.wait():
        raise OasisVQError(f"train_all.sh failed: see {copy.with_suffix('.log')}")
    (copy / "finished").touch()


def hashes(copy: Path) -> dict[str, str]:
    """Name to sha256 of all that a run leaves behind, without what depends on the clock."""
    found = {}
    for path in sorted((copy / WEIGHTS).rglob("*")):
        name = path.relative_to(copy / WEIGHTS).as_posix()
        if path.is_dir() or name.startswith("state/"):
            continue
        content = path.read_bytes()
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([{k: v for k, v in line.items() if k != "seconds"} for line in lines]).encode()
        elif name == "manifest.json":
            manifest = json.loads(content)
            manifest["files"] = {k: v for k, v in manifest["files"].items() if not k.endswith(".jsonl")}
            content = json.dumps(manifest).encode()
        elif name == "README.md":
            content = b"".join(line for line in content.splitlines(True) if b".jsonl | " not in line)
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the hashes. Raises OasisVQError when two of them differ."""
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--folder", type=Path, help="keep the runs there")
    parser.add_argument("--seed", type=int, help="of the moment to kill at (default: another one each time)")
    args = parser.parse_args(arguments)
    folder = args.folder or Path(tempfile.mkdtemp())
    first, second, killed = (folder / name for name in ("first", "second", "killed"))
    for copy in (first, second):
        if not (copy / "finished").is_file():
            started = time.monotonic()
            finish(start(copy), copy)
            (copy / "seconds").write_text(str(time.monotonic() - started))
    if not (killed / "finished").is_file():
        moment = random.Random(args.seed).uniform(0.1, 0.9) * float((first / "seconds").read_text())
        process = start(killed)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        (killed / "moment").write_text(str(moment))
        finish(start(killed), killed)
    found = {copy.name: hashes(copy) for copy in (first, second, killed)}
    figures: dict[str, Any] = {
        "seconds": float((first / "seconds").read_text()),
        "killed_after_seconds": float((killed / "moment").read_text()),
        "sha256": found["first"],
    }
    print(f"one run {figures['seconds']:.0f} s, killed after {figures['killed_after_seconds']:.0f} s and resumed")
    for name, digest in found["first"].items():
        others = [run for run in ("second", "killed") if found[run].get(name) != digest]
        print(f"{digest}  {name}" + (f"  DIFFERS from {', '.join(others)}" if others else ""))
    if args.json:
        write_record(args.json, figures)
    if any(run != found["first"] for run in found.values()):
        raise OasisVQError("the runs differ")
    if args.folder is None:
        shutil.rmtree(folder)
