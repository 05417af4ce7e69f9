"""The code grid in the browser (code_grid.html, .css, .js) and its tie to the reducer."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from oasisvq.app import editor
from oasisvq.app.editor import Editor
from oasisvq.app.links import Origin
from oasisvq.app.models import belongings
from oasisvq.app.pictures import grey_bytes

if TYPE_CHECKING:
    from oasisvq.app.palette import Palette

_KEY = "code grid"
PROPOSALS = "proposals"  # where the page keeps refills to choose from
_EDITOR, _ORIGIN, _BEFORE = "editor", "origin", "picture before"

_HERE = Path(__file__)
_mount = st.components.v2.component(
    "oasisvq_code_grid",
    html=_HERE.with_suffix(".html").read_text(),
    css=_HERE.with_suffix(".css").read_text(),
    js=_HERE.with_suffix(".js").read_text(),
)


def current() -> Editor | None:
    """The editor of this session, if a picture was opened."""
    return belongings().get(_EDITOR)


def origin() -> Origin | None:
    """Where the codes came from, if a link may say so."""
    return belongings().get(_ORIGIN)


def open_codes(indices: NDArray[np.integer], origin: Origin | None) -> Editor:
    """Start to edit these codes, (h, w). What is still on its way for the picture before is dropped."""
    belongings()[_ORIGIN] = origin
    belongings().pop(_BEFORE, None)
    return store(editor.start(indices, epoch=uuid4().hex))


def store(state: Editor) -> Editor:
    """Make this the editor of the session."""
    belongings()[_EDITOR] = state
    return state


def before(decode: Callable[[NDArray[np.int64]], NDArray[np.floating]]) -> NDArray[np.floating]:
    """The picture before the edits, decoded once."""
    mine = belongings()
    if _BEFORE not in mine:
        mine[_BEFORE] = decode(mine[_EDITOR].original)
    return mine[_BEFORE]


def close() -> None:
    """Forget the picture, its codes and its history."""
    for name in (_EDITOR, _ORIGIN, _BEFORE, PROPOSALS):
        belongings().pop(name, None)


def catch_up(codebook_size: int) -> Editor | None:
    """Apply whatever the browser has sent."""
    state = current()
    queue = st.session_state.get(_KEY, {}).get("queue")
    if state is not None and queue:
        state = store(editor.reduce(state, queue["epoch"], queue["operations"], codebook_size))
    return state


def code_grid(state: Editor, now: NDArray[np.floating], before: NDArray[np.floating], palette: Palette) -> None:
    """Show the pictures (S, S) in [0, 1] that the codes decode to, now and before the edits, to be painted on."""
    height, width = state.indices.shape

    def caught_up() -> None:  # a callback runs before the page, and even when the user has left it meanwhile
        catch_up(len(palette.order))

    _mount(
        key=_KEY,
        data={
            "epoch": state.epoch,
            "ack": state.ack,
            "width": width,
            "height": height,
            "indices": state.indices.ravel().tolist(),
            "original": state.original.ravel().tolist(),
            "selection": np.flatnonzero(state.selection).tolist(),
            "undo": bool(state.past),
            "redo": bool(state.future),
            "image": _grey(now),
            "before": _grey(before),
            "palette": _grey(palette.tiles.reshape(-1, palette.tiles.shape[2]))
            | {"tile": palette.tiles.shape[1], "columns": palette.columns},
            "order": palette.order.tolist(),
        },
        on_queue_change=caught_up,
    )


def _grey(picture: NDArray[np.floating]) -> dict[str, Any]:
    height, width = picture.shape
    content = base64.b64encode(grey_bytes(picture).tobytes()).decode()
    return {"bytes": content, "width": width, "height": height}
