"""The tour: a minute through the app, each step a real state of a page, which its address alone restores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Step(NamedTuple):
    """A page, the settings that its address holds, and what to look at."""

    page: str
    settings: Mapping[str, str]
    say: str


STEPS = (
    Step(
        "Reconstruct",
        {},
        "On the left a slice, on the right its reconstruction from codes. Press Difference, then SSIM: what was lost?",
    ),
    Step(
        "Generate",
        {"seed": "7", "level": "17"},
        "The prior draws a slice that belongs to nobody, code by code. Levels draws the same seed at other levels.",
    ),
    Step(
        "Generate",
        {"seed": "7", "level": "17", "temperature": "1.4"},
        "The same seed at temperature 1.4: now the prior strays further from what is likely.",
    ),
    Step("Edit codes", {}, "Press Wider ventricles: only the outlined cells change. Then paint a code of your own."),
    Step(
        "Surprise",
        {},
        "A dark disc was painted into this slice. The map lights up there; on the right is one draw of what the model "
        "expected.",
    ),
    Step("Real or drawn?", {}, "Which of ten pictures did the model draw? Guess. This is the end of the tour."),
)


def step_in(text: str | None) -> int | None:
    """The step that the address of a page asks for, from 0; None for no tour."""
    number = int(text) - 1 if text and len(text) < 3 and text.isdecimal() else -1
    return number if 0 <= number < len(STEPS) else None


def address_of(number: int) -> tuple[str, dict[str, str]]:
    """Page and query of a step."""
    step = STEPS[number]
    return step.page, {**step.settings, "tour": str(number + 1)}
