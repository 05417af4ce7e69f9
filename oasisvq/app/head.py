"""How an uploaded head was brought into the frame: the found mask and the frame over it, in three planes.

Only what lies inside the mask is ever shown or kept: no skull, no face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from oasisvq.app.models import alignment_slot

if TYPE_CHECKING:  # SimpleITK and the readers take longer to load than a first visitor should wait
    from oasisvq.data.align import Aligned, Fit
    from oasisvq.data.dicom import Volume
    from oasisvq.data.scan import Scan

MASK, FRAME = (45, 190, 175), (245, 170, 60)  # colours of the outlines
_PLANES = ("from the side", "from the front", "from above")


@dataclass(frozen=True)
class Head:
    """A head that was brought into the frame.

    Attributes:
        levels: its 32 levels, a scan.
        planes: (H, W, 3) uint8 each, the brain with both outlines, in the order of _PLANES.
        fit: figures, and the affine.
    """

    levels: Scan
    planes: tuple[NDArray[np.uint8], ...]
    fit: Fit


def bring_into_frame(volume: Volume, on_step: Callable[[str, float], None]) -> Head:
    """One head at a time, in a process of its own; others wait here. Raises OasisVQError as `align`."""
    from oasisvq.data.scan import in_the_frame
    from oasisvq.data.upload import check_head

    affine = check_head(volume)
    on_step("Waiting for other heads", 0.0)
    with alignment_slot():
        from oasisvq.data.align_apart import align_apart

        found = align_apart(volume.voxels, affine, on_step)
    return Head(in_the_frame(found.levels, volume.oriented, volume.notes).halved(), planes(found), found.fit)


def planes(head: Aligned) -> tuple[NDArray[np.uint8], ...]:
    """Three planes through the middle of the brain as it came, up and front upwards, with the outline of its mask and
    that of the frame: what the reference covers, and the edges of the levels."""
    from oasisvq.data.frame import LEVELS, reference_at

    size = np.linalg.norm(head.affine[:3, :3], axis=0)
    middle = [round(float(np.mean(at))) for at in np.nonzero(head.mask)]
    white = np.percentile(head.voxels[head.mask], 99)
    made = []
    for axis in range(3):
        at = [np.arange(n) for n in head.mask.shape]
        at[axis] = np.array([middle[axis]])
        place = np.stack([*np.meshgrid(*at, indexing="ij"), np.ones([len(some) for some in at])])
        where = np.tensordot(head.fit.matrix @ head.affine, place, 1)[:3]
        brain, mask, expected, height = (
            np.take(volume, 0, axis) if volume.shape[axis] == 1 else np.take(volume, middle[axis], axis)
            for volume in (head.voxels / white, head.mask, reference_at(where), where[2])
        )
        levels = expected & (height >= 0) & (height <= LEVELS - 1)
        grey = np.clip(brain, 0, 1) * mask
        picture = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, -1)
        picture[_outline(mask)] = MASK
        picture[_outline(expected) | _outline(levels)] = FRAME
        across, up = (mm for i, mm in enumerate(size) if i != axis)
        made.append(_at_one_millimetre(picture, across, up))
    side = max(max(picture.shape[:2]) for picture in made)
    return tuple(_in_the_middle(picture, side) for picture in made)


def show_head(head: Head | None, refused: str | None, as_it_lies: bool, switch: Callable[[], None]) -> None:
    """Below the picture: the planes and figures of a head, or why it has none, and the way to the other view."""
    if refused is not None:
        st.warning(f"Not brought into the frame: {refused}. Its slices are shown as they lie.", icon=":material/rule:")
        return
    if head is None:
        return
    fit = head.fit
    with st.expander("How the head was found", expanded=True):
        for column, picture, name in zip(st.columns(3), head.planes, _PLANES, strict=True):
            column.image(picture, caption=f"The brain {name}", width="stretch")
        st.caption(
            f"Green: the brain that was found, {fit.litres:.2f} litres. Orange: where the frame expects it, and the "
            f"lowest and highest of its 32 levels. Overlap (Dice) {fit.dice:.2f}, likeness to a T1 template "
            f"{fit.likeness:.2f}. If the outlines do not fit, use the file as it lies."
        )
        st.button(
            "Use in the frame" if as_it_lies else "Use as it lies",
            on_click=switch,
            help="Slices as the volume has them, neither stripped nor turned."
            if not as_it_lies
            else "Its 32 levels, stripped and turned as the training slices are.",
        )


def progress() -> tuple[Callable[[str, float], None], Callable[[], None]]:
    """A progress bar: how to advance it, and how to remove it."""
    bar = st.progress(0.0, "Reading …")

    def on_step(name: str, share: float) -> None:
        bar.progress(share, f"{name} …")

    def done() -> None:
        bar.empty()

    return on_step, done


def _outline(shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner = shape.copy()
    for axis in range(2):
        for step in (-1, 1):
            inner &= np.roll(shape, step, axis)
    return shape & ~inner


def _in_the_middle(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(H, W, 3) on a black square."""
    before = [(side - n) // 2 for n in picture.shape[:2]]
    after = [side - n - b for n, b in zip(picture.shape[:2], before, strict=True)]
    return np.pad(picture, [*zip(before, after, strict=True), (0, 0)])


def _at_one_millimetre(picture: NDArray[np.uint8], across: float, up: float) -> NDArray[np.uint8]:
    """(across, up, 3) to rows that count downwards, pixels of 1 mm."""
    from PIL import Image

    shown = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 0, 2)[::-1]))
    size = max(1, round(picture.shape[0] * across)), max(1, round(picture.shape[1] * up))
    return np.asarray(shown.resize(size, Image.Resampling.NEAREST))
