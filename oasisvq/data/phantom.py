"""The phantom cohort: made-up people to train and test on when no real slices are at hand.

Every person is the MNI152 template (Fonov et al. 2011; nilearn ships it) bent, aged and photographed anew:

    template ──► sharpen once, from the mean of 152 people to the crispness of one
             ──► warp: affine, smooth displacements at three scales, ventricles pushed outward (ageing)
             ──► contrast curve: new brightness of CSF, grey and white matter
             ──► bias field, scanner noise ──► 32 levels on the 256 canvas

Phantoms are no patients: they hold no pathology, and the ageing grade only widens ventricles and sulci.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from scipy import ndimage
from scipy.interpolate import BSpline
from threadpoolctl import threadpool_limits

from oasisvq.data.slices import CANVAS, FOREGROUND, normalise

# The part of the canvas a head can reach, rows and columns; the rest is background.
_ROWS = slice(24, 232)
_COLUMNS = slice(40, 216)

# Where the real slices of OASIS-1 lie in the template: size and place fitted to their mean images (correlation 0.96).
_SCALE = 0.95
_CENTRE_Y = -18.0
_LOWEST, _HIGHEST = -3.5, 26.5

# The warp is computed on every second voxel, then interpolated: its finest detail is 9 mm.
_STEP = 2


@dataclass(frozen=True)
class Atlas:
    """The template, prepared once: float32 (X, Y, Z) maps at 1 mm round the levels that are drawn.

    Attributes:
        tissue: brightness in [0, 1], sharpened: about 0.27 CSF, 0.65 grey, 0.88 white.
        brain: 1 inside, 0 outside, a millimetre of blur between.
        pull: (3, X, Y, Z), points into the lateral ventricles, about 1 long at their walls, 0 far from them.
        origin: voxel of the coordinate (0, 0, 0) mm.
    """

    tissue: np.ndarray
    brain: np.ndarray
    pull: np.ndarray
    origin: np.ndarray


@cache
def load_atlas() -> Atlas:
    """Read nilearn's copy of the template (nothing is downloaded) and sharpen it."""
    template = load_mni152_template(resolution=1)
    origin = -template.affine[:3, 3]
    margin = 14
    kept = slice(int(origin[2] + _LOWEST) - margin, int(origin[2] + _HIGHEST) + margin)
    t1, grey, white = (
        image.get_fdata(dtype=np.float32)[..., kept]
        for image in (template, load_mni152_gm_template(resolution=1), load_mni152_wm_template(resolution=1))
    )
    inside = ndimage.binary_fill_holes(t1 > FOREGROUND)
    # A skull-stripped scan keeps the water between the folds: its outline is that of the skull, not of the folds.
    hull = ndimage.gaussian_filter(inside.astype(np.float32), 4) > 0.47

    def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
        """Blur inside the brain only, so that the black outside does not bleed in."""
        weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
        return ndimage.gaussian_filter(image * inside, sigma) / np.maximum(weight, 1e-3) * inside

    expected = 0.27 + 0.38 * grey + 0.61 * white
    tissue = 0.5 * (t1 + 2.0 * (t1 - smooth(t1, 3))) + 0.5 * (expected + 2.0 * (t1 - smooth(t1, 3)))

    x, y, _ = np.meshgrid(
        *(np.arange(n) - o for n, o in zip(t1.shape, origin, strict=True)), indexing="ij", sparse=True
    )
    deep = ndimage.binary_erosion(inside, iterations=22)
    water = deep & (grey + white < 0.5)
    lateral = water & (np.abs(x) > np.where(y < -26, 13, 3))  # the third ventricle and the cisterns stay as they are
    # Closed, so that the wall between the two does not swell when they do.
    ventricles = ndimage.gaussian_filter(ndimage.binary_closing(lateral, iterations=4).astype(np.float32), 3)
    pull = np.stack(np.gradient(ventricles)) * 8
    return Atlas(
        tissue=np.clip(tissue, 0, 1).astype(np.float32),
        brain=ndimage.gaussian_filter((hull | inside).astype(np.float32), 1.5),
        pull=pull.astype(np.float32),
        origin=origin - np.array([0, 0, kept.start]),
    )


def person(seed: int, index: int, levels: int = 32) -> tuple[np.ndarray, float]:
    """Slices of one made-up person, uint8 (levels, 256, 256), front up, and the grade (CDR) of their ageing.

    Depends on seed and index alone, so the cohort is the same in any order and on any number of processes.
    """
    with threadpool_limits(1, "blas"):  # the last bit of a matrix product may depend on the number of threads
        return _person(load_atlas(), np.random.default_rng([seed, index]), levels)


def _person(atlas: Atlas, rng: np.random.Generator, levels: int) -> tuple[np.ndarray, float]:
    ageing = min(rng.gamma(1.4, 1.0), 5.0)
    grade = _grade(ageing, rng)
    y = ((CANVAS - 1) / 2 - np.arange(CANVAS)[_ROWS]) / _SCALE + _CENTRE_Y
    x = (np.arange(CANVAS)[_COLUMNS] - (CANVAS - 1) / 2) / _SCALE
    z = np.linspace(_LOWEST, _HIGHEST, levels)

    plain = np.stack(np.meshgrid(x, y, z, indexing="ij")) + atlas.origin.reshape(3, 1, 1, 1)
    where = _warp(atlas, rng, [x, y, z], ageing)
    tissue = ndimage.map_coordinates(atlas.tissue, where, order=1, mode="nearest")
    # OASIS-1 is registered to an atlas and stripped with its mask: outlines hardly differ, what is inside does.
    brain = ndimage.map_coordinates(atlas.brain, plain + 0.1 * (where - plain), order=1, mode="nearest") > 0.5
    image = _photograph(tissue, [x, y, z], rng, ageing) * brain

    stack = np.zeros((levels, CANVAS, CANVAS), np.float32)
    stack[:, _ROWS, _COLUMNS] = image.transpose(2, 1, 0)
    return np.round(normalise(stack) * 255).astype(np.uint8), grade


def _grade(ageing: float, rng: np.random.Generator) -> float:
    """A CDR-like grade that goes with ageing but is not given by it, in about the shares of OASIS-1."""
    return float(np.select([ageing + rng.normal(0, 0.6) > t for t in (4.6, 2.7, 1.6)], [2.0, 1.0, 0.5], 0.0))


def _warp(atlas: Atlas, rng: np.random.Generator, axes: list[np.ndarray], ageing: float) -> np.ndarray:
    """Where in the atlas each point of the person comes from: voxel coordinates (3, X, Y, Z)."""
    coarse = [np.linspace(axis[0], axis[-1], len(axis) // _STEP + 1) for axis in axes]
    point = np.stack(np.meshgrid(*coarse, indexing="ij"))
    centre = np.array([0, _CENTRE_Y, 10.0]).reshape(3, 1, 1, 1)
    matrix = np.eye(3) + np.diag(rng.normal(0, 0.01, 3)) + 0.006 * rng.normal(size=(3, 3))
    moved = np.tensordot(matrix, point - centre, 1) + centre

    for spacing, amplitude, symmetry in ((48, 1.2, 0.9), (20, 1.3, 0.4), (9, 1.0, 0.0)):
        for axis in range(3):
            field = _smooth_field(rng, coarse, spacing)
            # A head is nearly symmetric in the large: mirror most of the displacement, with its sign along x.
            mirrored = -field[::-1] if axis == 0 else field[::-1]
            moved[axis] += amplitude * (field + symmetry * mirrored) / np.sqrt(1 + symmetry**2)

    moved += atlas.origin.reshape(3, 1, 1, 1)
    steps = 4  # small steps one after another keep the push invertible
    for _ in range(steps):
        pull = [ndimage.map_coordinates(component, moved, order=1) for component in atlas.pull]
        moved += (ageing - 0.3) * 5.0 / steps * np.stack(pull)
    fine = [_linear(old, new) for old, new in zip(coarse, axes, strict=True)]
    return np.stack([_separable(component, fine) for component in moved])


def _photograph(tissue: np.ndarray, axes: list[np.ndarray], rng: np.random.Generator, ageing: float) -> np.ndarray:
    """Brightness of the tissue as a scanner of its own would show it; (X, Y, Z), background not yet removed."""
    folded = tissue + 0.025 * _smooth_field(rng, axes, 4)
    csf, grey, white = rng.normal([0.12, 0.52, 0.87], [0.02, 0.025, 0.015])
    sulci = 0.49 + 0.03 * ageing + rng.normal(0, 0.015)
    image = csf + (grey - csf) * _step(folded, sulci, 0.34) + (white - grey) * _step(folded, 0.82, 0.27)
    image = ndimage.gaussian_filter(image, 1.0) * np.exp(0.05 * _smooth_field(rng, axes, 90))
    noise = rng.normal(0, rng.uniform(0.015, 0.04), (2, *image.shape)).astype(np.float32)
    noise = ndimage.gaussian_filter(noise, (0, 0.5, 0.5, 0.5))
    return np.hypot(image + noise[0], noise[1])


def _step(value: np.ndarray, middle: float, width: float) -> np.ndarray:
    """Smooth step from 0 to 1 round `middle`."""
    t = np.clip((value - middle) / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _smooth_field(rng: np.random.Generator, axes: list[np.ndarray], spacing: float) -> np.ndarray:
    """A random field over a grid, mean 0 and sd 1: a cubic B-spline with random weights every `spacing` mm."""
    bases = [_spline(axis, spacing) for axis in axes]
    weights = rng.normal(size=[basis.shape[1] for basis in bases])
    return _separable(weights, bases) / np.prod([np.sqrt(np.square(basis).sum(1).mean()) for basis in bases])


def _spline(axis: np.ndarray, spacing: float) -> np.ndarray:
    """Cubic B-spline basis over an axis in mm, (len(axis), knots)."""
    place = (axis - axis.min()) / spacing
    knots = np.arange(-3, int(np.ceil(place.max())) + 5)
    return BSpline.design_matrix(place, knots.astype(float), 3).toarray().astype(np.float32)


def _linear(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Matrix of linear interpolation from an even axis to another over the same range, (len(new), len(old))."""
    place = (new - old[0]) / (old[1] - old[0])
    return np.clip(1 - np.abs(place[:, None] - np.arange(len(old))), 0, None).astype(np.float32)


def _separable(weights: np.ndarray, bases: list[np.ndarray]) -> np.ndarray:
    """Apply one matrix along each axis: (a, b, c) to (X, Y, Z)."""
    return np.einsum("abc,xa,yb,zc->xyz", weights.astype(np.float32), *bases, optimize=True)
