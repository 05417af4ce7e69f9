"""Any T1 head, as a scanner gives it, to the 32 levels that the models read.

    voxels ──► brain mask ──► affine to the frame ──► 32 levels of 256 x 256 ──► brightness as in training
               (not when      (a shift when        │                             (not when in place)
               stripped)      in place)            └──► figures of the fit; a refusal that says why when it is bad

The mask is found by a small U-Net (deepbet, Fisch et al. 2024), the affine by Mattes mutual information with the
reference of `frame`: from many starts on a coarse picture, the best of them on finer ones. Every voxel is looked at and
nothing is drawn at random, so the same head gives the same levels.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from oasisvq.data.appearance import as_in_training
from oasisvq.data.frame import FRAME, LEVELS, STEP, as_image, as_matrix, as_transform, averaged, canvas, cut, reference
from oasisvq.data.slices import normalise
from oasisvq.errors import OasisVQError

STEPS = ("Finding the brain", "Turning it into the frame", "Cutting the levels")

# Litres. Adult brains with the water in them hold 1 to 2.1.
BRAIN = (0.7, 2.5)

# A good fit, see Fit; chosen by `python -m oasisvq benchmark align`.
_DICE, _LIKENESS, _STRETCH = 0.9, 0.22, 1.6

# Dice over the levels of an outline that is OASIS-1's own: people share theirs by 0.993 in the mean; other heads come
# to 0.975 at most.
_SAME = 0.985

_DARK = 0.05  # of the brightness: below it is background where a volume is stripped already
_VOXEL = (0.05, 6.0)  # mm
_COARSE, _MEDIUM = 6.0, 4.0  # mm of the voxels that are compared, before the 2 mm of the reference
_TURNS = (-40.0, -20.0, 0.0, 20.0, 40.0), (-25.0, 0.0, 25.0), (-25.0, 0.0, 25.0)  # degrees: nod, tilt, shake
_SHIFTS = (-12.0, 0.0, 12.0)  # mm upwards
_TRIED = 5  # of the starts, the best


@dataclass(frozen=True)
class Fit:
    """How well a head fits the frame.

    Attributes:
        litres: of the brain that was found.
        dice: overlap of its mask with the reference's, 1 when equal.
        likeness: correlation of its brightness with the reference's inside both masks: near 1 for T1, below 0 where
            water is bright.
            stretch: how much more it is stretched along one direction than along another, 1 when all alike.
        matrix: (4, 4), millimetres of the scanner (right, front, up) to those of the frame.
    """

    litres: float
    dice: float
    likeness: float
    stretch: float
    matrix: NDArray[np.floating]

    def figures(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"matrix": self.matrix.tolist()}


class BadFit(OasisVQError):
    """A head that does not fit, with the figures that say so."""

    def __init__(self, why: str, fit: Fit) -> None:
        super().__init__(why)
        self.fit = fit


@dataclass(frozen=True)
class Aligned:
    """A head in the frame.

    Attributes:
        levels: (32, 256, 256) float32 in [0, 1], background 0, lowest first, front up, right of the person on the
            right.
        fit: figures, and the affine.
        voxels, mask, affine: the head as it was compared, (X, Y, Z) float32 and bool, not finer than needed, and from
            there to millimetres of the scanner.
    """

    levels: NDArray[np.float32]
    fit: Fit
    voxels: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.floating]


def align(
    voxels: NDArray[np.floating],
    affine: NDArray[np.floating],
    on_step: Callable[[str, float], None] = lambda name, share: None,
) -> Aligned:
    """Bring a T1 head into the frame of the training slices.

    Args:
        voxels: (X, Y, Z), bright where the scan is bright, the skull on or off.
        affine: (4, 4), voxels to millimetres right, front and up, its axes at right angles.
        on_step: called before each of STEPS with its name and the share of the work that is done.

    Raises OasisVQError in one sentence when it is no volume of a whole head, and BadFit when what was found
    in it does not look like the brain of a T1 scan.
    """
    voxels, affine = _as_needed(voxels, affine)
    on_step(STEPS[0], 0.0)
    mask = find_brain(voxels, affine)
    on_step(STEPS[1], 0.5)
    brain = np.where(mask, voxels, 0)
    to_scanner = _register(brain, affine)
    if (shift := _in_place(mask, affine, to_scanner)) is not None:
        to_scanner = shift
    fit = _fit_of(brain, mask, affine, to_scanner)
    if why := _misfit(fit):
        raise BadFit(why, fit)
    on_step(STEPS[2], 0.9)
    if shift is None:
        made = levels(voxels, mask, affine, to_scanner)
    else:
        made = normalise(cut(as_image(brain, affine), canvas(), shift))
    return Aligned(made, fit, voxels, mask, affine)


def _as_needed(
    voxels: NDArray[np.floating], affine: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.floating]]:
    """Axes along right, front and up, finite numbers, fine voxels averaged."""
    size = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and (size > _VOXEL[0]).all() and (size < _VOXEL[1]).all()):
        raise OasisVQError(
            f"the header gives no voxel size from {_VOXEL[0]} to {_VOXEL[1]:.0f} mm: a head needs such voxels"
        )
    if np.abs((affine[:3, :3] / size).T @ (affine[:3, :3] / size) - np.eye(3)).max() > 0.02:
        raise OasisVQError("the header gives axes that are not at right angles: resample the volume to such axes")
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.asarray(voxels, np.float32), affine))
    voxels, affine = np.asarray(image.dataobj, np.float32), np.asarray(image.affine)
    size = np.linalg.norm(affine[:3, :3], axis=0)
    if min(np.array(voxels.shape) * size) < 80 or min(voxels.shape) < 16:
        extent = " × ".join(f"{n * mm:.0f}" for n, mm in zip(voxels.shape, size, strict=True))
        raise OasisVQError(f"{extent} mm of a head: give the series that shows the whole brain")
    voxels = np.nan_to_num(voxels, nan=0.0, posinf=0.0, neginf=0.0)
    positive = voxels[voxels > 0]
    if positive.size == 0 or np.ptp(positive) == 0:
        raise OasisVQError("every voxel is equally bright: choose a scan that shows a brain")
    if len(np.unique(positive[:100_000])) < 16:
        raise OasisVQError("only a few different values: a mask or label map, choose the scan itself")
    smaller = averaged(as_image(voxels, affine))
    affine = affine @ np.diag([*np.array(smaller.GetSpacing()) / size, 1.0])
    affine[:3, 3] = smaller.GetOrigin()
    return sitk.GetArrayFromImage(smaller).T, affine


def find_brain(voxels: NDArray[np.float32], affine: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The brain and the water in it, (X, Y, Z). A volume whose skull is off already is taken at its word.

    Raises OasisVQError when there is none.
    """
    litre = abs(np.linalg.det(affine[:3, :3])) / 1e6
    shown = ndimage.binary_fill_holes(voxels > _DARK * np.percentile(voxels[voxels > 0], 99.5))
    blank = np.median(voxels[~shown]) == voxels.min() if not shown.all() else False  # air as a scanner gives it is not
    if blank and BRAIN[0] < shown.sum() * litre < BRAIN[1]:
        return shown
    nothing = OasisVQError("no brain was found in it: give a T1 scan of a whole head")
    with _ONE_AT_A_TIME:
        try:
            _, found, _ = _network().run(nibabel.Nifti1Image(voxels, affine))
        except (AssertionError, ValueError) as error:  # not a voxel of brain, reported in two ways
            raise nothing from error
    mask = np.asarray(found.dataobj) > 0
    if not mask.any():
        raise nothing
    return mask


_ONE_AT_A_TIME = threading.Lock()  # the network keeps what it works on, 1.2 GB of it


@cache
def _network() -> Any:
    from deepbet.bet import BrainExtraction

    return BrainExtraction(no_gpu=True)


def _register(brain: NDArray[np.float32], affine: NDArray[np.floating]) -> NDArray[np.floating]:
    """The affine from the frame to the scanner by which a stripped brain is most like the reference, (4, 4)."""
    target = reference().brain
    moving = _shrunk(as_image(brain, affine), STEP)
    centre, volume = _middle(target)
    coarse, coarse_target = _shrunk(moving, _COARSE), _shrunk(target, _COARSE)
    its_centre, its_volume = _middle(coarse)
    size = np.clip((its_volume / volume) ** (1 / 3), 0.8, 1.25)

    metric = _metric()
    starts = []
    for *turns, shift in itertools.product(*_TURNS, _SHIFTS):
        matrix = np.eye(4)
        matrix[:3, :3] = size * Rotation.from_euler("xyz", turns, degrees=True).as_matrix()
        matrix[:3, 3] = its_centre - matrix[:3, :3] @ (centre + np.array([0, 0, shift]))
        metric.SetInitialTransform(as_transform(matrix, centre))
        starts.append((metric.MetricEvaluate(coarse_target, coarse), matrix))
    best = sorted(starts, key=lambda start: start[0])[:_TRIED]
    tried = [_improved(coarse_target, coarse, matrix, centre, 4.0, 0.05) for _, matrix in best]
    _, rough = min(tried, key=lambda found: found[0])
    _, better = _improved(_shrunk(target, _MEDIUM), _shrunk(moving, _MEDIUM), rough, centre, 1.5, 0.01)
    return _improved(target, moving, better, centre, 0.5, 0.01)[1]


def _in_place(
    mask: NDArray[np.bool_], affine: NDArray[np.floating], to_scanner: NDArray[np.floating]
) -> NDArray[np.floating] | None:
    """The shift by whole voxels, (4, 4), that does as well as the affine that was found, because the volume lies in the
    frame already, as OASIS-1's own do: over the levels its brain has their outline. None for any other."""
    size = np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(affine[:3, :3] / size - np.eye(3)).max() > 0.01:
        return None
    middle = np.array([0, 0, LEVELS / 2])
    shift = np.eye(4)
    shift[:3, 3] = (to_scanner @ [*middle, 1])[:3] - middle
    outline = reference().levels
    shown = cut(as_image(mask.astype(np.float32), affine), canvas(), shift) > 0.5
    same = {
        (right, front): 2 * (outline & np.roll(shown, (front, -right), (1, 2))).sum() / (outline.sum() + shown.sum())
        for right, front in itertools.product(range(-3, 4), repeat=2)
    }
    best = max(same, key=lambda step: same[step])
    if same[best] < _SAME:
        return None
    shift[:2, 3] += best
    first = affine[:3, 3] - FRAME[:3, 3]
    shift[:3, 3] = first + np.round((shift[:3, 3] - first) / size) * size  # pixels on voxels: nothing is interpolated
    return shift


def _metric() -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetNumberOfThreads(1)  # sums in another order have other last digits
    return method


def _improved(
    target: sitk.Image,
    moving: sitk.Image,
    matrix: NDArray[np.floating],
    centre: NDArray[np.floating],
    step: float,
    enough: float,
) -> tuple[float, NDArray[np.floating]]:
    """Descend from a matrix, by steps of so many voxels at first: the value there (the lower the better), and where."""
    method, transform = _metric(), as_transform(matrix, centre)
    method.SetOptimizerAsRegularStepGradientDescent(step, enough, 60, 0.6, gradientMagnitudeTolerance=1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(target, moving)
    return method.GetMetricValue(), as_matrix(transform)


def _shrunk(image: sitk.Image, millimetres: float) -> sitk.Image:
    """Voxels averaged to about so many millimetres."""
    return sitk.BinShrink(image, [max(1, round(millimetres / mm)) for mm in image.GetSpacing()])


def _middle(brain: sitk.Image) -> tuple[NDArray[np.floating], float]:
    """Centre of what is not background, mm, and its volume, mm3."""
    shown = sitk.LabelShapeStatisticsImageFilter()
    shown.Execute(brain > 0.05 * float(sitk.GetArrayViewFromImage(brain).max()))
    return np.array(shown.GetCentroid(1)), shown.GetPhysicalSize(1)


def _fit_of(
    brain: NDArray[np.float32], mask: NDArray[np.bool_], affine: NDArray[np.floating], to_scanner: NDArray[np.floating]
) -> Fit:
    whole = reference()
    theirs = cut(as_image(mask.astype(np.float32), affine), whole.brain, to_scanner) > 0.5
    values = cut(as_image(brain, affine), whole.brain, to_scanner)
    ours = sitk.GetArrayFromImage(whole.outline) > 0
    both = ours & theirs
    deep = ndimage.binary_erosion(both, iterations=5)  # 10 mm: its outline makes anything look like a brain
    pair = [ndimage.gaussian_filter(image, 1)[deep] for image in (values, sitk.GetArrayFromImage(whole.brain))]
    likeness = np.corrcoef(*pair)[0, 1] if min(map(np.ptp, pair), default=0) > 0 else 0.0
    return Fit(
        litres=float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1e6),
        dice=float(2 * both.sum() / max(1, ours.sum() + theirs.sum())),
        likeness=float(np.nan_to_num(likeness)),
        stretch=float(np.linalg.cond(to_scanner[:3, :3])),
        matrix=np.linalg.inv(to_scanner),
    )


def _misfit(fit: Fit) -> str | None:
    """Why a fit is not to be relied on, in one sentence; None for a good one."""
    if not BRAIN[0] <= fit.litres <= BRAIN[1]:
        return (
            f"{fit.litres:.2f} litres of brain were found in it, an adult has {BRAIN[0]} to {BRAIN[1]}: give a T1 scan "
            "of a whole head"
        )
    if fit.dice < _DICE:
        return f"what was found in it overlaps a brain by {fit.dice:.2f} (Dice) only: give a T1 scan of a whole head"
    if fit.likeness < _LIKENESS:
        return (
            f"its brightness is not that of a T1 scan (likeness {fit.likeness:.2f}): give the T1-weighted scan, white "
            "matter brighter than grey"
        )
    if fit.stretch > _STRETCH:
        return f"it fits only when stretched {fit.stretch:.1f} times along one direction: give a scan of the whole head"
    return None


def levels(
    voxels: NDArray[np.float32],
    mask: NDArray[np.bool_],
    affine: NDArray[np.floating],
    to_scanner: NDArray[np.floating],
) -> NDArray[np.float32]:
    """The levels (32, 256, 256) in [0, 1] of a head whose place is known; `to_scanner` leads there from the frame."""
    inside = cut(as_image(mask.astype(np.float32), affine), canvas(), to_scanner) > 0.5
    values = cut(as_image(voxels, affine), canvas(), to_scanner)
    return as_in_training(values, inside & reference().levels)
