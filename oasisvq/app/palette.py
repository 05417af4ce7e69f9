"""Every code of the codebook as a small picture, sorted so that one can be found by eye."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from oasisvq.pipeline import OasisVQ

_PATCH = 5  # cells of one code side by side: as far as the decoder's view of the middle cell matters


class Palette(NamedTuple):
    """Pictures `tiles` (K, t, t) in [0, 1]; `order` (K,) codes from dark to bright, to be shown in rows of `columns`;
    `rank` (K,) its inverse; `background` (h, w) the codes of an empty slice."""

    tiles: NDArray[np.floating]
    order: NDArray[np.int64]
    columns: int
    rank: NDArray[np.int64]
    background: NDArray[np.int64]


@torch.inference_mode()
def make_palette(model: OasisVQ) -> Palette:
    """Decode each code surrounded by copies of itself, without refinement, and keep the middle cell.

    Of a cascade these are the codes of its last stage, as the detail that they add to an even grey.
    """
    size, preset = model.preset.codebook_size, model.preset
    quiet = model.vqvae.quantiser.nearest(torch.zeros(1, preset.code_dim, device=model.device))
    grids = quiet.expand(size, _PATCH, _PATCH, preset.depth).clone()
    grids[..., 0] = torch.arange(size, device=model.device)[:, None, None]
    side = _PATCH * preset.cell
    even = torch.zeros(1, 1, side, side, device=model.device) if model.coarse else None
    pictures = torch.cat(
        [
            model.vqvae.decode(part.flatten(2), None if even is None else even.expand(len(part), -1, -1, -1))
            for part in grids.split(64)
        ]
    )
    pictures01 = pictures.squeeze(1).cpu().numpy() + 0.5
    middle = slice(_PATCH // 2 * preset.cell, (_PATCH // 2 + 1) * preset.cell)
    tiles = pictures01[:, middle, middle]
    empty = torch.full((1, 1, preset.size, preset.size), -0.5)
    columns = 32 if size <= 1024 else 64
    order = _order(tiles, columns)
    background = preset.split(model.encode(empty))[-1][0].numpy()
    return Palette(tiles, order, columns, np.argsort(order), background)


def _order(tiles: NDArray[np.floating], columns: int) -> NDArray[np.int64]:
    """Rows of similar brightness, dark to bright; within a row from bright on the left to bright on the right."""
    by_brightness = np.argsort(tiles.mean((1, 2)), kind="stable")
    half = tiles.shape[2] // 2
    slope = tiles[:, :, half:].mean((1, 2)) - tiles[:, :, :half].mean((1, 2))
    rows = [by_brightness[i : i + columns] for i in range(0, len(tiles), columns)]
    return np.concatenate([row[np.argsort(slope[row], kind="stable")] for row in rows])
