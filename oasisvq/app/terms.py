"""Words and figures that explain themselves: hover over them, or reach them by keyboard, and their meaning appears."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

# In a clinician's words. `term` finds them here.
GLOSSARY = {
    "code": "A number that stands for a small patch of the slice. It points to an entry in the codebook.",
    "codebook": "The list of patches that the model learned during training. Every slice is assembled from them.",
    "decoder": "The part of the model that turns a grid of codes into a picture.",
    "prior": "The part of the model that learned which codes occur together. It says how likely a grid of codes is "
    "and draws new grids.",
    "bits": "How unexpected a code is for the prior. 1 bit: a probability of 1 in 2. 10 bits: 1 in 1,024. Many bits "
    "mean that the code is unusual for this model.",
    "level": "Which of 32 axial slices of the head, 1 mm apart: 0 is the lowest, 31 the highest.",
    "SSIM": "Structural similarity of two pictures, without a unit: 1 when they are identical, near 0 when they have "
    "nothing in common.",
    "temperature": "How far the prior may stray from the likeliest codes. 1: as learned. Lower: more typical slices. "
    "Higher: more varied ones.",
    "top-k": "Only the k likeliest codes may be drawn at each step.",
    "seed": "The start of the random numbers: the same seed with the same settings gives the same slice.",
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
