"""Words and figures that explain themselves: hover over them, or reach them by keyboard, and their meaning appears."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

# In a clinician's words. `term` finds them here.
GLOSSARY = {
    "code": "A number that stands for a small patch of a slice. It points to an entry of the codebook.",
    "codebook": "The list of patches that the model learned by itself. Every slice is put together from them.",
    "decoder": "The part of the model that turns a grid of codes into a picture.",
    "prior": "The part of the model that learned which codes tend to follow which: it says how likely a grid is.",
    "bits": "What it takes to name a code for somebody who knows the prior. 1 bit: expected half of the time. 10 bits: "
    "once in 1,024. Many bits mean that a code is unusual for this model.",
    "level": "Which of 32 slices of a head, 0 the lowest and 31 the highest, about 2 mm apart.",
    "SSIM": "Structural similarity of two pictures: 1 when they are equal, near 0 when they have nothing in common.",
    "temperature": "How much a draw may stray from the likeliest codes. 1: as learned, less: safer, more: bolder.",
    "top-k": "At each step only the k likeliest codes may be drawn.",
    "grade": "Clinical dementia rating of the person, 0 for none to 2 for moderate.",
    "seed": "The number from which chance starts: the same seed gives the same slice.",
    "window": "Which range of grey values is spread from black to white.",
}


class Figure(NamedTuple):
    """A measured value: what to call it, the value as text, what it means."""

    label: str
    value: str
    meaning: str


def explained(text: str, meaning: str) -> str:
    """HTML: the text, whose meaning appears on hover and on focus."""
    return (
        f'<span class="term" tabindex="0">{escape(text)}<span class="meaning" role="tooltip">{escape(meaning)}</span>'
        "</span>"
    )


def term(name: str, text: str | None = None) -> str:
    """HTML: a word of the glossary, or another text in its place."""
    return explained(text or name, GLOSSARY[name])


def in_one_line(figures: Iterable[Figure]) -> str:
    """HTML: figures side by side, each explained on hover."""
    items = (
        f'<span class="figure">{explained(figure.label, figure.meaning)} <b>{escape(figure.value)}</b></span>'
        for figure in figures
    )
    return f'<p class="figures">{" ".join(items)}</p>'
