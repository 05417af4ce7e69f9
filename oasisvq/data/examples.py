"""The example slices that ship with oasisvq, all in the frame of the training slices: levels of Colin 27, one man
scanned 27 times; of the MNI152 template, a mean of 152 people; and phantom people, who are nobody.

Run `python -m oasisvq.data.examples COLIN27.nii.gz` to make the files again (reading them needs no volume).
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

_COLIN_LEVELS, _TEMPLATE_LEVELS = (12, 24, 30), (8, 20)

_LESION = (104, 152, 12, 0.25)  # row, column and radius in pixels, grey: in white matter, off the middle

# Numbers far above those of any cohort, so that no training set of seed 0 holds these people.
_PEOPLE = {100_001: 5, 100_004: 12, 100_005: 19, 100_008: 26}


def _folder() -> Path:
    return Path(str(files("oasisvq.data") / "example_slices"))


def examples() -> dict[str, np.ndarray]:
    """Label to slice, float32 (256, 256) in [0, 1], Colin 27 first; labels name level and grade."""
    paths = sorted(_folder().glob("*.png"), key=lambda path: (path.stem.startswith("Phantom"), path.stem))
    return {path.stem: np.asarray(Image.open(path), dtype=np.float32) / 255 for path in paths}


def with_lesion() -> tuple[str, np.ndarray]:
    """Label and picture of a template slice with a dark disc painted into it: something to find, in nobody's brain."""
    name = f"MNI152 template, level {_TEMPLATE_LEVELS[1]:02d}"
    picture = examples()[name]
    row, column, radius, grey = _LESION
    y, x = np.ogrid[: len(picture), : len(picture)]
    share = np.clip(radius + 0.5 - np.hypot(y - row, x - column), 0, 1)
    return f"{name}, with a painted lesion", (picture + share * (grey - picture)).astype(np.float32)


def level_in(label: str) -> int | None:
    """The level that the label of an example names."""
    _, _, after = label.partition(", level ")
    return int(after[:2]) if after[:2].isdigit() else None


def make(colin: Path) -> None:
    """Draw the files of `examples` afresh; `colin` is the volume of Colin 27."""
    from nilearn.datasets import load_mni152_template

    from oasisvq.data.align import align
    from oasisvq.data.phantom import person
    from oasisvq.data.volumes import read_volume

    template = load_mni152_template(resolution=1)
    heads = {
        "Colin 27": (align(*read_volume(colin)), _COLIN_LEVELS),
        "MNI152 template": (align(template.get_fdata(dtype=np.float32), template.affine), _TEMPLATE_LEVELS),
    }
    pictures = {
        f"{name}, level {level:02d}": np.round(head.levels[level] * 255)
        for name, (head, levels) in heads.items()
        for level in levels
    }
    for letter, (number, level) in zip("ABCD", _PEOPLE.items(), strict=True):
        slices, grade = person(0, number)
        pictures[f"Phantom person {letter}, level {level:02d}, grade {grade:g}"] = slices[level]
    for old in _folder().glob("*.png"):
        old.unlink()
    for name, picture in pictures.items():
        Image.fromarray(picture.astype(np.uint8)).save(_folder() / f"{name}.png", optimize=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
