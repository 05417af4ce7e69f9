"""The player in the browser (player.html, .css, .js): a slice as it is sampled, its codes, and a strip of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import streamlit as st

from oasisvq.app.codes import PARTS, split
from oasisvq.app.component import component, data_url, packed
from oasisvq.app.models import load_palettes
from oasisvq.app.pictures import code_colours, entropy_colours, margin

if TYPE_CHECKING:
    from oasisvq.app.drawing import Drawn
    from oasisvq.pipeline import OasisVQ

SECONDS = 4.0  # that a part takes to appear

_mount = component(__file__)


class Strip(NamedTuple):
    """Other draws beside the one shown: which kinds there are and what to call them, the kind shown, and its draws with
    a word to each."""

    kinds: Mapping[str, str]
    kind: str
    draws: Sequence[tuple[Drawn, str]]


def player(
    model: OasisVQ,
    drawn: Drawn,
    strip: Strip | None = None,
    on_pick: Callable[[Mapping[str, str]], None] | None = None,
    names: tuple[str, str] = ("Codes", "Slice"),
    low: bool = False,
) -> None:
    """Play a draw. `on_pick` is called with {"kind": …} or {"id": …} when another strip or draw is chosen.

    `low` leaves room below for more than the page's own last line; `names` stand over codes and picture.
    """

    def picked() -> None:  # a callback: it runs before the page
        wanted = st.session_state["player"].get("picked")
        if wanted and on_pick:
            on_pick(wanted)

    _mount(
        key="player",
        data={
            "id": drawn.id,
            "name": drawn.name,
            "frames": [data_url(frame) for frame in drawn.frames],
            "at": drawn.at,
            "total": drawn.indices.size,
            "seconds": SECONDS * len(model.preset.parts),
            "play": True,
            "low": low,
            "margin": margin(drawn.picture / 255),
            "parts": _parts(model, drawn),
            "most": round(math.log2(max(stage.codebook_size for stage in model.preset.stages))),
            "codesName": names[0],
            "pictureName": names[1],
            "strip": None
            if strip is None
            else {
                "kinds": list(strip.kinds.items()),
                "kind": strip.kind,
                "items": [
                    {"id": one.id, "name": one.name, "label": label, "source": data_url(one.frames[-1])}
                    for one, label in strip.draws
                ],
            },
        },
        on_picked_change=picked,
    )


def _parts(model: OasisVQ, drawn: Drawn) -> list[dict[str, Any]]:
    parts = split(model.preset, drawn.indices)
    palettes = load_palettes(model)
    first, described = 0, []
    for part, palette, stage, name in zip(parts, palettes, model.preset.stages, PARTS[len(parts)], strict=True):
        entropy = drawn.entropy[first : first + part.size].reshape(part.shape)
        described.append(
            {
                "name": name,
                "rows": part.shape[0],
                "columns": part.shape[1],
                "first": first,
                "colours": packed(code_colours(part, palette.rank, palette.background)),
                "entropy": packed(entropy_colours(entropy, math.log2(stage.codebook_size))),
            }
        )
        first += part.size
    return described
