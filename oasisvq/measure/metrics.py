"""Metrics on plain arrays. Pictures are (H, W) in [0, 1]; codes are integer grids (N, h, w) in [0, K)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from oasisvq.data.slices import foreground, to_model
from oasisvq.models.presets import Preset

Picture = NDArray[np.floating]
Codes = NDArray[np.integer]


class Similarity(NamedTuple):
    """Structural similarity of two pictures, its mean over the brain (NaN without one), and its map, (H, W)."""

    ssim: float
    foreground: float
    map: Picture


def similarity(original: Picture, other: Picture) -> Similarity:
    """SSIM (Wang et al. 2004), 1 for equal pictures: 11-pixel Gaussian window, sigma 1.5, the brain of the original."""
    a, b = np.clip(original, 0, 1).astype(np.float64), np.clip(other, 0, 1).astype(np.float64)
    whole, local = structural_similarity(
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    brain = foreground(original)
    return Similarity(float(whole), float(local[brain].mean()) if brain.any() else float("nan"), local)


def ssim(a: Picture, b: Picture) -> float:
    """`similarity` of whole pictures."""
    return similarity(a, b).ssim


def foreground_ssim(original: Picture, other: Picture) -> float:
    """`similarity` over the brain of the original."""
    return similarity(original, other).foreground


def psnr(a: Picture, b: Picture) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(np.clip(a, 0, 1), np.clip(b, 0, 1), data_range=1.0))


def sharpness(original: Picture, other: Picture) -> float:
    """Gradient energy of `other` over that of `original`, inside the brain of the original: under 1 means blurred."""
    brain = foreground(original)

    def energy(picture: Picture) -> float:
        return float(sum(np.square(g)[brain].sum() for g in np.gradient(picture.astype(np.float64))))

    return energy(other) / energy(original) if brain.any() else float("nan")


def perplexity(indices: Codes, size: int) -> float:
    """Exponential of the entropy of the code histogram: how many codes would be in use if all were used alike."""
    share = np.bincount(np.ravel(indices), minlength=size) / np.size(indices)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def utilisation(indices: Codes, size: int) -> float:
    """Share of the codebook that occurs at all, in [0, 1]."""
    return float(len(np.unique(indices)) / size)


def by_person(values: Sequence[float] | NDArray[np.floating], people: Sequence[str]) -> NDArray[np.float64]:
    """Mean within each person, NaN left out: (people,), in order of first appearance."""
    order = {person: i for i, person in enumerate(dict.fromkeys(people))}
    rows = np.array([order[p] for p in people])
    array = np.asarray(values, np.float64)
    return np.array([np.nanmean(array[rows == i]) for i in range(len(order))])


def bootstrap_ci95(per_person: NDArray[np.float64], draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over people, by resampling people (Efron and Tibshirani 1993)."""
    picks = np.random.default_rng(seed).integers(len(per_person), size=(draws, len(per_person)))
    low, high = np.percentile(per_person[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def brain_cells(slices01: NDArray[np.floating], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Codes in whose cell at least half is brain: (N, S, S) in [0, 1] -> (N, *grid)."""
    return _to_codes(_brain_share(slices01, grid[0]) >= 0.5, grid)


def brain_codes(slices01: NDArray[np.floating], preset: Preset) -> NDArray[np.bool_]:
    """`brain_cells` of every stage of a preset: (N, S, S) in [0, 1] -> (N, *preset.shape)."""
    parts = []
    for stage in preset.stages:
        same = stage.size == slices01.shape[1]
        parts.append(brain_cells(slices01 if same else to_model(slices01, stage.size) + 0.5, stage.grid))
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1).reshape(-1, *preset.shape)


def background_cells(slices01: NDArray[np.floating], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Codes in whose cell there is no brain, nor in the eight cells round it: (N, S, S) in [0, 1] -> (N, *grid)."""
    near = np.ones((1, 3, 3))
    return _to_codes(~ndimage.binary_dilation(_brain_share(slices01, grid[0]) > 0, near), grid)


def _brain_share(slices01: NDArray[np.floating], side: int) -> NDArray[np.floating]:
    n, size, _ = slices01.shape
    masks = np.stack([foreground(s) for s in slices01]).reshape(n, side, size // side, side, size // side)
    return masks.mean((2, 4))


def _to_codes(cells: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """(N, h, w) -> (N, h, w * L): the codes of a cell lie side by side."""
    return cells.repeat(grid[1] // grid[0], axis=2)


class NeighbourTable:
    """p(code | left neighbour, upper neighbour) counted on training codes: the simplest baseline for a prior.

    Counts back off from both neighbours to either one to none by Witten-Bell weights (Witten and Bell 1991, method C):
    a context seen n times with t different codes has weight n / (n + t).
    """

    def __init__(self, indices: Codes, size: int) -> None:
        self.size = size
        code, left, up = self._split(indices)
        side = size + 1
        self._pairs = _Counts(left * side + up, code, size)
        self._left = _Counts(left, code, size)
        self._up = _Counts(up, code, size)
        self.histogram = (np.bincount(code, minlength=size) + 1) / (len(code) + size)

    def _split(self, indices: Codes) -> tuple[NDArray[np.int64], ...]:
        padded = np.pad(indices.astype(np.int64), ((0, 0), (1, 0), (1, 0)), constant_values=self.size)
        return padded[:, 1:, 1:].ravel(), padded[:, 1:, :-1].ravel(), padded[:, :-1, 1:].ravel()

    def bits(self, indices: Codes) -> NDArray[np.float64]:
        """-log2 p of each code, (N, h, w)."""
        code, left, up = self._split(indices)
        none = self.histogram[code]
        either = 0.5 * (self._left.blend(left, code, none) + self._up.blend(up, code, none))
        both = self._pairs.blend(left * (self.size + 1) + up, code, either)
        return -np.log2(both).reshape(indices.shape)

    def histogram_bits(self, indices: Codes) -> NDArray[np.float64]:
        """The same with no neighbour known: what the code histogram alone would need."""
        return -np.log2(self.histogram[indices])


class _Counts:
    """How often each code followed each context, kept as sorted keys: contexts are too many for a dense table."""

    def __init__(self, context: NDArray[np.int64], code: NDArray[np.int64], size: int) -> None:
        self.size = size
        self.keys, self.times = np.unique(context * size + code, return_counts=True)
        self.contexts, first = np.unique(self.keys // size, return_index=True)
        self.kinds = np.diff(np.append(first, len(self.keys)))
        self.totals = np.add.reduceat(self.times, first)

    def blend(
        self, context: NDArray[np.int64], code: NDArray[np.int64], fallback: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        times = self._look_up(self.keys, self.times, context * self.size + code)
        total = self._look_up(self.contexts, self.totals, context)
        kinds = self._look_up(self.contexts, self.kinds, context)
        return (times + kinds * fallback) / np.maximum(total + kinds, 1) + (total == 0) * fallback

    @staticmethod
    def _look_up(keys: NDArray[np.int64], values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, values[at], 0)
