"""The frame: where the training slices lie, in millimetres, and a reference to bring other heads there.

Frame millimetres run right, front and up. Row r and column c of level k lie at (c - 127.5, 127.5 - r, k): the origin is
the middle of the canvas on level 0, a pixel is 1 mm wide and levels are 1 mm apart, as OASIS-1 has it after its own
registration to an atlas (Buckner et al. 2004), which left all people the same outline.

FRAME_TO_MNI says where that is in the MNI152 template (Fonov et al. 2011). It was found once, by `python -m
oasisvq.data.frame DIR`, which finds it again within 0.0002: the affine by which the template is most alike the mean of
the training people of OASIS-1. In millimetres of the template, level 0 crosses the middle of the canvas at z = -3.0 and
level 31 at z = 26.6; levels are tilted by 4 degrees, their front lower, and lie 0.96 apart; a pixel is 1.06 wide:
OASIS-1's people are a little smaller there than the template.

Twelve numbers are all that is kept of the training people. The reference itself is the template that nilearn ships.
"""

from __future__ import annotations

import argparse
import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from oasisvq.data.slices import CANVAS, FOREGROUND

LEVELS = 32

# Frame millimetres to those of the template.
FRAME_TO_MNI = np.array(
    [
        [1.05430, -0.00890, -0.02660, 1.28570],
        [0.02390, 1.05580, 0.02240, -16.42420],
        [0.02810, -0.07460, 0.95510, -3.01470],
        [0.0, 0.0, 0.0, 1.0],
    ]
)

# Voxels (column, row from the back of the canvas, level) to frame millimetres.
FRAME = np.eye(4)
FRAME[:2, 3] = -(CANVAS - 1) / 2

# In the header of a drawn head, whose 80 bytes NIfTI gives to such words. Its side is nobody's claim.
DRAWN = "SYNTHETIC, drawn by a model: not a person. Not for diagnosis. Left unknown."

# The part of the frame that holds a whole brain, in millimetres, and the step of the reference.
_LOW, _HIGH, STEP = (-80.0, -96.0, -88.0), (80.0, 96.0, 104.0), 2.0

# What a stripped scan keeps: the folds and the water between them. Blurred so far and cut so high, the template's
# outline is the one that all training people share (Dice 0.993 over the 32 levels).
_BLUR, _CUT = 6.0, 0.4


@dataclass(frozen=True)
class Reference:
    """The template in the frame.

    Attributes:
        brain: its brightness, stripped, over the whole brain.
        outline: 1 inside a stripped brain, else 0, on the voxels of `brain`.
        levels: the same over the training slices: bool (32, 256, 256).
    """

    brain: sitk.Image
    outline: sitk.Image
    levels: NDArray[np.bool_]


def as_image(voxels: NDArray[Any], affine: NDArray[np.floating]) -> sitk.Image:
    """A volume (X, Y, Z) for SimpleITK, in the millimetres of its affine (right, front, up), whose axes must be at
    right angles. SimpleITK itself counts to the left and back; it never needs to know."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    size = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(size.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / size).ravel().tolist())
    return image


def as_transform(matrix: NDArray[np.floating], centre: NDArray[np.floating] | None = None) -> sitk.AffineTransform:
    """A 4x4 matrix as a transform that turns round a centre."""
    transform = sitk.AffineTransform(3)
    centre = np.zeros(3) if centre is None else centre
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation((matrix[:3, 3] - centre + matrix[:3, :3] @ centre).tolist())
    return transform


def as_matrix(transform: sitk.AffineTransform) -> NDArray[np.floating]:
    """What `as_transform` was given."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - matrix[:3, :3] @ centre
    return matrix


def canvas(
    levels: int = LEVELS, step: float = 1.0, middle: tuple[float, float] = (0.0, 0.0), lowest: float = 0.0
) -> sitk.Image:
    """Empty slices of 256 x 256 pixels of 1 mm, front up; as they are called, those of training in the frame.

    Args:
        step, lowest: millimetres from one to the next, and where the first lies.
        middle: millimetres right and front of the middle of the canvas.
    """
    grid = sitk.Image(CANVAS, CANVAS, levels, sitk.sitkUInt8)
    grid.SetSpacing((1.0, 1.0, step))
    grid.SetOrigin((middle[0] - (CANVAS - 1) / 2, middle[1] + (CANVAS - 1) / 2, lowest))
    grid.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    return grid


def cut(image: sitk.Image, grid: sitk.Image, to_image: NDArray[np.floating] | None = None) -> NDArray[np.float32]:
    """What a volume shows on a grid, 0 beyond its edge: (levels, rows, columns); `to_image`, (4, 4), leads from the
    millimetres of the grid to those of the volume."""
    place = as_transform(np.eye(4) if to_image is None else to_image)
    return sitk.GetArrayFromImage(sitk.Resample(image, grid, place, sitk.sitkLinear, 0.0))


def averaged(image: sitk.Image, axes: int = 3) -> sitk.Image:
    """Voxels of well under 1 mm along the first axes averaged to about that: else fine detail would turn to noise."""
    together = [max(1, int(1.0 / mm + 0.25)) if i < axes else 1 for i, mm in enumerate(image.GetSpacing())]
    return sitk.BinShrink(image, together)


def as_nifti(levels: NDArray[np.floating]) -> bytes:
    """A drawn head as NIfTI (.nii.gz) in the frame: it lies on the training slices, and its header says what it is.

    Args:
        levels: (L, S, S) in [0, 1], front up, the lowest first. S pixels span the canvas of 256 mm.

    Returns the same bytes for the same levels; voxels are grey values of 0 to 255.
    """
    side = levels.shape[-1]
    affine = FRAME.copy()
    affine[[0, 1], [0, 1]] = CANVAS / side
    affine[:2, 3] = -(CANVAS - CANVAS / side) / 2  # the middle of the outermost pixel
    grey = np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
    image = nibabel.Nifti1Image(grey[:, ::-1].transpose(2, 1, 0), affine)  # column, row from the back, level
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = DRAWN.encode()
    return gzip.compress(image.to_bytes(), mtime=0)


@cache
def reference() -> Reference:
    """The template in the frame; made on first use, nothing is downloaded."""
    brain, affine = _template()
    inside = ndimage.binary_fill_holes(brain > FOREGROUND)
    hull = ndimage.gaussian_filter(inside.astype(np.float32), _BLUR)
    steps = [int((high - low) / STEP) + 1 for low, high in zip(_LOW, _HIGH, strict=True)]
    grid = sitk.Image(steps, sitk.sitkUInt8)
    grid.SetOrigin(_LOW)
    grid.SetSpacing((STEP, STEP, STEP))
    place = as_transform(FRAME_TO_MNI)
    smooth = sitk.SmoothingRecursiveGaussian(as_image(brain, affine), 0.8)
    outline = as_image(hull, affine)
    levels = cut(outline, canvas(), FRAME_TO_MNI) > _CUT
    levels.setflags(write=False)
    return Reference(sitk.Resample(smooth, grid, place), sitk.Resample(outline, grid, place) > _CUT, levels)


def reference_at(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether points of the frame, (3, ...) mm, lie inside the reference's outline."""
    low = np.array(_LOW).reshape(3, *[1] * (points.ndim - 1))
    outline = sitk.GetArrayViewFromImage(reference().outline).T.astype(np.float32)
    return ndimage.map_coordinates(outline, (points - low) / STEP, order=1) > 0.5


def _template() -> tuple[NDArray[np.float32], NDArray[np.floating]]:
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=1)
    return template.get_fdata(dtype=np.float32), template.affine


def find_frame(mean: NDArray[np.floating]) -> NDArray[np.floating]:
    """FRAME_TO_MNI from the mean of people, (32, 256, 256): correlation with the template, by gradient descent."""
    fixed = sitk.GetImageFromArray(mean.astype(np.float32))
    fixed.CopyInformation(canvas())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetNumberOfThreads(1)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200, 0.7, gradientMagnitudeTolerance=1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([2, 1])
    transform = as_transform(np.eye(4), np.array([0, 0, LEVELS / 2]))
    transform.SetTranslation((0.0, -18.0, -4.0))  # the levels lie about the third ventricle
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, as_image(*_template()))
    return as_matrix(transform)


def _main() -> None:
    from oasisvq.data.layout import load_split

    parser = argparse.ArgumentParser(description="Find FRAME_TO_MNI again, from training people.")
    parser.add_argument("data", type=Path, help="folder of slices, as prepare writes it")
    people = load_split(parser.parse_args().data, "train", CANVAS).slices.reshape(-1, LEVELS, CANVAS, CANVAS)
    mean = np.mean(people, axis=0) + 0.5
    print(np.array2string(find_frame(mean), precision=5, suppress_small=True))


if __name__ == "__main__":
    _main()
