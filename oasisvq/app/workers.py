"""Drawing in processes of their own, one for each processor.

Sampling is mostly Python, of which a process runs one thread at a time: with threads alone, visitors who draw at once
would share one processor, and pages and strokes with them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from oasisvq.app.drawing import Drawn, Upper, draw
from oasisvq.app.models import DEFAULT, load_model
from oasisvq.app.slots import processors

if TYPE_CHECKING:
    from oasisvq.pipeline import OasisVQ

_MODEST = 5  # how much nicer they are than the server, which answers whoever watches

_pool: ProcessPoolExecutor | None = None


def start() -> None:
    """Start the workers; until then, and where there are none, draws are made in the calling thread."""
    global _pool
    _pool = ProcessPoolExecutor(processors(), multiprocessing.get_context("spawn"), _be_modest)


def stop() -> None:
    """End the workers; who waits for one of them draws in their own thread."""
    global _pool
    if _pool is not None:
        _pool.shutdown(wait=False, cancel_futures=True)
        _pool = None


def draw_apart(model: OasisVQ, settings: Mapping[str, Any], upper: Upper | None = None) -> Drawn:
    """As `draw`, in a worker where there is one that has the same weights. A GPU serves all threads alike."""
    pool = _pool
    if pool is not None and model.device.type == "cpu":
        name = model.info["preset"]["name"] if model.info["source"] == "bundled" else DEFAULT
        try:
            drawn = pool.submit(_draw, name, model.info["files"], dict(settings), upper).result()
        except BrokenProcessPool:  # killed, as by a system without memory
            stop()
        else:
            if drawn is not None:
                return drawn
    return draw(model, settings, upper)


def _draw(name: str, files: Mapping[str, Any], settings: Mapping[str, Any], upper: Upper | None) -> Drawn | None:
    """In a worker. None where it finds other weights than those that were asked for."""
    model = load_model(name)
    return draw(model, settings, upper) if model.info["files"] == files else None


def _be_modest() -> None:
    with contextlib.suppress(AttributeError):  # Windows has no niceness
        os.nice(_MODEST)
