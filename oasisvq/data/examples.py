"""The example slices that ship with oasisvq: levels of the MNI152 template, and phantom people. Nobody's own brain.

Run `python -m oasisvq.data.examples` to make the files again (it needs nilearn; reading them does not).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

_TEMPLATE_LEVELS = (2, 11, 20, 29)
# The template is larger and brighter than the people of OASIS, whose slices the bundled weights know.
_TEMPLATE_SIZE, _TEMPLATE_BRIGHTNESS = 0.95, 0.85

_LESION = (104, 152, 12, 0.25)  # row, column and radius in pixels, grey: in white matter, off the middle

# Numbers far above those of any cohort, so that no training set of seed 0 holds these people.
_PEOPLE = {100_001: 5, 100_004: 12, 100_005: 19, 100_008: 26}


def _folder() -> Path:
    return Path(str(files("oasisvq.data") / "example_slices"))


def examples() -> dict[str, np.ndarray]:
    """Label to slice, float32 (256, 256) in [0, 1], template first; labels name level and grade."""
    paths = sorted(_folder().glob("*.png"), key=lambda path: (path.stem.startswith("Phantom"), path.stem))
    return {path.stem: np.asarray(Image.open(path), dtype=np.float32) / 255 for path in paths}


def with_lesion() -> tuple[str, np.ndarray]:
    """Label and picture of a template slice with a dark disc painted into it: something to find, in nobody's brain."""
    name = f"MNI152 template, level {_TEMPLATE_LEVELS[2]:02d}"
    picture = examples()[name]
    row, column, radius, grey = _LESION
    y, x = np.ogrid[: len(picture), : len(picture)]
    share = np.clip(radius + 0.5 - np.hypot(y - row, x - column), 0, 1)
    return f"{name}, with a painted lesion", (picture + share * (grey - picture)).astype(np.float32)


def level_in(label: str) -> int | None:
    """The level that the label of an example names."""
    _, _, after = label.partition(", level ")
    return int(after[:2]) if after[:2].isdigit() else None


def make() -> None:
    """Draw the files of `examples` afresh."""
    import nibabel
    from nilearn.datasets import load_mni152_template

    from oasisvq.data.phantom import person
    from oasisvq.data.slices import normalise
    from oasisvq.data.volumes import axial_slices

    template = nibabel.as_closest_canonical(load_mni152_template(resolution=1))
    voxel = np.array(template.header.get_zooms()[:3], dtype=float)
    stack = normalise(axial_slices(template.get_fdata(dtype=np.float32), voxel, "MNI152 template"))
    pictures = {
        f"MNI152 template, level {level:02d}": np.round(_shrunk(stack[level]) * _TEMPLATE_BRIGHTNESS * 255)
        for level in _TEMPLATE_LEVELS
    }
    for letter, (number, level) in zip("ABCD", _PEOPLE.items(), strict=True):
        slices, grade = person(0, number)
        pictures[f"Phantom person {letter}, level {level:02d}, grade {grade:g}"] = slices[level]
    for old in _folder().glob("*.png"):
        old.unlink()
    for name, picture in pictures.items():
        Image.fromarray(picture.astype(np.uint8)).save(_folder() / f"{name}.png", optimize=True)


def _shrunk(picture: np.ndarray) -> np.ndarray:
    """The slice at _TEMPLATE_SIZE in the middle of a picture of the same size."""
    from scipy import ndimage

    small = ndimage.zoom(picture, _TEMPLATE_SIZE, order=1)
    before = (len(picture) - len(small)) // 2
    return np.pad(small, (before, len(picture) - len(small) - before))


if __name__ == "__main__":
    make()
