"""What a stranger's file becomes: axial slices of one brightness and one size, and what is known about them.

Left and right are named only where the header gives them. A volume is turned by its header so that its axes run right,
front and up, and seen from above: the left side of a picture is then the left side of the person.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray
from scipy import ndimage

from oasisvq.data.align import BRAIN
from oasisvq.data.frame import LEVELS, as_image, averaged, canvas, cut
from oasisvq.data.slices import FOREGROUND, foreground, normalise
from oasisvq.errors import OasisVQError

_PLANES = ("sagittal", "coronal", "axial")
_COARSE = 4.0  # mm within a slice; more leaves nothing to recognise at any size of the models
_VOXEL = (0.05, 20.0)  # mm
_MOST = 512  # axial slices
_SHOWN = 20  # of the levels, the first: ventricles, which everybody recognises
_DEPTH = 0.375
_TILT = 12.0  # degrees from which it is worth a word


@dataclass(frozen=True)
class Scan:
    """Axial slices, lowest first, front up.

    Attributes:
        stack: (N, H, W) in [0, 1], background 0; H = W; float32 as read.
        spacing: millimetres from slice to slice, pixel to pixel down, and across; None where the file does not say.
        edges: letters at the left, right, top and bottom edge, of R, L, A and P; None where the file does not say.
        levels: of each slice, where the model would place it: 0 (lowest) to 31; None outside or where it is not known.
        first: the slice to show first.
        notes: what was done or assumed, one sentence each.
        warnings: why the model may make nothing of it, one sentence each.
    """

    stack: NDArray[np.floating]
    spacing: tuple[float, float, float] | None
    edges: tuple[str, str, str, str] | None
    levels: tuple[int | None, ...]
    first: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def halved(self) -> Scan:
        """The same in half precision, to be kept: 150 slices take 20 MB, still finer than the slices of training."""
        return replace(self, stack=self.stack.astype(np.float16))


def single(picture: NDArray[np.float32], notes: list[str]) -> Scan:
    """One picture (H, H) in [0, 1], of which nothing more is known."""
    unknown = "The file does not say which side is left: no letters are shown. It is taken as axial, front up."
    return Scan(picture[None], None, None, (None,), 0, (*notes, unknown), tuple(_warnings(picture)))


def in_the_frame(levels: NDArray[np.float32], oriented: bool, notes: list[str]) -> Scan:
    """The levels (32, 256, 256) of a head that was brought into the frame."""
    edges = ("L", "R", "A", "P") if oriented else None
    return Scan(levels, (1.0, 1.0, 1.0), edges, tuple(range(LEVELS)), _SHOWN, tuple(notes), ())


def axial(voxels: NDArray[np.floating], affine: NDArray[np.float64], oriented: bool, notes: list[str]) -> Scan:
    """Cut a volume into axial slices of 1 mm pixels on the canvas of the training slices.

    Slices are not interpolated: there are as many as the volume has, where it holds more than background.

    Args:
        voxels: (X, Y, Z), bright where the scan is bright.
        affine: voxels to millimetres right, front and up.
        oriented: whether the affine tells directions, not only sizes.
        notes: what the reader has to say.

    Raises OasisVQError when no axial slice can be made of it.
    """
    size = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and (size > _VOXEL[0]).all() and (size < _VOXEL[1]).all()):
        raise OasisVQError("the header gives no voxel size in millimetres: convert it again with one")
    if abs(np.linalg.det(affine[:3, :3] / size)) < 0.1:
        raise OasisVQError("the header gives axes that fall together: convert it again")
    turned = io_orientation(affine)
    volume = apply_orientation(voxels, turned)
    order = np.argsort(turned[:, 0])
    size = size[order]
    thick = int(np.argmax(size))
    plane = _PLANES[thick]
    if (flat := int(np.argmin(volume.shape))) < 2 and volume.shape[flat] == 1:
        raise OasisVQError(f"a {_PLANES[flat]} slice by its header: the model knows axial slices")
    if max(size[:2]) > _COARSE:
        raise OasisVQError(
            f"{plane} slices {size[thick]:.1f} mm apart: axial pictures cannot be made of them, give an axial or a 3D "
            "series"
        )
    if min(volume.shape[:2]) < 16:
        raise OasisVQError(f"{'x'.join(map(str, volume.shape))} voxels: too few to show a brain, give the whole head")
    if volume.shape[2] > _MOST:  # each becomes a picture of the full canvas, however few voxels it has
        raise OasisVQError(f"{volume.shape[2]} axial slices: a head has at most {_MOST}, resample the volume to 1 mm")
    notes = list(notes)
    if oriented:
        edges = ("L", "R", "A", "P")
        tilt = np.degrees(np.arccos(np.clip(np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)), 0, 1)))
        tilt = tilt.min(axis=0).max()
        if tilt > _TILT:
            notes.append(f"The scan is tilted by {tilt:.0f}° against the axes of the head; slices follow the scan.")
    else:
        edges = None
        notes.append(
            "The header does not say how the volume lies: no letters are shown. Its axes are taken as they usually "
            "are, the third one upwards."
        )
    if min(size) < 0.5 * max(size):
        notes.append("Voxels of " + " × ".join(f"{mm:.2g}" for mm in size) + " mm; slices are shown at 1 mm a pixel.")

    # About a million voxels are plenty to find where the head is.
    stride = [max(1, n // 128) for n in volume.shape]
    coarse = np.nan_to_num(volume[tuple(slice(None, None, s) for s in stride)], nan=0.0, posinf=0.0, neginf=0.0)
    positive = coarse[coarse > 0]
    if positive.size == 0 or np.ptp(coarse) == 0:
        raise OasisVQError("every voxel is equally bright: choose a scan that shows a brain")
    if len(np.unique(positive[:100_000])) < 16:
        raise OasisVQError("only a few different values: a mask or label map, choose the scan itself")
    head = coarse > FOREGROUND * np.percentile(positive, 99.5)
    (left, right), (back, front), (bottom, top) = (
        (low * s, min(high * s + s - 1, n - 1))
        for (low, high), s, n in zip((_extent(head, axis) for axis in range(3)), stride, volume.shape, strict=True)
    )
    litres = head.sum() * np.prod(stride) * size.prod() / 1e6

    place = np.diag([*size, 1.0])
    middle = (left + right) / 2 * size[0], (back + front) / 2 * size[1]
    grid = canvas(top - bottom + 1, size[2], middle, bottom * size[2])
    stack = normalise(cut(averaged(as_image(volume.astype(np.float32), place), axes=2), grid))
    # Level 16 lies 0.375 of the brain's length below its top: 12 mm above the anterior commissure in the template.
    sixteenth = top - _DEPTH * (front - back + 1) * size[1] / size[2]
    at = LEVELS // 2 + np.round((np.arange(bottom, top + 1) - sixteenth) * size[2])
    whole = BRAIN[0] <= litres <= BRAIN[1] and (top - bottom + 1) * size[2] > 60
    first = int(np.argmin(np.abs(at - LEVELS // 2 - 4))) if whole else int(0.6 * (len(stack) - 1))
    warnings = _warnings(stack[first])
    if litres > BRAIN[1] and not warnings:
        warnings = [_SKULL]
    if len(stack) > 1 and litres < BRAIN[0]:
        notes.append(f"{litres:.2f} litres of this scan are not background, less than a whole adult brain.")
    certain = whole and not warnings
    levels = tuple(int(level) if certain and 0 <= level < LEVELS else None for level in at)
    return Scan(stack, (float(size[2]), 1.0, 1.0), edges, levels, first, tuple(notes), tuple(warnings))


_SKULL = (
    "The skull seems to be still on: the model knows only brains without it, and makes nothing sensible of the rest. "
    "Strip it first (SynthStrip, HD-BET or FSL bet)."
)
_CROPPED = "The picture is bright up to its edge: the model knows whole slices on a black background."


def _extent(head: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """First and last voxel of a head along an axis; planes with under 5 % of the fullest one's voxels are specks."""
    profile = head.sum(axis=tuple(other for other in range(3) if other != axis))
    inside = np.flatnonzero(profile >= 0.05 * profile.max())
    return int(inside[0]), int(inside[-1])


def _warnings(picture: NDArray[np.floating]) -> list[str]:
    """Signs that a slice in [0, 1] is of a kind that the model was not made for."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    if (border > 0.1).mean() > 0.2:  # more than the noise of air
        return [_CROPPED]
    return [_SKULL] if skull_on(picture) else []


def skull_on(picture: NDArray[np.floating]) -> bool:
    """Whether a slice (H, W) in [0, 1] still shows the skull: from the rim inwards a bright scalp, a dark ring of bone,
    and a bright brain. A stripped brain only gets brighter."""
    filled = ndimage.binary_closing(foreground(picture), iterations=2)
    filled = ndimage.binary_fill_holes(filled)
    if not filled.any():
        return False
    depth = ndimage.distance_transform_edt(filled)
    ring = depth / depth.max()
    shells = [picture[(ring > low) & (ring <= low + 0.04)] for low in np.arange(0, 0.44, 0.04)]
    profile = np.array([np.median(shell) if shell.size else 0 for shell in shells])
    scalp = int(np.argmax(profile[:5]))
    dip = scalp + int(np.argmin(profile[scalp:8]))
    return bool(profile[dip] < 0.5 * profile[scalp] and profile[dip] < 0.5 * profile[dip:].max())
