"""Weights of the Hub, fetched while others are in use.

`huggingface_hub` resumes a broken download and tries a dead host again for 23 seconds. It has nothing that waits for a
Hub which is away for longer, nor anything that works in the background: that is all there is here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from oasisvq.hub.sources import Resolved, from_hub, wish

# Seconds between two tries in the background: the pause doubles from the first to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 600.0


class Fetch:
    """Weights of the Hub, fetched in the background while others are in use: tried again and again until they are here.

    Attributes:
        status: one line for the screen, what is being waited for and why; empty in the end.
    """

    def __init__(self, repo: str, revision: str | None, in_use: str | None, arrived: Callable[[], None]) -> None:
        """`arrived` is called once, from another thread, when verified weights of another commit than `in_use` lie in
        the cache."""
        self.status = f"Asking the Hub for {repo}."
        threading.Thread(target=self._run, args=(repo, revision, in_use, arrived), daemon=True).start()

    def _run(self, repo: str, revision: str | None, in_use: str | None, arrived: Callable[[], None]) -> None:
        pause = FIRST_PAUSE
        while (found := self._try(repo, revision, pause)) is None:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        if found.revision != in_use:
            arrived()
        self.status = ""

    def _try(self, repo: str, revision: str | None, pause: float) -> Resolved | None:
        def report(name: str, done: int, size: int) -> None:
            self.status = f"Downloading {repo}: {name}, {done / max(size, 1):.0%} of {size / 1e6:.1f} MB."

        notes: list[str] = []
        found = from_hub(repo, revision, notes, report=report)
        if found is not None and (found.source == "hub" or not notes):
            return found
        self.status = f"{'; '.join(notes)}. Next try within {pause:.0f} s."
        return None


def fetch(in_use: str | None, arrived: Callable[[], None]) -> Fetch | None:
    """Begin to fetch what the environment asks for; None where it asks for nothing, or for the commit in use."""
    repo, revision = wish()
    if not repo or (revision is not None and revision == in_use):
        return None
    return Fetch(repo, revision, in_use, arrived)
