"""Between the stages of a cascade: slices made small for the coarse stage, its pictures made large for the fine one."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from oasisvq.models.vqvae import VQVAE


@functools.cache
def _shrinking(before: int, after: int) -> Tensor:
    """The filter of `oasisvq.data.slices.resize` as a matrix, float32 (after, before)."""
    identity = Image.fromarray(np.eye(before, dtype=np.float32))
    return torch.from_numpy(np.asarray(identity.resize((before, after), Image.Resampling.HAMMING)).copy())


def shrink(slices: Tensor, size: int) -> Tensor:
    """(B, 1, S, S) -> (B, 1, size, size), as if the slices had been read at that size."""
    matrix = _shrinking(slices.shape[3], size).to(slices)
    with torch.autocast(slices.device.type, enabled=False):  # half precision would round greys
        return matrix @ slices @ matrix.T


def enlarge(pictures: Tensor, size: int) -> Tensor:
    """(B, 1, s, s) in [-0.5, 0.5] -> (B, 1, size, size) in the same range, bicubic."""
    return F.interpolate(pictures, (size, size), mode="bicubic").clamp(-0.5, 0.5)


def coarse_picture(coarse: VQVAE, coarse_size: int, slices: Tensor) -> Tensor:
    """What the coarse stage makes of slices, at their own size: (B, 1, S, S) -> (B, 1, S, S)."""
    return enlarge(coarse.decode(coarse.encode(shrink(slices, coarse_size))), slices.shape[3])
