"""The code grid in the browser (code_grid.html, .css, .js) and its tie to the reducer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from oasisvq.app import editor, links
from oasisvq.app.codes import PARTS, Codes, most, split
from oasisvq.app.component import component, data_url, packed
from oasisvq.app.editor import Editor
from oasisvq.app.links import Origin
from oasisvq.app.models import session_store
from oasisvq.app.pictures import EDITED, RECONSTRUCTION, SYNTHETIC, Picture, grey_bytes, webp

if TYPE_CHECKING:
    from oasisvq.app.palette import Palette
    from oasisvq.models.presets import Preset

_KEY = "code grid"
_EDITOR, _ORIGIN, _BEFORE, _BESIDE = "editor", "origin", "picture before", "beside the grid"
_COPIED = "copied cells"
PATH = "start of the path"  # where the page keeps it

_mount = component(__file__)


class Fill(NamedTuple):
    """A proposal: all codes (h, w), and the picture (S, S) in [0, 1] that they decode to."""

    indices: Codes
    picture: Picture


class Copied(NamedTuple):
    """Cells to paste: a mask and all codes, (h, w), and whether they come from a file of the user's."""

    mask: NDArray[np.bool_]
    indices: Codes
    private: bool


class Beside(NamedTuple):
    """What stands beside the grid.

    Attributes:
        layer: the part that is painted on.
        asked: the editor as it was when proposals were asked for.
        fills: proposals for the cells selected then.
        likely: place of a code, and pairs of a code that could stand there and its probability.
        meaning: of one code: `code`, `text`, and `places`, a map (rows, columns) in [0, 1] of where it occurs.
    """

    layer: int = 0
    asked: Editor | None = None
    fills: Sequence[Fill] = ()
    likely: tuple[int, Sequence[tuple[int, float]]] | None = None
    meaning: Mapping[str, Any] | None = None


def current() -> Editor | None:
    """The editor of this session, if a picture was opened."""
    return session_store().get(_EDITOR)


def origin() -> Origin | None:
    """Where the codes came from, if a link may say so."""
    return session_store().get(_ORIGIN)


def open_codes(indices: NDArray[np.integer], origin: Origin | None) -> Editor:
    """Start to edit these codes, (h, w). Operations still in flight for the previous picture are dropped."""
    session_store()[_ORIGIN] = origin
    for name in (_BEFORE, PATH):
        session_store().pop(name, None)
    beside(asked=None, fills=(), likely=None)
    return store(editor.start(indices, epoch=uuid4().hex))


def store(state: Editor) -> Editor:
    """Make this the editor of the session."""
    session_store()[_EDITOR] = state
    return state


def before(decode: Callable[[Codes], Picture]) -> Picture:
    """The picture before the edits, decoded once."""
    mine = session_store()
    if _BEFORE not in mine:
        mine[_BEFORE] = decode(mine[_EDITOR].original)
    return mine[_BEFORE]


def beside(**changes: Any) -> Beside:
    """What stands beside the grid, changed where that is asked."""
    now = session_store().get(_BESIDE, Beside())._replace(**changes)
    session_store()[_BESIDE] = now
    return now


def copied() -> Copied | None:
    """What can be pasted."""
    return session_store().get(_COPIED)


def copy(mask: NDArray[np.bool_], indices: Codes) -> None:
    """Remember cells to paste."""
    session_store()[_COPIED] = Copied(mask, indices, origin() is None)


def paste(mask: NDArray[np.bool_], indices: Codes) -> None:
    """Put copied cells into the picture. Codes of a file make it one of which nothing is put in a link."""
    now, source = current(), copied()
    if now is not None and source is not None:
        store(editor.put(now, np.where(mask, indices, now.indices)))
        if source.private:
            session_store()[_ORIGIN] = None


def forget_private() -> None:
    """Discard what came from a file of the user's."""
    if (source := copied()) is not None and source.private:
        session_store().pop(_COPIED)
    if origin() is None:
        for name in (_EDITOR, _ORIGIN, _BEFORE, _BESIDE, PATH):
            session_store().pop(name, None)


def catch_up(preset: Preset) -> Editor | None:
    """Apply whatever the browser has sent."""
    state = current()
    queue = st.session_state.get(_KEY, {}).get("queue")
    if state is not None and queue:
        state = store(editor.reduce(state, queue["epoch"], queue["operations"], most(preset)))
    return state


def take(preset: Preset, number: int) -> None:
    """Take a proposal: the cells that were selected then, into the codes as they are by now."""
    now, shown = catch_up(preset), beside()
    if now is not None and shown.asked is not None and now.epoch == shown.asked.epoch and number < len(shown.fills):
        store(editor.put(now, np.where(shown.asked.selection, shown.fills[number].indices, now.indices)))
    beside(asked=None, fills=())


def code_grid(
    preset: Preset,
    state: Editor,
    now: Picture,
    before: Picture,
    palettes: Sequence[Palette],
    tries: Mapping[str, tuple[str, str]],
    on_ask: Callable[[Mapping[str, Any]], None],
) -> None:
    """Show the pictures (S, S) in [0, 1] that the codes decode to, now and before the edits, to be painted on.

    Args:
        palettes: one for each part.
        tries: prepared edits, by name: what to call them, and what they do.
        on_ask: called with requests other than strokes, mappings with `kind`.
    """
    shown = beside()
    layer = min(shown.layer, len(palettes) - 1)
    grids = [split(preset, codes)[layer] for codes in (state.indices, state.original)]
    selection = split(preset, state.selection.astype(np.int64))[layer]
    palette = palettes[layer]
    height, width = grids[0].shape
    edited = bool((state.indices != state.original).any())
    mark = SYNTHETIC if "seed" in (origin() or {}) else RECONSTRUCTION

    def caught_up() -> None:  # a callback runs before the page, and even when the user has left it meanwhile
        catch_up(preset)

    def asked() -> None:
        catch_up(preset)
        if wanted := st.session_state[_KEY].get("asked"):
            on_ask(wanted)

    _mount(
        key=_KEY,
        data={
            "epoch": f"{state.epoch}",
            "ack": state.ack,
            "width": width,
            "height": height,
            "offset": sum(rows * columns for rows, columns in preset.parts[:layer]),
            "title": links.name(origin()),
            "marks": (mark, EDITED if edited else mark),
            "edited": edited,
            "selected": bool(state.selection.any()),
            "layer": layer,
            "layers": PARTS[len(palettes)],
            "indices": grids[0].ravel().tolist(),
            "original": grids[1].ravel().tolist(),
            "selection": np.flatnonzero(selection).tolist(),
            "undo": bool(state.past),
            "redo": bool(state.future),
            "image": _grey(now),
            "before": _grey(before),
            "palette": _grey(palette.tiles.reshape(-1, palette.tiles.shape[2]))
            | {"tile": palette.tiles.shape[1], "columns": palette.columns},
            "order": palette.order.tolist(),
            "tries": [(name, *words) for name, words in tries.items()],
            "copied": copied() is not None,
            "offers": [data_url(webp(fill.picture)) for fill in shown.fills] or None,
            "likely": shown.likely and {"place": shown.likely[0], "codes": shown.likely[1]},
            "meaning": shown.meaning and {**shown.meaning, "places": _grey(shown.meaning["places"])},
        },
        on_queue_change=caught_up,
        on_asked_change=asked,
    )


def _grey(picture: NDArray[np.floating]) -> dict[str, Any]:
    height, width = picture.shape
    return {"bytes": packed(grey_bytes(picture)), "width": width, "height": height}
