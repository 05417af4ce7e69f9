"""Controls that pages share."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from oasisvq.app import address, wording
from oasisvq.app.choose import EXAMPLE, SLICE_NAME, SOURCE

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from oasisvq.app.drawing import Drawn

LARGEST_SEED = 2**31 - 1
UNKNOWN = ""  # no rating; a selector shows None as nothing chosen


def new_seed() -> None:
    """Another slice or head, by chance."""
    st.session_state["seed"] = secrets.randbelow(LARGEST_SEED)


def controls_of(drawn: Drawn, rows: str) -> dict[str, object]:
    """What the controls of Generate say when it shows a draw; `rows` is the key of the rows of its upper part."""
    values: dict[str, object] = {
        name: drawn.settings[name] for name in ("seed", "level", "temperature", "top_k", "grade")
    }
    if values["grade"] is None:
        values["grade"] = UNKNOWN
    example = (drawn.origin or {}).get("example")
    if drawn.origin and example:
        values |= {SOURCE: EXAMPLE, SLICE_NAME: example, rows: int(drawn.origin["rows"])}
    return values | {"begin": example is not None}


def choose_grade(place: DeltaGenerator, grades: Sequence[float]) -> float | str:
    """One of these ratings, or UNKNOWN; the address decides, and the page writes it."""
    address.follow("grade", UNKNOWN, address.one_of([UNKNOWN, *grades]))
    if not grades:
        return UNKNOWN
    options: list[float | str] = [UNKNOWN, *grades]
    return place.selectbox(
        "Clinical dementia rating",
        options,
        format_func=lambda grade: wording.grade(None if grade == UNKNOWN else grade),
        key="grade",
        persist_state="session",
        help="Ratings (CDR) of people in the training data. Few of them had the highest.",
    )
