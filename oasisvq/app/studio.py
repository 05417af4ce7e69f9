"""Edit codes beyond strokes: refills, transplants, prepared edits, interpolation, likely codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from oasisvq.app import code_grid, editor, edits
from oasisvq.app.choose import bundled, in_model_size
from oasisvq.app.code_grid import Fill, beside, current, store
from oasisvq.app.codes import Codes
from oasisvq.app.editor import Editor
from oasisvq.app.gallery import EIGHT, fresh
from oasisvq.app.meaning import meaning_of
from oasisvq.app.models import compute_slot, session_store
from oasisvq.app.pictures import Picture
from oasisvq.app.workers import bits_apart
from oasisvq.pipeline import OasisVQ

PROPOSALS = 4
# Prepared edits, each of what the slice is by then: what to call them, and what they do.
TRIES = {
    "ventricles": ("Wider ventricles", "The fluid in the middle grows, and pushes the tissue round it aside"),
    "cortex": ("Thinner cortex", "The surface moves inward, and the layer below it is compressed"),
    "half": ("Half of a drawn slice", "The right half of the picture becomes that of a drawn slice"),
}
DRAWN = "A drawn slice"  # at the end of a path
_SEED, _COST = "seed of the next refill", "bits before"
_PATH_STROKE = -1  # all steps along a path are one to undo


class Studio:
    """The codes that this session edits, and the model for them."""

    def __init__(self, model: OasisVQ) -> None:
        self.model, self.preset = model, model.preset

    def codes_of(self, example: str) -> Codes | None:
        """A bundled example as codes, (h, w)."""
        if example not in bundled():
            return None
        chosen = in_model_size(example, bundled()[example], self.preset.size)
        return self.model.encode(chosen.tensor)[0].numpy()

    def picture_of(self, indices: Codes) -> Picture:
        """What codes decode to, (S, S) in [0, 1]."""
        return self.model.decode(torch.from_numpy(indices)[None])[0, 0].numpy() + np.float32(0.5)

    def cost(self, state: Editor) -> tuple[float, float]:
        """Bits under the prior, now and before the edits."""
        if session_store().get(_COST, ("", 0.0))[0] != state.epoch:  # of the start: computed once
            session_store()[_COST] = (state.epoch, bits_apart(self.model, state.original))
        before = session_store()[_COST][1]
        same = np.array_equal(state.indices, state.original)
        return before if same else bits_apart(self.model, state.indices), before

    def ask(self, wanted: Mapping[str, Any]) -> None:
        """Answers a request of the browser. A callback, so that nothing interrupts it."""
        state = current()
        if state is None:
            return
        match wanted.get("kind"):
            case "propose":
                self.propose(state)
            case "use":
                code_grid.take(self.preset, int(wanted["number"]))
            case "dismiss":
                beside(asked=None, fills=(), likely=None)
            case "layer":
                beside(layer=int(wanted["number"]), likely=None, meaning=None)  # 48 is another code in another layer
            case "copy":
                code_grid.copy(edits.beneath(self.preset, state.selection), state.indices)
            case "paste" | "mirror" as how:
                self.transplant(how == "mirror")
            case "try":
                self.attempt(state, str(wanted["name"]))
            case "likely":
                place = min(max(int(wanted["place"]), 0), self.preset.codes - 1)
                with compute_slot(urgent=True):
                    codes, shares = self.model.likely(torch.from_numpy(state.indices)[None], place)
                beside(likely=(place, list(zip(codes.tolist(), shares.tolist(), strict=True))), fills=())
            case "meaning":
                beside(meaning=meaning_of(self.model, beside().layer, int(wanted["code"])))

    def propose(self, state: Editor) -> None:
        """Draw the selected cells again, several times over."""
        if not state.selection.any():
            return
        selection = edits.beneath(self.preset, state.selection)
        seed = session_store().get(_SEED, 0)
        grid, mask = torch.from_numpy(state.indices)[None], torch.from_numpy(selection)
        fills = []
        for i in range(PROPOSALS):
            with compute_slot():  # for each: others need not wait for all of them
                filled = self.model.refill(grid, mask, seed=seed + i)
            fills.append(Fill(filled.indices[0].numpy(), filled.slices[0, 0].numpy() + np.float32(0.5)))
        session_store()[_SEED] = seed + PROPOSALS
        beside(asked=editor.select(state, selection), fills=fills, likely=None)

    def transplant(self, mirror: bool) -> None:
        """Paste copied cells in their place, or mirrored on the other side."""
        if (source := code_grid.copied()) is None:
            return
        mask, codes = source.mask, source.indices
        if mirror:
            mask = edits.mirrored(self.preset, mask)
            with compute_slot(urgent=True):
                flipped = torch.from_numpy(self.picture_of(codes)[:, ::-1].copy() - np.float32(0.5))
                codes = self.model.encode(flipped[None, None])[0].numpy()
        code_grid.paste(mask, codes)

    def attempt(self, state: Editor, name: str) -> None:
        """One of TRIES."""
        if name == "half":
            codes = edits.halves(self.preset, state.indices, fresh(self.model, EIGHT // 2).indices)
        else:
            with compute_slot(urgent=True):
                picture = self.picture_of(state.indices)
                sources = edits.wider_ventricles(picture) if name == "ventricles" else edits.thinner_cortex(picture)
                codes = edits.bend(self.model, state.indices, picture, sources)
        store(editor.put(state, codes))

    def walk(self, other: str, share: float) -> None:
        """Interpolate from the picture at the start of the path to an example or a drawn slice, `share` of the way."""
        if (state := code_grid.catch_up(self.preset)) is None:
            return
        mine = session_store()
        kept = mine.get(code_grid.PATH)
        # What was painted since the last step is where a new path starts.
        if kept is None or kept[:2] != (state.epoch, other) or not np.array_equal(kept[3], state.indices):
            kept = (state.epoch, other, state.indices, state.indices)
        drawn = fresh(self.model, EIGHT // 2).indices if other == DRAWN else None  # takes a slot of its own
        with compute_slot(urgent=True):
            end = drawn if drawn is not None else self.codes_of(other)
            if end is None:
                return
            codes = edits.path(self.model, kept[2], end, share)
        mine[code_grid.PATH] = (*kept[:3], codes)
        store(editor.put(state, codes, stroke=_PATH_STROKE))
