"""Polite turns: at most so many computations at once; who waits for a picture goes first, then who waited longest.

A long computation lets the urgent ones go first on its way, but no other long one: sharing would make all of them late.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def processors() -> int:
    """How many of them this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Turns:
    """A semaphore that serves the urgent first, each kind in the order it came; a long computation can pass it on."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._urgent: deque[threading.Event] = deque()
        self._others: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._urgent) + len(self._others)

    @contextmanager
    def turn(self, urgent: bool = False) -> Iterator[Callable[[], None]]:
        """Wait for a place and hold it. Yields a function that lets the urgent go first, then goes on.

        Urgent is what somebody watches for and what is over at once: the rest waits for it.
        """
        self._take(urgent)
        try:
            yield self._pass_on
        finally:
            self._leave()

    def _take(self, urgent: bool) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            called = threading.Event()
            (self._urgent if urgent else self._others).append(called)
        called.wait()

    def _leave(self) -> None:
        with self._lock:
            if queue := self._urgent or self._others:
                queue.popleft().set()
            else:
                self._free += 1

    def _pass_on(self) -> None:
        # Between the two nobody else can take the place, unless somebody urgent waited for it.
        while self._urgent:
            self._leave()
            self._take(True)
