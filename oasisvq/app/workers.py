"""Drawing in processes of their own, one for each processor.

Sampling is mostly Python, of which a process runs one thread at a time: with threads alone, visitors who draw at once
would share one processor, and pages and strokes with them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from oasisvq.app.drawing import Drawn, Upper, draw
from oasisvq.app.models import DEFAULT, load_model
from oasisvq.app.slots import processors
from oasisvq.errors import OasisVQError

if TYPE_CHECKING:
    from oasisvq.pipeline import OasisVQ

_MODEST = 5  # niceness above that of the server, which must answer visitors

_pool: ProcessPoolExecutor | None = None


def start() -> None:
    """Start the workers; before that, and where there are none, draws are made in the calling thread."""
    global _pool
    _pool = ProcessPoolExecutor(processors(), multiprocessing.get_context("spawn"), _begin)


def stop() -> None:
    """Stop the workers; a caller that waits for one draws in its own thread."""
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
        except BrokenProcessPool:  # killed, by a system short of memory
            stop()
        else:
            if drawn is not None:
                return drawn
    return draw(model, settings, upper)


def _draw(name: str, files: Mapping[str, Any], settings: Mapping[str, Any], upper: Upper | None) -> Drawn | None:
    """In a worker. None where it does not find the weights that were asked for."""
    try:
        model = load_model(name)
    except OasisVQError:
        return None
    return draw(model, settings, upper) if model.info["files"] == files else None


def _begin() -> None:
    """First of all in a worker."""
    with contextlib.suppress(AttributeError):  # Windows has no niceness
        os.nice(_MODEST)
    threading.Thread(target=_end_with_server, daemon=True).start()


def _end_with_server() -> None:
    """However the server ended: the queue that a worker waits at is not closed by that."""
    server = multiprocessing.parent_process()
    assert server is not None
    server.join()
    os._exit(0)
