"""Edits of codes that are more than strokes: prepared ones, transplants, a path between two slices.

A prepared edit warps the picture; the warped picture is encoded, and the cells that it touched take their new codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oasisvq.app.codes import Codes, depth, join, split

if TYPE_CHECKING:
    from oasisvq.models.presets import Preset
    from oasisvq.pipeline import OasisVQ

Picture = NDArray[np.floating]  # (S, S) in [0, 1]
Places = NDArray[np.floating]  # (2, S, S): row and column of a pixel

BRAIN = 0.08  # brighter than this; holes filled
DARK = 0.5  # of the brain's median: darker than this is fluid
SMALL = 0.2  # of the largest piece of fluid: smaller ones are folds of the cortex
STEP = 0.025  # of the slice's side by which a border moves
RIM = 0.008  # of the side: as far as a border is blurred


def bend(model: OasisVQ, indices: Codes, picture: Picture, sources: Places) -> Codes:
    """The codes of the picture with each pixel taken from its source; cells in which nothing moves keep theirs."""
    import torch

    bent = ndimage.map_coordinates(picture, sources, order=1, mode="nearest").astype(np.float32)
    again = model.encode(torch.from_numpy(bent - np.float32(0.5)).clamp(-0.5, 0.5)[None, None])[0].numpy()
    moved: NDArray[np.bool_] = np.abs(sources - _nowhere(picture)).max(0) > 0.25
    return np.where(_cells(model.preset, moved), again, indices)


def wider_ventricles(picture: Picture) -> Places:
    """The ventricles grow outward, and the tissue round them is pushed away."""
    brain = _brain(picture)
    inside = ndimage.distance_transform_edt(brain) > 0.12 * len(picture)
    if not inside.any():
        return _nowhere(picture)
    bright = np.median(picture[brain])
    rows, columns = _nowhere(picture) - np.reshape(ndimage.center_of_mass(brain), (2, 1, 1))
    near = np.hypot(rows, columns) < 0.2 * len(picture)
    pieces, count = ndimage.label(inside & near & (picture < DARK * bright))
    if not count:
        return _nowhere(picture)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    return _towards(np.asarray(sizes >= SMALL * sizes.max())[pieces])


def thinner_cortex(picture: Picture) -> Places:
    """The surface moves inward, and the layer below it is compressed."""
    brain = _brain(picture)
    return _towards(np.asarray(~brain)) if brain.any() else _nowhere(picture)


def halves(preset: Preset, left: Codes, right: Codes) -> Codes:
    """The left half of one slice beside the right half of another."""
    joined = []
    for one, other in zip(split(preset, left), split(preset, right), strict=True):
        half = one.shape[1] // 2
        joined.append(np.concatenate([one[:, :half], other[:, half:]], 1))
    return join(preset, joined)


def beneath(preset: Preset, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Marked codes (h, w), and in finer parts also those of the cells that lie in a marked cell of the first."""
    first, *finer = split(preset, mask.astype(np.int64))
    wide = depth(first)
    cells: NDArray[np.bool_] = np.asarray(first.reshape(len(first), -1, wide).any(2))
    marked = [first.astype(bool)]
    for part in finer:
        rows, repeat = len(part), depth(part)
        at = (np.arange(rows) * len(cells)) // rows
        marked.append(part.astype(bool) | cells[at][:, at].repeat(repeat, 1))
    return join(preset, marked)


def mirrored(preset: Preset, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (h, w) of codes, left and right exchanged cell by cell."""
    flipped = []
    for part in split(preset, mask.astype(np.int64)):
        cells = part.reshape(len(part), -1, depth(part))
        flipped.append(cells[:, ::-1].reshape(part.shape).astype(bool))
    return join(preset, flipped)


def path(model: OasisVQ, start: Codes, end: Codes, share: float) -> Codes:
    """Interpolate two slices in codebook space: in each cell the code nearest to their mean, weighted by `share`."""
    import torch

    walked = []
    ends = zip(model.stages, split(model.preset, start), split(model.preset, end), strict=True)
    with torch.inference_mode():
        for stage, one, other in ends:
            quantiser = stage.vqvae.quantiser
            first, last = (quantiser.lookup(torch.from_numpy(part)[None].to(stage.device)) for part in (one, other))
            walked.append(quantiser(first.lerp(last, share)).indices[0].cpu().numpy())
    if share in (0, 1):  # exactly, whatever rounding does
        return end if share else start
    return join(model.preset, walked)


def _cells(preset: Preset, touched: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels (S, S) -> codes (h, w) of the cells that they lie in."""
    masks = []
    for rows, columns in preset.parts:
        edges = (np.arange(rows) * preset.size) // rows
        of_rows = np.logical_or.reduceat(touched, edges, 0)
        cells = np.logical_or.reduceat(of_rows, edges, 1)
        masks.append(cells.repeat(columns // rows, 1))
    return join(preset, masks)


def _brain(picture: Picture) -> NDArray[np.bool_]:
    return ndimage.binary_fill_holes(picture > BRAIN)


def _nowhere(picture: Picture) -> Places:
    return np.indices(picture.shape).astype(float)


def _towards(region: NDArray[np.bool_]) -> Places:
    """Sources that let a region grow by STEP: a pixel near it looks towards it, less the farther away it is."""
    step = STEP * len(region)
    distance, nearest = ndimage.distance_transform_edt(~region, return_indices=True)
    here = np.indices(region.shape).astype(float)
    share = np.clip(1 - distance / (3 * step), 0, 1) * step / np.maximum(distance, 1e-9)
    # Right at the border the source lies inside the region, as far as the border moves.
    sources = np.where(region, here, here + (nearest - here) * share)
    # The blurred rim of the region would stay as a ring: what comes from there comes from deeper inside.
    core = ndimage.binary_erosion(region, iterations=max(1, round(RIM * len(region))), border_value=1)
    if not core.any():
        return sources
    row, column = np.rint(sources).astype(int)
    deeper = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    return np.where(region[row, column], deeper[:, row, column], sources)
