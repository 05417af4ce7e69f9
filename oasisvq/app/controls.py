"""Controls that pages share."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from oasisvq.app import address, wording

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

LARGEST_SEED = 2**31 - 1
UNKNOWN = ""  # no rating; a selector shows None as nothing chosen


def new_seed() -> None:
    """Another slice or head, by chance."""
    st.session_state["seed"] = secrets.randbelow(LARGEST_SEED)


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
