"""Slices to codes and back, through one VQ-VAE or a cascade of them.

In a cascade the coarse stage codes the slice at a smaller size, and its reconstruction, enlarged, is the picture that
the finer stage adds detail to. The idea is that of hierarchical codes (VQ-VAE-2, Razavi et al. 2019, arXiv:1906.00446)
and of cascaded diffusion (Ho et al. 2021, arXiv:2106.15282), with stages that are trained one after the other.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from oasisvq.data.slices import FOREGROUND
from oasisvq.models.presets import Preset
from oasisvq.models.vqvae import VQVAE


@functools.cache
def _shrinking(before: int, after: int) -> Tensor:
    """The filter of `oasisvq.data.slices.resize` as a matrix, float32 (after, before)."""
    identity = Image.fromarray(np.eye(before, dtype=np.float32))
    return torch.from_numpy(np.asarray(identity.resize((before, after), Image.Resampling.HAMMING)).copy())


def shrink(slices: Tensor, size: int) -> Tensor:
    """(B, 1, S, S) -> (B, 1, size, size), resized as `oasisvq.data.slices.resize` does it."""
    matrix = _shrinking(slices.shape[3], size).to(slices)
    with torch.autocast(slices.device.type, enabled=False):  # half precision would round greys
        return matrix @ slices @ matrix.T


def enlarge(pictures: Tensor, size: int) -> Tensor:
    """(B, 1, s, s) in [-0.5, 0.5] -> (B, 1, size, size) in the same range, bicubic, the background black.

    The haze that a decoder leaves on the background would otherwise cost the finer stage codes to remove.
    """
    large = F.interpolate(pictures, (size, size), mode="bicubic").clamp(-0.5, 0.5)
    return large.masked_fill(large < FOREGROUND - 0.5, -0.5)


class Tokenizer(nn.Module):
    """All stages of a preset. Slices are (B, 1, S, S) in [-0.5, 0.5], indices (B, *preset.shape) int64."""

    def __init__(self, preset: Preset, vqvae: VQVAE, coarse: Tokenizer | None = None) -> None:
        super().__init__()
        self.preset, self.vqvae, self.coarse = preset, vqvae, coarse

    def encode(self, slices: Tensor) -> Tensor:
        """Slices to the codes of every stage."""
        if self.coarse is None:
            return self.vqvae.encode(slices)
        coarse = self.coarse.encode(shrink(slices, self.coarse.preset.size))
        return self.preset.join([coarse, self.vqvae.encode(slices, self.picture(coarse))])

    def decode(self, indices: Tensor) -> Tensor:
        """The codes of every stage to slices."""
        *coarse, own = self.preset.split(indices)
        return self.vqvae.decode(own, self.picture(*coarse))

    def picture(self, coarse: Tensor | None = None) -> Tensor | None:
        """The coarse stage's codes, (B, h, w), decoded and enlarged for the finer stage: (B, 1, S, S)."""
        if self.coarse is None or coarse is None:
            return None
        return enlarge(self.coarse.decode(coarse), self.preset.size)

    def picture_of(self, slices: Tensor) -> Tensor | None:
        """The coarse stage's reconstruction of slices, (B, 1, S, S) -> the same; None without a coarse stage."""
        if self.coarse is None:
            return None
        return self.picture(self.coarse.encode(shrink(slices, self.coarse.preset.size)))
