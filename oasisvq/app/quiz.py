"""Real or drawn? A round of pictures to guess: reconstructions of examples that may be shown, and draws.

Nothing of it is kept but in the session of whoever guesses.
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
    """A picture (S, S) in [0, 1] to guess, whether it was drawn, and how one could have known."""

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
    items = [Item(picture, False, _why_real(name)) for name, picture in zip(names, again, strict=True)]
    for picture, level in zip(drawn, levels, strict=True):
        items.append(Item(picture, True, _why_drawn(anatomy(picture)[symmetry], float(np.mean(known)), level)))
    return [items[i] for i in rng.permutation(len(items))]


def _why_real(name: str) -> str:
    what, _, _ = name.partition(",")
    if what.startswith("MNI152"):
        return (
            "A reconstruction of the MNI152 template. It is the mean of many heads: its cortex is smooth, and its "
            "halves are nearly mirror images."
        )
    return (
        f"A reconstruction of {what}. Phantoms are bent from the template: their grey and white matter differ more, "
        "and their borders are crisper, than those of people."
    )


def _why_drawn(symmetry: float, others: float, level: int | None) -> str:
    start = f"A draw of level {level}. "
    if symmetry < others - LESS_ALIKE:
        return (
            f"{start}Its halves agree less (correlation {symmetry:.2f}) than those of the reconstructions in this "
            f"round ({others:.2f}): the prior draws from the top, row by row, and must remember the other side."
        )
    return (
        f"{start}Its halves agree as well as those of the reconstructions ({symmetry:.2f}): look at single folds of "
        "the cortex, which in draws may end where no fold ends."
    )
