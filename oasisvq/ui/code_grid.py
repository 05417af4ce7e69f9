"""The code grid in the browser (code_grid.html, .css, .js) and its tie to the reducer."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from oasisvq.ui import editor
from oasisvq.ui.editor import Editor
from oasisvq.ui.palette import Palette
from oasisvq.ui.pictures import grey_bytes

_KEY = "code grid"
_EDITOR = "editor"

_HERE = Path(__file__)
_mount = st.components.v2.component(
    "oasisvq_code_grid",
    html=_HERE.with_suffix(".html").read_text(),
    css=_HERE.with_suffix(".css").read_text(),
    js=_HERE.with_suffix(".js").read_text(),
)


def current() -> Editor | None:
    """The editor of this session, if a picture was opened."""
    return st.session_state.get(_EDITOR)


def open_codes(indices: NDArray[np.integer]) -> None:
    """Start to edit these codes, (h, w). What is still on its way for the picture before is dropped."""
    store(editor.start(indices, epoch=uuid4().hex))


def store(state: Editor) -> None:
    """Make this the editor of the session."""
    st.session_state[_EDITOR] = state


def close() -> None:
    """Forget the picture, its codes and its history."""
    st.session_state.pop(_EDITOR, None)


def catch_up(codebook_size: int) -> Editor:
    """Apply whatever the browser has sent."""
    state = st.session_state[_EDITOR]
    queue = st.session_state.get(_KEY, {}).get("queue")
    if queue:
        state = editor.reduce(state, queue["epoch"], queue["operations"], codebook_size)
        store(state)
    return state


def code_grid(state: Editor, picture: NDArray[np.floating], palette: Palette) -> None:
    """Show the picture (S, S) in [0, 1] that the codes decode to, with the grid to paint on."""
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
            "image": _grey(picture),
            "palette": _grey(palette.tiles.reshape(-1, palette.tiles.shape[2])) | {"tile": palette.tiles.shape[1]},
            "order": palette.order.tolist(),
        },
        on_queue_change=caught_up,
    )


def _grey(picture: NDArray[np.floating]) -> dict[str, Any]:
    height, width = picture.shape
    content = base64.b64encode(grey_bytes(picture).tobytes()).decode()
    return {"bytes": content, "width": width, "height": height}
