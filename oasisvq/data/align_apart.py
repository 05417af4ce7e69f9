"""`align` in a process of its own: its gigabyte goes when it ends, and whoever draws meanwhile goes first."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oasisvq.data.align import Aligned, BadFit, Fit, align
from oasisvq.errors import OasisVQError

_SECONDS = 300  # of the clock, on a busy machine
_MODEST = 5  # how much nicer it is than its parent


def align_apart(
    voxels: NDArray[np.floating],
    affine: NDArray[np.float64],
    on_step: Callable[[str, float], None] = lambda name, share: None,
) -> Aligned:
    """As `align`, with all it raises; what `on_step` raises ends the other process too.

    Raises OasisVQError when that process did not survive, or took too long.
    """
    root = str(Path(__file__).parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
    }
    content = io.BytesIO()
    np.savez(content, voxels=np.asarray(voxels, np.float32), affine=affine)
    with subprocess.Popen(
        [sys.executable, "-m", "oasisvq.data.align_apart"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as work:
        assert work.stdin is not None
        assert work.stdout is not None
        clock = threading.Timer(_SECONDS, work.kill)
        clock.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it died: reported below
                work.stdin.write(content.getbuffer())
                work.stdin.close()
            while line := work.stdout.readline():
                said = json.loads(line)
                if "step" in said:
                    on_step(said["step"], said["share"])
                    continue
                fit = Fit(**said["fit"] | {"matrix": np.array(said["fit"]["matrix"])}) if said["fit"] else None
                if said["refused"] is not None:
                    raise BadFit(said["refused"], fit) if fit else OasisVQError(said["refused"])
                assert fit is not None
                with np.load(io.BytesIO(work.stdout.read()), allow_pickle=False) as found:
                    return Aligned(found["levels"], fit, found["voxels"], found["mask"], found["affine"])
            raise OasisVQError("the head could not be worked on: crop the volume to the head, or resample it to 1 mm")
        finally:
            clock.cancel()
            work.kill()


def _main() -> None:
    """An .npz on standard input; on standard output a line of JSON a step, one of the outcome, and an .npz."""
    with contextlib.suppress(AttributeError):  # Windows has no niceness
        os.nice(_MODEST)
    out = sys.stdout.buffer

    def say(**words: Any) -> None:
        out.write(json.dumps(words).encode() + b"\n")
        out.flush()

    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as given:
        voxels, affine = given["voxels"], given["affine"]
    try:
        head = align(voxels, affine, lambda name, share: say(step=name, share=share))
    except OasisVQError as error:
        say(refused=str(error), fit=error.fit.figures() if isinstance(error, BadFit) else None)
        return
    content = io.BytesIO()
    np.savez(content, levels=head.levels, voxels=head.voxels, mask=head.mask, affine=head.affine)
    say(refused=None, fit=head.fit.figures())
    out.write(content.getbuffer())


if __name__ == "__main__":
    _main()
