"""Where the files that come with oasisvq lie, and how a file is put in place whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from oasisvq.errors import OasisVQError

# The folder of `app.py`, `pages` and `checkpoints`: the top of a clone, or where a wheel has put them.
_IN_A_WHEEL = Path(__file__).parent / "shipped"
HOME = _IN_A_WHEEL if _IN_A_WHEEL.is_dir() else Path(__file__).parents[1]


def write_atomically(path: Path, content: bytes, outdated: Iterable[Path] = ()) -> None:
    """Put a file in place in one step, so that a reader or a killed run never leaves half of it.

    `outdated` are files that belong to the old content: they go before the new one stands, and only then.

    Raises OasisVQError when the folder cannot be written to or the disk is full; what was there before is then kept.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        for file in outdated:
            file.unlink(missing_ok=True)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OasisVQError(
            f"{path} cannot be written ({error.strerror}): free some space, or choose a folder that you may write to"
        ) from error
