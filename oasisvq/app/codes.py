"""The codes of a slice and their parts: a coarse grid and then a fine one, or a single grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # torch takes longer to import than a first visitor should wait
    from oasisvq.models.presets import Preset

Codes = NDArray[np.int64]
PARTS = {1: ("Codes",), 2: ("Coarse codes", "Fine codes")}  # what to call them, by how many there are


def split(preset: Preset, indices: NDArray[Any]) -> list[NDArray[Any]]:
    """Codes of a slice, or values of each, (h, w) -> the grid of each part, in the order of sampling."""
    import torch

    return [part[0].numpy() for part in preset.split(torch.from_numpy(indices)[None])]


def join(preset: Preset, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Inverse of `split`; also of masks, bool."""
    import torch

    return preset.join([torch.from_numpy(np.ascontiguousarray(part))[None] for part in parts])[0].numpy()


def below(preset: Preset, rows: int) -> NDArray[np.bool_]:
    """(h, w): the codes below the first `rows` rows of the first part, and those at the same height of the others."""
    share = rows / preset.parts[0][0]
    masks = [
        np.broadcast_to(np.arange(height)[:, None] >= round(share * height), (height, width))
        for height, width in preset.parts
    ]
    return join(preset, masks)


def most(preset: Preset) -> Codes:
    """(h, w): how many codes the codebook of each place has."""
    return join(preset, [np.full(stage.grid, stage.codebook_size) for stage in preset.stages])


def depth(part: Codes) -> int:
    """How many codes of a part lie side by side in a cell: cells are square."""
    return max(1, part.shape[1] // part.shape[0])
