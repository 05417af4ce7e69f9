"""The map of the page Surprise; its session keeps the last one, so that controls move without it being made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from oasisvq.app.codes import depth, split
from oasisvq.app.models import compute_slot, session_store

if TYPE_CHECKING:
    from torch import Tensor

    from oasisvq.measure.out_of_distribution import Unlike
    from oasisvq.pipeline import OasisVQ

_KEPT = "map of surprise"


@dataclass(frozen=True)
class SurpriseMap:
    """How unusual a slice is for the model.

    Attributes:
        indices: (1, h, w), its codes.
        bits: those of each code, in the same order.
        cells: the map, rows and columns of cells; of a cascade those of its coarse stage, which holds the anatomy.
        unlike: how it compares with people outside the training data; None where the weights carry no calibration.
    """

    indices: Tensor
    bits: NDArray[np.floating]
    cells: NDArray[np.floating]
    unlike: Unlike | None


def surprise_map(model: OasisVQ, slices: Tensor, level: int | None, deviations: bool) -> SurpriseMap:
    """The mean bits of the codes of each cell, or how far they deviate from what was expected.

    Args:
        slices: (1, 1, S, S) in [-0.5, 0.5].
        level: None when it is not given.
        deviations: in standard deviations, see `oasisvq.measure.atypical.unusual`, instead of bits.

    Takes a compute slot.
    """
    from oasisvq.measure import out_of_distribution
    from oasisvq.measure.atypical import unusual

    asked = slices.numpy().tobytes(), level, deviations
    found: SurpriseMap
    before, found = session_store().get(_KEPT, (None, None))
    if before != asked:
        with compute_slot(urgent=True):  # short: a head that is being drawn lets it go first
            coded = model.reconstruct(slices)
            surprise = model.surprise(coded.indices, level=level)
            bits = surprise[0].numpy()
            first = split(model.preset, bits)[0]
            if deviations:
                cells = unusual(model, slices, level)[0].numpy()[:, :: depth(first)]
            else:
                cells = first.reshape(len(first), -1, depth(first)).mean(2)
            unlike = None
            if out_of_distribution.calibrated(model):
                level_unknown = surprise if level is None else model.surprise(coded.indices)
                [unlike] = out_of_distribution.unlike(model, slices, (coded, level_unknown))
        found = SurpriseMap(coded.indices, bits, cells, unlike)
        session_store()[_KEPT] = asked, found
    return found


def forget_private() -> None:
    """Let go of the map: it may be of an upload."""
    session_store().pop(_KEPT, None)
