"""Drawing in processes of their own, one for each processor.

Sampling is mostly Python, of which a process runs one thread at a time: with threads alone, visitors who draw at once
would share one processor, and pages and strokes with them. Sampling eight slices at once takes about four times as
long as one, so those who wait at the same time are drawn together.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from oasisvq.app.drawing import Drawn, Upper, draw
from oasisvq.app.models import DEFAULT, load_model
from oasisvq.app.slots import processors
from oasisvq.errors import OasisVQError

if TYPE_CHECKING:
    from oasisvq.pipeline import OasisVQ

_MODEST = 5  # niceness above that of the server, which must answer visitors
_MOST = 8  # draws made together: eight take about four times as long as one, and each waits for all


class _Request(NamedTuple):
    """A draw that somebody waits for. Requests of one kind can be drawn together."""

    kind: tuple[object, ...]
    model: str
    files: Mapping[str, Any]
    settings: dict[str, Any]
    upper: Upper | None
    drawn: Future[Drawn | None]


class _Workers:
    """Processes that draw. While all are busy, requests wait; whoever is free takes those that go together."""

    def __init__(self, count: int) -> None:
        self.pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin)
        self._free = count
        self._waiting: list[_Request] = []
        self._lock = threading.Lock()

    def ask(self, request: _Request) -> Drawn | None:
        """Wait for the draw; None where no worker can make it. Raises BrokenProcessPool when one was killed."""
        with self._lock:
            self._waiting.append(request)
        self._send()
        return request.drawn.result()

    def _send(self) -> None:
        with self._lock:
            if not self._free or not self._waiting:
                return
            oldest = self._waiting[0]
            together = [one for one in self._waiting if one.kind == oldest.kind][:_MOST]
            for one in together:
                self._waiting.remove(one)
            self._free -= 1
        asked = [one.settings for one in together]
        try:
            task = self.pool.submit(_draw, oldest.model, oldest.files, asked, oldest.upper)
        except RuntimeError as error:  # broken, or shut down meanwhile
            task = Future()
            task.set_exception(error)
        task.add_done_callback(partial(self._tell, together))

    def _tell(self, together: Sequence[_Request], task: Future[list[Drawn] | None]) -> None:
        with self._lock:
            self._free += 1
        drawn: Sequence[Drawn | None] | None = None
        broken = None
        try:
            drawn = task.result()
        except BrokenProcessPool as error:
            broken = error
        except (OasisVQError, RuntimeError, CancelledError):
            pass  # what is wrong with one request is found again where it is drawn alone
        for request, one in zip(together, drawn or [None] * len(together), strict=True):
            if broken:
                request.drawn.set_exception(broken)
            else:
                request.drawn.set_result(one)
        self._send()


_workers: _Workers | None = None


def start() -> None:
    """Start the workers; before that, and where there are none, draws are made in the calling thread."""
    global _workers
    _workers = _Workers(processors())


def stop() -> None:
    """Stop the workers; a caller that waits for one draws in its own thread."""
    global _workers
    if _workers is not None:
        _workers.pool.shutdown(wait=False, cancel_futures=True)
        _workers = None


def draw_apart(model: OasisVQ, settings: Mapping[str, Any], upper: Upper | None = None) -> Drawn:
    """As `draw`, in a worker where there is one that has the same weights. A GPU serves all threads alike."""
    workers = _workers
    if workers is not None and model.device.type == "cpu":
        name = model.info["preset"]["name"] if model.info["source"] == "bundled" else DEFAULT
        files = model.info["files"]
        alike = settings["temperature"], settings["top_k"], settings["level"] is None
        kind = (name, repr(files), *alike, object() if upper else None)  # what begins from a slice is drawn by itself
        try:
            drawn = workers.ask(_Request(kind, name, files, dict(settings), upper, Future()))
        except BrokenProcessPool:  # killed, by a system short of memory
            stop()
        else:
            if drawn is not None:
                return drawn
    return draw(model, [settings], upper)[0]


def _draw(
    name: str, files: Mapping[str, Any], asked: Sequence[Mapping[str, Any]], upper: Upper | None
) -> list[Drawn] | None:
    """In a worker. None where it does not find the weights that were asked for."""
    try:
        model = load_model(name)
    except OasisVQError:
        return None
    return draw(model, asked, upper) if model.info["files"] == files else None


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
