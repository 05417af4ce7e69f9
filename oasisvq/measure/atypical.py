"""Where a slice is unusual for a model: what the encoder sees there, against what the prior expects to see.

Bits per code ask for the very code that was found, although many codes look nearly alike, and they are high wherever
anatomy varies from person to person. This measure lets near codes count as near, and holds the answer against what the
prior itself expects at that place: 0 is as surprising as expected, 1 is one standard deviation more. The prior reads
from the left and, on the mirrored slice, from the right; both are averaged.

`python -m oasisvq benchmark lesions` measures how well it, and plain bits per code, find lesions painted into held-out
slices; the constants were chosen there on validation people. Unusual for the model is not abnormal: it knows no
disease.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from oasisvq.models.sampling import grids_at_a_time
from oasisvq.models.tokenizer import shrink
from oasisvq.pipeline import OasisVQ

NEARNESS = 0.06  # variance within which codes count as near, over the median squared distance of two codes
LEAST = 0.1  # bits squared, added to the variance that the prior expects: on the background it expects none
SMOOTHING = 0.035  # of the slice's side: standard deviation of the Gaussian over the map
BATCH = 32


def unusual(model: OasisVQ, slices: Tensor, level: int | Tensor | None = None) -> Tensor:
    """How unusual each code is: standard deviations above what the prior expects to see there.

    Args:
        slices: (B, 1, S, S) in [-0.5, 0.5].
        level: of all slices or (B,), 0 to levels - 1. None: unknown.

    Returns:
        (B, h, w * L) float32, the same for all codes of a cell; of a cascade those of its coarse stage.
        The map of a mirrored slice is the mirrored map.

    Raises OasisVQError on another shape, range or level.
    """
    if model.coarse:
        return unusual(model.coarse, shrink(slices, model.coarse.preset.size), level)
    levels = torch.as_tensor(model.preset.levels if level is None else level).long().expand(len(slices))
    some = min(BATCH, grids_at_a_time(model.prior))
    maps = [
        (_one_way(model, part, at) + _one_way(model, part.flip(3), at).flip(2)) / 2
        for part, at in zip(slices.split(some), levels.split(some), strict=True)
    ]
    sigma = SMOOTHING * model.preset.side
    smooth = ndimage.gaussian_filter(torch.cat(maps).numpy(), (0, sigma, sigma)).astype(np.float32)
    return torch.from_numpy(smooth).repeat_interleave(model.preset.depth, 2)


@torch.inference_mode()
def _one_way(model: OasisVQ, slices: Tensor, levels: Tensor) -> Tensor:
    """(B, h, w) of cells, read in raster order: the mean over the codes of each."""
    codebook = model.vqvae.codebook  # (K, D)
    indices = model.encode(slices).to(model.device)  # (B, h, w)
    seen, _ = model.vqvae.assign(slices.to(model.device, torch.float32))  # (B, h, w, D)
    levels = levels.to(model.device)
    logits = model.prior(indices, levels, torch.full_like(levels, len(model.preset.grades)))
    likely = logits.softmax(1).permute(0, 2, 3, 1)  # (B, h, w, K)

    apart = torch.cdist(codebook, codebook).square()
    scale = 2 * NEARNESS * apart[~torch.eye(len(apart), dtype=torch.bool, device=apart.device)].median()
    tiny = torch.finfo(likely.dtype).tiny

    def bits(near: Tensor) -> Tensor:
        return -near.clamp_min(tiny).log2()

    of_codes = bits(likely @ torch.exp(-apart / scale))  # were that code seen
    expected = (likely * of_codes).sum(3)
    variance = (likely * (of_codes - expected[..., None]).square()).sum(3)
    distance = torch.cdist(seen.flatten(0, 2), codebook).square().view_as(likely)
    # In logarithms: what is far from every likely code would be a sum of zeros.
    log_near = torch.logsumexp(likely.clamp_min(tiny).log() - distance / scale, 3)
    of_codes = (-log_near / math.log(2) - expected) / (variance + LEAST).sqrt()  # (B, h, w * L)
    return of_codes.unflatten(2, (-1, model.preset.depth)).mean(3).cpu()
