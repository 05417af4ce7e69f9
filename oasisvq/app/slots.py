"""Compute slots: so many computations at once; those that a visitor watches go first, then in order of arrival.

A long computation yields its slot to urgent ones on its way, but to no other long one, which would make both late.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Slots:
    """A semaphore with queues, the urgent one served first, and a way to yield a slot to those who are urgent."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._urgent: deque[threading.Event] = deque()
        self._yielded: deque[threading.Event] = deque()  # those who gave way, and go on before others begin
        self._others: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._urgent) + len(self._yielded) + len(self._others)

    @contextmanager
    def slot(self, urgent: bool = False) -> Iterator[Callable[[], None]]:
        """Wait for a slot and hold it. Yields a function that lets urgent computations go first, then returns.

        Urgent is what a visitor watches and what takes a moment: the rest waits for it.
        """
        self._acquire(self._urgent if urgent else self._others)
        try:
            yield self._give_way
        finally:
            self._release()

    def _acquire(self, queue: deque[threading.Event]) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            called = threading.Event()
            queue.append(called)
        called.wait()

    def _release(self) -> None:
        with self._lock:
            if queue := self._urgent or self._yielded or self._others:
                queue.popleft().set()
            else:
                self._free += 1

    def _give_way(self) -> None:
        while self._urgent:
            self._release()
            self._acquire(self._yielded)
