"""What a code means, for the page Edit codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oasisvq.pipeline import OasisVQ


def meaning_of(model: OasisVQ, layer: int, code: int) -> Mapping[str, Any] | None:
    """Of a code of a part: `code`, `text`, and `places`, a map in [0, 1] of where it occurs. None where nothing is
    known."""
    found = model.info.get("codes")
    if not found or not 0 <= layer < len(found["stages"]) or not 0 <= code < len(found["stages"][layer]["share"]):
        return None
    from oasisvq.measure.usage import FEWEST, places

    stage = found["stages"][layer]
    people, share = stage["people"][code], stage["share"][code]
    if people < FEWEST:
        text = f"It occurs in fewer than {FEWEST} of {found['people']} people of the training data."
    else:
        after = ", ".join(map(str, stage["next"][code]))
        text = (
            f"It occurs in {people} of {found['people']} people of the training data, as {share:.2%} of their codes. "
            f"The map shows where in the slice. To its right the prior expects {after}."
        )
    return {"code": code, "text": text, "places": places(stage, code)}
