"""Every code of the codebook as a small picture, in an order that an eye can search."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from oasisvq.pipeline import OasisVQ

COLUMNS = 32
_PATCH = 5  # cells of one code side by side: as far as the decoder's view of the middle cell matters


class Palette(NamedTuple):
    """Pictures `tiles` (K, t, t) in [0, 1]; `order` (K,) codes from dark to bright; `rank` (K,) its inverse;
    `background` the code of an empty slice."""

    tiles: NDArray[np.floating]
    order: NDArray[np.int64]
    rank: NDArray[np.int64]
    background: int


@torch.inference_mode()
def make_palette(model: OasisVQ) -> Palette:
    """Decode each code among its likes and keep the middle cell."""
    size, preset = model.preset.codebook_size, model.preset
    grids = torch.arange(size, device=model.device)[:, None, None].expand(size, _PATCH, _PATCH)
    pictures = torch.cat([model.vqvae.decode(part) for part in grids.split(64)]).squeeze(1).cpu().numpy() + 0.5
    cell = preset.size // preset.grid
    middle = slice(_PATCH // 2 * cell, (_PATCH // 2 + 1) * cell)
    tiles = pictures[:, middle, middle]
    empty = torch.full((1, 1, preset.size, preset.size), -0.5)
    order = _order(tiles)
    return Palette(tiles, order, np.argsort(order), int(model.encode(empty)[0, 0, 0]))


def _order(tiles: NDArray[np.floating]) -> NDArray[np.int64]:
    """Rows of like brightness, dark to bright; within a row from bright on the left to bright on the right."""
    by_brightness = np.argsort(tiles.mean((1, 2)), kind="stable")
    half = tiles.shape[2] // 2
    slope = tiles[:, :, half:].mean((1, 2)) - tiles[:, :, :half].mean((1, 2))
    rows = [by_brightness[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    return np.concatenate([row[np.argsort(slope[row], kind="stable")] for row in rows])
