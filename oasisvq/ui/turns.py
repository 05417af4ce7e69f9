"""Polite turns: at most so many computations at once, and whoever waited longest goes next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """A first-come, first-served semaphore that a long computation can pass on between its steps."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    @contextmanager
    def turn(self) -> Iterator[Callable[[], None]]:
        """Wait for a place and hold it. Yields a function that lets all who wait go first, then waits again."""
        self._take()
        try:
            yield self._pass_on
        finally:
            self._leave()

    def _take(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            called = threading.Event()
            self._waiting.append(called)
        called.wait()

    def _leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1

    def _pass_on(self) -> None:
        # Between the two nobody else can take the place, unless somebody waited for it.
        if self._waiting:
            self._leave()
            self._take()
