"""Computing in processes of their own, one for each processor: draws, and what codes cost under the prior.

Sampling is mostly Python, of which a process runs one thread at a time: with threads alone, visitors who draw at once
would share one processor, and pages and strokes with them. Sampling eight slices at once takes about four times as
long as one, so those who wait at the same time are served together. Draws go first: who draws waits for nothing else,
while who edits codes has the picture already.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, NamedTuple

from oasisvq.app.drawing import Drawn, Upper, draw
from oasisvq.app.models import DEFAULT, compute_slot, load_model
from oasisvq.app.slots import processors
from oasisvq.errors import OasisVQError

if TYPE_CHECKING:
    from oasisvq.app.codes import Codes
    from oasisvq.pipeline import OasisVQ

_MODEST = 7  # niceness above that of the server, which must answer visitors
_MOST = 8  # requests served together: eight draws take about four times as long as one, and each waits for all

# What a worker does: with a model, for several requests at once.
_Job = Callable[["OasisVQ", Sequence[Any]], Sequence[Any]]


class _Request(NamedTuple):
    """What somebody waits for. Requests of one job and kind can be served together."""

    job: _Job
    kind: tuple[object, ...]
    model: str
    files: Mapping[str, Any]
    asked: Any
    result: Future[Any]


class _Workers:
    """Processes that compute. While all are busy, requests wait; whoever is free takes those that go together."""

    def __init__(self, count: int) -> None:
        self.pool = ProcessPoolExecutor(count, _context(), _begin)
        self._free = count
        self._waiting: list[_Request] = []
        self._lock = threading.Lock()

    def ask(self, request: _Request) -> Any:
        """Wait for the result; None where no worker can give it. Raises BrokenProcessPool when one was killed."""
        with self._lock:
            self._waiting.append(request)
        self._send()
        return request.result.result()

    def _send(self) -> None:
        with self._lock:
            if not self._free or not self._waiting:
                return
            first = min(self._waiting, key=lambda one: one.job is not _draw)  # of the draws, or of all, the oldest
            together = [one for one in self._waiting if (one.job, one.kind) == (first.job, first.kind)][:_MOST]
            for one in together:
                self._waiting.remove(one)
            self._free -= 1
        asked = [one.asked for one in together]
        try:
            task = self.pool.submit(_do, first.job, first.model, first.files, asked)
        except Exception as error:  # broken, shut down meanwhile, or no process can be started
            task = Future()
            task.set_exception(error)
        task.add_done_callback(partial(self._tell, together))

    def _tell(self, together: Sequence[_Request], task: Future[Sequence[Any] | None]) -> None:
        with self._lock:
            self._free += 1
        results: Sequence[Any] | None = None
        broken = None
        try:
            results = task.result()
        except BrokenProcessPool as error:
            broken = error
        except Exception:
            pass  # what is wrong with one request is found again where it is served alone
        for request, one in zip(together, results or [None] * len(together), strict=True):
            if broken:
                request.result.set_exception(broken)
            else:
                request.result.set_result(one)
        self._send()


def _context() -> BaseContext:
    """How workers start. On Linux they are forked from a process that imported everything and computed nothing, so that
    they share it; elsewhere, where libraries may not survive a fork, each imports for itself."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "oasisvq.pipeline"])
    return context


_workers: _Workers | None = None


def start() -> None:
    """Start the workers; before that, and where there are none, the calling thread computes."""
    global _workers
    _workers = _Workers(processors())


def stop() -> None:
    """Stop the workers; a caller that waits for one computes in its own thread."""
    global _workers
    if _workers is not None:
        _workers.pool.shutdown(wait=False, cancel_futures=True)
        _workers = None


def draw_apart(model: OasisVQ, settings: Mapping[str, Any], upper: Upper | None = None) -> Drawn:
    """As `draw`, in a worker where there is one that has the same weights. A GPU serves all threads alike."""
    alike = settings["temperature"], settings["top_k"], settings["level"] is None
    kind = (*alike, object() if upper else None)  # what begins from a slice is drawn by itself
    drawn: Drawn | None = _apart(_draw, model, kind, (dict(settings), upper))
    return draw(model, [settings], upper)[0] if drawn is None else drawn


def bits_apart(model: OasisVQ, indices: Codes) -> float:
    """Bits of a slice's codes (h, w) under the prior, in a worker where there is one that has the same weights."""
    bits: float | None = _apart(_bits, model, (), indices)
    if bits is None:
        with compute_slot():
            [bits] = _bits(model, [indices])
    return bits


def _apart(job: _Job, model: OasisVQ, kind: tuple[object, ...], asked: Any) -> Any:
    """The result of a job in a worker; None where none can give it."""
    workers = _workers
    if workers is None or model.device.type != "cpu":
        return None
    name = model.info["preset"]["name"] if model.info["source"] == "bundled" else DEFAULT
    files = model.info["files"]
    try:
        return workers.ask(_Request(job, (name, repr(files), *kind), name, files, asked, Future()))
    except BrokenProcessPool:  # killed, by a system short of memory
        stop()
        return None


def _do(job: _Job, name: str, files: Mapping[str, Any], asked: Sequence[Any]) -> Sequence[Any] | None:
    """In a worker. None where it does not find the weights that were asked for."""
    try:
        if load_model(name).info["files"] != files:
            _look_again(repr(files))
        model = load_model(name)
    except OasisVQError:
        return None
    return job(model, asked) if model.info["files"] == files else None


@cache
def _look_again(_files: str) -> None:
    """Once for each set of files: the server may have fetched others since this worker loaded its own."""
    load_model.clear()


def _draw(model: OasisVQ, asked: Sequence[tuple[dict[str, Any], Upper | None]]) -> list[Drawn]:
    return draw(model, [settings for settings, _ in asked], asked[0][1])


def _bits(model: OasisVQ, asked: Sequence[Codes]) -> list[float]:
    import numpy as np
    import torch

    bits: list[float] = model.surprise(torch.from_numpy(np.stack(asked))).flatten(1).sum(1).tolist()
    return bits


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
