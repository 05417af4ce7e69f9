"""The code editor as a pure reducer: a state, and what each operation from the browser makes of it.

The browser numbers its operations and resends all that are not acknowledged, so an operation may arrive late or many
times but is applied once, in order: `reduce` takes those with a number above `ack` and moves `ack` along. Operations
made on another picture carry another `epoch` and are dropped with it. Nothing here knows Streamlit or a browser.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oasisvq.errors import OasisVQError

UNDO_DEPTH = 200


@dataclass(frozen=True)
class Editor:
    """One picture being edited. Arrays are (h, w) and never written to; every change makes a new state.

    Attributes:
        epoch: name of this picture; operations of any other are dropped.
        original: indices before the first edit, int64.
        indices: indices now, int64.
        selection: cells marked for a refill, bool.
        ack: number of the last operation applied.
        stroke: the stroke the newest undo step came from, so that the pieces of a long stroke are one step.
        past, future: indices to undo and redo to, newest last.
    """

    epoch: str
    original: np.ndarray
    indices: np.ndarray
    selection: np.ndarray
    ack: int = 0
    stroke: int | None = None
    past: tuple[np.ndarray, ...] = ()
    future: tuple[np.ndarray, ...] = ()

    @property
    def changed(self) -> np.ndarray:
        """Bool (h, w): cells that differ from the original."""
        return self.indices != self.original


def start(indices: np.ndarray, epoch: str) -> Editor:
    """An editor on these indices, (h, w), with nothing selected and nothing to undo."""
    indices = np.asarray(indices, dtype=np.int64)
    return Editor(epoch=epoch, original=indices, indices=indices, selection=np.zeros(indices.shape, dtype=bool))


def reduce(editor: Editor, epoch: str, operations: Iterable[Mapping[str, Any]], most: np.ndarray | int) -> Editor:
    """Apply what the browser sent: mappings with `seq`, `kind` and, by kind, `cells`, `code`, `stroke`.

    Kinds: `paint` cells with a code, `erase` cells to the original, `select` and `deselect` cells, `clear` the
    selection, `undo`, `redo`, `reset`. Cells are numbers in raster order; every code must be below `most`, of
    all places or of each, (h, w).

    Raises OasisVQError on an unknown kind, a cell outside the grid or a code outside the codebook.
    """
    if epoch != editor.epoch:
        return editor
    for operation in sorted(operations, key=lambda operation: operation["seq"]):
        if operation["seq"] > editor.ack:
            editor = replace(_apply(editor, operation, most), ack=operation["seq"])
    return editor


def put(editor: Editor, indices: np.ndarray, stroke: int | None = None) -> Editor:
    """Set all indices as one undo step; as part of the step before when it came from the same stroke."""
    if np.array_equal(indices, editor.indices):
        return editor
    same = stroke is not None and stroke == editor.stroke
    past = editor.past if same else (*editor.past, editor.indices)[-UNDO_DEPTH:]
    return replace(editor, indices=indices, stroke=stroke, past=past, future=())


def select(editor: Editor, mask: np.ndarray) -> Editor:
    """Mark these cells, bool (h, w), and no others."""
    return replace(editor, selection=mask)


def _apply(editor: Editor, operation: Mapping[str, Any], most: np.ndarray | int) -> Editor:
    match operation["kind"]:
        case "paint":
            code, mask = operation["code"], _mask(editor, operation)
            if code < 0 or (mask & (code >= most)).any():
                raise OasisVQError(f"code {code} is not in the codebook of {np.max(most)}: reload the page")
            return put(editor, np.where(mask, code, editor.indices), operation["stroke"])
        case "erase":
            return put(editor, np.where(_mask(editor, operation), editor.original, editor.indices), operation["stroke"])
        case "select":
            return replace(editor, selection=editor.selection | _mask(editor, operation))
        case "deselect":
            return replace(editor, selection=editor.selection & ~_mask(editor, operation))
        case "clear":
            return replace(editor, selection=np.zeros_like(editor.selection))
        case "undo" if editor.past:
            *past, indices = editor.past
            return replace(
                editor, indices=indices, past=tuple(past), future=(*editor.future, editor.indices), stroke=None
            )
        case "redo" if editor.future:
            *future, indices = editor.future
            return replace(
                editor, indices=indices, past=(*editor.past, editor.indices), future=tuple(future), stroke=None
            )
        case "undo" | "redo":
            return editor
        case "reset":
            return put(editor, editor.original)
        case kind:
            raise OasisVQError(f"unknown editor operation {kind!r}: reload the page")


def _mask(editor: Editor, operation: Mapping[str, Any]) -> np.ndarray:
    mask = np.zeros(editor.indices.shape, dtype=bool)
    cells = operation["cells"]
    if not all(0 <= cell < mask.size for cell in cells):
        raise OasisVQError(f"a cell is outside the grid of {mask.size}: reload the page")
    mask.flat[cells] = True
    return mask
