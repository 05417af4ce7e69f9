"""Heads to align in no time: the MNI152 template in coarse voxels, and a skull, scalp and face made up round it."""

from functools import cache

import nibabel
import numpy as np
import SimpleITK as sitk
from nilearn.datasets import load_mni152_template
from numpy.typing import NDArray
from scipy import ndimage

from oasisvq.data.frame import as_image, as_transform

Volume = tuple[NDArray[np.float32], NDArray[np.float64]]


@cache
def template() -> Volume:
    """Stripped, voxels of 1 mm, brightest about 1; to be copied before it is changed."""
    image = load_mni152_template(resolution=1)
    return image.get_fdata(dtype=np.float32), image.affine


def head(voxel: tuple[float, float, float] = (2, 2, 2), change: NDArray[np.float64] | None = None) -> Volume:
    """The template in voxels of another size, after an affine (4, 4) from its millimetres to those it is seen in."""
    volume, affine = template()
    change = np.eye(4) if change is None else change
    grid = sitk.Image([int(240 / mm) for mm in voxel], sitk.sitkUInt8)
    grid.SetSpacing(voxel)
    middle = (change @ [0, -18, 0, 1])[:3]
    grid.SetOrigin((middle - 120 + np.array(voxel) / 2).tolist())
    blurred = ndimage.gaussian_filter(volume, 0.35 * (np.array(voxel) - 1).clip(0))
    seen = sitk.Resample(as_image(blurred, affine), grid, as_transform(np.linalg.inv(change)))
    place = np.diag([*voxel, 1.0])
    place[:3, 3] = grid.GetOrigin()
    return sitk.GetArrayFromImage(seen).T, place


def with_skull(volume: Volume) -> Volume:
    """A scalp, a dark skull, a face in front below, a neck, and noise everywhere, as a scanner gives it."""
    voxels, affine = volume
    size = affine[0, 0]
    brain = voxels > 0.1
    x, y, z = np.meshgrid(
        *(np.arange(n) * size + o for n, o in zip(voxels.shape, affine[:3, 3], strict=True)), indexing="ij"
    )
    away = ndimage.distance_transform_edt(~ndimage.binary_fill_holes(brain), sampling=size)
    body = (np.hypot(x / 70, (y - 20) / 75) < 1) & (z < -20)
    seen = np.where(brain, voxels, np.where(away < 5, 0.25, np.where(away < 11, 0.1, np.where(away < 18, 0.9, 0.0))))
    seen = np.where(body & (away > 9), 0.55 + 0.3 * np.sin(x / 5) * np.sin(y / 6) * np.sin(z / 7), seen)
    noise = np.random.default_rng(0).normal(0, 0.02, (2, *seen.shape))
    return np.hypot(seen + noise[0], noise[1]).astype(np.float32), affine


def stored(volume: Volume, axes: str) -> Volume:
    """The same volume with its axes in another order."""
    image = nibabel.Nifti1Image(*volume)
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    other = image.as_reoriented(change)
    return np.asarray(other.dataobj), other.affine
