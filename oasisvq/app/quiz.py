"""Real or drawn? A round of pictures to guess: reconstructions of the examples, and drawn slices.

It is kept in the session of the visitor alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oasisvq.app.models import compute_slot
from oasisvq.data.examples import level_in

if TYPE_CHECKING:
    from oasisvq.pipeline import OasisVQ

EACH = 5  # reconstructions, and as many draws
LESS_ALIKE = 0.01  # by which two symmetries differ so that an eye may see it


class Item(NamedTuple):
    """A picture (S, S) in [0, 1] to guess, whether it was drawn, and what gives it away."""

    picture: NDArray[np.floating]
    drawn: bool
    why: str


def make_round(model: OasisVQ, examples: Mapping[str, NDArray[np.floating]], seed: int) -> list[Item]:
    """Ten pictures in random order.

    Args:
        examples: pictures (S, S) in [0, 1] by labels that say what they are, at least EACH of them. Some are mirrored,
            so that they are not known by heart.
    """
    import torch

    from oasisvq.measure.realism import MEASURES, anatomy

    rng = np.random.default_rng(seed)
    names = [str(name) for name in rng.choice(sorted(examples), EACH, replace=False)]
    pictures = [examples[name][:, ::-1] if rng.random() < 0.5 else examples[name] for name in names]
    slices = torch.from_numpy(np.ascontiguousarray(np.stack(pictures)) - np.float32(0.5))[:, None]
    with compute_slot():
        again = model.reconstruct(slices).slices[:, 0].numpy() + 0.5
        levels = [level_in(name) for name in names]
        drawn = model.sample(EACH, seed=seed, level=[level or 0 for level in levels]).slices[:, 0].numpy() + 0.5
    symmetry = MEASURES[3]
    known = [anatomy(picture)[symmetry] for picture in again]
    items = [Item(picture, False, why_real(name)) for name, picture in zip(names, again, strict=True)]
    for picture, level in zip(drawn, levels, strict=True):
        items.append(Item(picture, True, why_drawn(anatomy(picture)[symmetry], float(np.mean(known)), level)))
    return [items[i] for i in rng.permutation(len(items))]


def why_real(name: str) -> str:
    """What gives away the reconstruction of an example, by the example's label."""
    what, _, _ = name.partition(",")
    if what.startswith("Colin 27"):
        return (
            f"A reconstruction of {name}: one man, the average of 27 scans. There is almost no noise, and the folds of "
            "the cortex are sharp and continuous."
        )
    if what.startswith("MNI152"):
        return (
            f"A reconstruction of the {name}, the mean of 152 heads: its cortex is smooth, and its halves are nearly "
            "mirror images."
        )
    return (
        f"A reconstruction of a computer-made phantom, {name}. Phantoms are warped from the template: their grey and "
        "white matter differ more, and their borders are crisper, than those of people."
    )


def why_drawn(symmetry: float, others: float, level: int | None) -> str:
    """What gives away a drawn slice: `symmetry` is the correlation of its halves, `others` that of reconstructions."""
    start = f"Drawn by the prior at level {level}. "
    if symmetry < others - LESS_ALIKE:
        return (
            f"{start}Its left and right halves are less alike (correlation {symmetry:.2f}) than those of the "
            f"reconstructions in this round ({others:.2f}): the prior draws row by row from the top, and does not "
            "always match the side that it drew first."
        )
    return (
        f"{start}Its left and right halves are as alike as those of the reconstructions (correlation {symmetry:.2f}). "
        "Look at single folds of the cortex: in drawn slices they may end abruptly."
    )
