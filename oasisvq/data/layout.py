"""The PNG layout of the `keras_png_slices_data` set: one folder a split, one file a slice.

    ROOT/keras_png_slices_train/case_001_slice_0.nii.png      also validate and test; .png, .jpg and .jpeg too
    ROOT/keras_png_slices_seg_train/seg_001_slice_0.nii.png   optional label maps: 0, 85, 170, 255
    ROOT/subjects.csv                                         optional: case,split,cdr
    ROOT/dataset.json                                         optional: name, description

ROOT may also be the folder that holds `keras_png_slices_data`. Instead of subjects.csv, OASIS-1's own table
(`oasis_cross-sectional*.csv`) may lie in ROOT: case numbers of this set are OASIS-1's subject numbers.

A split that is small when decoded is kept in memory. One that is large is decoded once, into a file in ROOT/decoded, or
in the folder that the environment variable OASISVQ_CACHE names, and slices are read from there as they are asked for.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from oasisvq.data import slices as reading
from oasisvq.data.slices import normalise, square, to_model
from oasisvq.errors import OasisVQError
from oasisvq.presets import Preset

SPLITS = ("train", "validate", "test")

# Bytes of decoded slices above which a split lives on disk: 80,000 slices of 80x80.
IN_MEMORY = 2**31

_NAME = re.compile(r"(?:case|seg)_([0-9A-Za-z]+)_slice_(\d+)(?:\.nii)?\.(?:png|jpe?g)", re.IGNORECASE)
_OASIS_ID = re.compile(r"OAS1_0*(\d+)_MR(\d+)")
_LABELS = np.array([0, 85, 170, 255])

T = TypeVar("T")


class SliceSet(Dataset[dict[str, Any]]):
    """Slices of one split, ready for training: the person, level and grade of each are kept.

    Attributes:
        slices: float32 (N, S, S) in [-0.5, 0.5], in memory or mapped from a file.
        people: names, one each, as in the file names; a second visit (042MR2) counts as the person (042).
        owners: int32 (N,), index into the people.
        levels: int16 (N,), 0 the lowest level.
        grades: int8 (N,), index into the grades (CDR) of the preset; their number means unknown.
    """

    def __init__(
        self, slices: np.ndarray, people: list[str], owners: np.ndarray, levels: np.ndarray, grades: np.ndarray
    ) -> None:
        self.slices, self.people, self.owners, self.levels, self.grades = slices, people, owners, levels, grades

    @property
    def cases(self) -> list[str]:
        """The name of each slice's person, N of them, made anew: a million names are kept as numbers."""
        return [self.people[owner] for owner in self.owners.tolist()]

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """dict of slice, float tensor (1, S, S); level, int; grade, int."""
        picture = self.slices[i]
        if isinstance(self.slices, np.memmap):
            # Read instead of looked at: every page that was looked at would count as memory of this process.
            file, shape = str(self.slices.filename), picture.shape
            picture = np.fromfile(file, np.float32, picture.size, offset=i * picture.nbytes).reshape(shape)
        return {
            "slice": torch.from_numpy(picture)[None],
            "level": int(self.levels[i]),
            "grade": int(self.grades[i]),
        }


@dataclass(frozen=True, slots=True)
class _Person:
    """A person's files, by names cut in two: people with the same tails share one tuple, as a million slices must."""

    case: str
    folder: Path
    head: str  # case_001_slice_
    tails: tuple[str, ...]  # 0.nii.png, 1.nii.png ..., by number

    @property
    def numbers(self) -> list[int]:
        return [_number(tail) for tail in self.tails]

    @property
    def files(self) -> list[Path]:
        return [self.folder / (self.head + tail) for tail in self.tails]

    @property
    def name(self) -> str:
        """Whose slices these are: case 042MR2 is a second visit of case 042."""
        return re.sub(r"(?<=\d)MR\d+$", "", self.case)


def _number(tail: str) -> int:
    return int(tail.partition(".")[0])


def load_split(
    root: Path | str,
    split: str,
    size: int = Preset.size,
    levels: int = Preset.levels,
    grades: tuple[float, ...] = Preset.grades,
) -> SliceSet:
    """Read one split at `size` pixels, brightness normalised person by person.

    The level of a slice is its number in the file name; where numbers go beyond `levels`, it is the rank of the slice
    in its person's stack, scaled to `levels`.

    Raises OasisVQError naming the file and the fix when anything is missing, broken, coloured, of another size than the
    rest, or when a person is in two splits: nothing is skipped.
    """
    root = _find_root(Path(root))
    people = _index(root)
    if split not in people:
        raise OasisVQError(f"{root}: no folder keras_png_slices_{split}: found only {', '.join(people)}")
    group = people[split]
    counts = [len(person.tails) for person in group]
    places = {name: i for i, name in enumerate(dict.fromkeys(person.name for person in group))}
    known = _read_grades(root, grades)
    by_rank = max(number for group in people.values() for person in group for number in person.numbers) >= levels

    shape = _read_slice(group[0].files[0])
    stacks = _for_each(
        lambda person: to_model(normalise(_read_stack(person.files, shape)), size), group, f"reading {split}"
    )
    if sum(counts) * size**2 * 4 > IN_MEMORY:
        folder = Path(os.environ.get("OASISVQ_CACHE") or root / "decoded")
        pictures = np.memmap(_decoded(stacks, group, size, folder, split), np.float32, "r").reshape(-1, size, size)
    else:
        pictures = np.concatenate(list(stacks))
    return SliceSet(
        slices=pictures,
        people=list(places),
        owners=np.repeat(np.array([places[person.name] for person in group], np.int32), counts),
        levels=np.fromiter((n for p in group for n in _levels(p.numbers, levels, by_rank)), np.int16, sum(counts)),
        grades=np.repeat(np.array([known.get(p.case, len(grades)) for p in group], np.int8), counts),
    )


def _decoded(stacks: Iterator[np.ndarray], group: list[_Person], size: int, folder: Path, split: str) -> Path:
    """The file that holds `stacks` one after the other: written now, unless it was from the same files, by this code.

    Of several processes on one machine one writes, and the others wait for it.
    """
    stamp = hashlib.sha256(Path(reading.__file__).read_bytes())
    for file in (file for person in group for file in person.files):
        about = file.stat()
        stamp.update(f"{file.name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    path = folder / f"{split}_{size}_{stamp.hexdigest()[:16]}.float32"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if path.is_file():
                return path
            for old in folder.glob(f"{split}_{size}_*.float32*"):
                old.unlink()
            partial = path.with_suffix(".float32.partial")
            with partial.open("wb") as out:
                for stack in stacks:
                    out.write(stack.data)
            os.replace(partial, path)
    except OSError as error:
        raise OasisVQError(
            f"{folder}: {error.strerror}: large splits are decoded to disk, name a folder with room in OASISVQ_CACHE"
        ) from error
    return path


def load_labels(root: Path | str, split: str, size: int = Preset.size) -> np.ndarray:
    """Label maps of a split in the order of `load_split`, uint8 (N, size, size): 0 background, 1 CSF, 2 grey, 3 white.

    Raises OasisVQError when there are none, or when they are not of the same people and slices as the split.
    """
    root = _find_root(Path(root))
    people = _index(root, [split])[split]
    folder = root / f"keras_png_slices_seg_{split}"
    if not folder.is_dir():
        raise OasisVQError(f"{root}: no folder {folder.name}: this set has no label maps")
    labelled = _read_folder(folder)
    if [(p.case, p.numbers) for p in labelled] != [(p.case, p.numbers) for p in people]:
        raise OasisVQError(
            f"{folder}: label maps are not of the same slices as keras_png_slices_{split}: copy both again"
        )
    shape = _read_slice(labelled[0].files[0])
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)

    def read(person: _Person) -> np.ndarray:
        maps = [square(image) for image in _read_stack(person.files, shape)]
        pick = (centres * len(maps[0])).astype(int)
        nearest = [np.abs(image[np.ix_(pick, pick)][..., None] - _LABELS).argmin(-1) for image in maps]
        return np.stack(nearest).astype(np.uint8)

    return np.concatenate(list(_for_each(read, labelled, f"reading labels of {split}")))


def describe(root: Path | str) -> dict[str, Any]:
    """What a set holds: name, description, people and slices by split, and a fingerprint.

    The fingerprint is the sha256 over name, size and bytes of every slice in sorted order: two sets share it when their
    slices are the same files. Name and description come from dataset.json, else the folder's name and nothing.
    """
    root = _find_root(Path(root))
    people = _index(root)
    digest = hashlib.sha256()
    everybody = sorted((p for group in people.values() for p in group), key=lambda person: (person.folder, person.head))
    for person in tqdm(everybody, "fingerprint", unit="person", disable=None, leave=False):
        for file in sorted(person.files):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    said = _read_json(root / "dataset.json")
    return {
        "name": said.get("name", root.resolve().name),
        "description": said.get("description", ""),
        "people": {split: len({person.name for person in group}) for split, group in people.items()},
        "slices": {split: sum(len(person.tails) for person in group) for split, group in people.items()},
        "fingerprint": digest.hexdigest(),
    }


def as_grey(image: Image.Image, name: str) -> np.ndarray:
    """Pixels of a grey image, (H, W): uint8, or uint16 and up as stored. Colour modes pass when all channels agree.

    Raises OasisVQError for a picture that is truly coloured: there is no honest way to make one brightness of it.
    """
    if image.mode in ("L", "I", "F", "I;16", "I;16B", "I;16L"):
        return np.asarray(image)
    channels = np.asarray(image.convert("RGB")).astype(np.int16)
    # Two grey values of slack: JPEG stores colour differences, and rounds them.
    if np.ptp(channels, axis=-1).max() > 2:
        raise OasisVQError(f"{name}: a colour picture: a slice has one brightness a pixel, save it as greyscale")
    return channels[..., 1].astype(np.uint8)


def _find_root(root: Path) -> Path:
    if not root.is_dir():
        raise OasisVQError(f"{root}: no such folder: give the folder that holds keras_png_slices_train")
    for candidate in (root, root / "keras_png_slices_data"):
        if any((candidate / f"keras_png_slices_{split}").is_dir() for split in SPLITS):
            return candidate
    raise OasisVQError(
        f"{root}: no keras_png_slices_train, _validate or _test inside: run `python -m oasisvq prepare` first"
    )


def _index(root: Path, splits: Iterable[str] = SPLITS) -> dict[str, list[_Person]]:
    """People of every split that exists, checked: each in one split only."""
    people = {}
    home: dict[str, str] = {}
    for split in splits:
        folder = root / f"keras_png_slices_{split}"
        if not folder.is_dir():
            continue
        people[split] = _read_folder(folder)
        for person in people[split]:
            if home.setdefault(person.name, split) != split:
                raise OasisVQError(
                    f"{person.files[0]}: this case is also in {home[person.name]}: keep a person in one split"
                )
    return people


def _read_folder(folder: Path) -> list[_Person]:
    """People of one folder by name, their slices by number."""
    heads: dict[str, str] = {}
    tails: list[str] = []  # every one that anybody has
    numbers: dict[str, int] = {}  # their places in it
    # The places of a case's tails, as characters: a byte each while they are few. Lists would be most of the memory.
    has: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for name in (entry.name for entry in entries):
            if name.startswith(".") or name in ("Thumbs.db", "desktop.ini"):  # left by file browsers
                continue
            match = _NAME.fullmatch(name)
            if match is None:
                raise OasisVQError(
                    f"{folder / name}: not named like case_001_slice_0.nii.png: rename it or take it out of the folder"
                )
            case, start, tail = match[1], name[: match.start(2)], name[match.start(2) :]
            head = heads.setdefault(case, start)
            if start != head:
                raise OasisVQError(f"{folder / name}: case {case} is also spelt {head}: use one spelling")
            if tail not in numbers:
                numbers[tail] = len(tails)
                tails.append(tail)
            if numbers[tail] > sys.maxunicode:
                raise OasisVQError(f"{folder}: over a million different slice numbers: count the slices of each person")
            has[case] = has.get(case, "") + chr(numbers[tail])
    if not heads:
        raise OasisVQError(f"{folder}: the folder is empty: copy the slices into it or run `python -m oasisvq prepare`")
    people = []
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    for case, head in sorted(heads.items()):
        mine = tuple(sorted((tails[ord(place)] for place in has.pop(case)), key=lambda tail: (_number(tail), tail)))
        for one, next in pairwise(mine):
            if _number(one) == _number(next):
                raise OasisVQError(f"{folder / (head + next)}: the same slice as {head + one}: keep one of them")
        people.append(_Person(case, folder, head, shared.setdefault(mine, mine)))
    return people


def _read_slice(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return as_grey(image, str(file))
    except OasisVQError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OasisVQError(f"{file}: not a readable image ({error}): copy it again from where you got it") from error


def _read_stack(files: list[Path], like: np.ndarray) -> np.ndarray:
    """Slices of one person, (n, H, W), all of the size and depth of `like`."""
    stack = np.empty((len(files), *like.shape), like.dtype)
    for i, file in enumerate(files):
        image = _read_slice(file)
        if image.shape != like.shape or image.dtype != like.dtype:
            raise OasisVQError(
                f"{file}: is {_size(image)}, the first slice is {_size(like)}: one set needs one size and depth"
            )
        stack[i] = image
    return stack


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]} of {8 * image.itemsize} bits"


def _levels(numbers: list[int], levels: int, by_rank: bool) -> list[int]:
    return [rank * levels // len(numbers) for rank in range(len(numbers))] if by_rank else numbers


def _for_each(work: Callable[[_Person], T], people: list[_Person], label: str) -> Iterator[T]:
    """`work` on every person in threads (decoding and resampling release the lock), in order, with a progress bar.

    A few results at most wait for whoever takes them.
    """
    threads = min(8, os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(None, label, total=len(people), unit="person", disable=None, leave=False) as bar,
    ):
        waiting: deque[Future[T]] = deque()
        try:
            for person in people:
                waiting.append(pool.submit(work, person))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
                    bar.update()
            while waiting:
                yield waiting.popleft().result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _read_grades(root: Path, grades: tuple[float, ...]) -> dict[str, int]:
    """Index of the grade of each person that has one."""
    own = root / "subjects.csv"
    tables = [own] if own.is_file() else sorted(root.glob("oasis_cross-sectional*.csv"))
    known = {}
    for table in tables:
        for case, cdr in read_cdr(table).items():
            if cdr not in grades:
                raise OasisVQError(
                    f"{table}: case {case} has CDR {cdr:g}: expected one of {', '.join(f'{g:g}' for g in grades)}"
                )
            known[case] = grades.index(cdr)
    return known


def read_cdr(table: Path) -> dict[str, float]:
    """Clinical dementia rating by case from a table with the columns case and cdr, or OASIS-1's own with ID and CDR.

    OASIS-1's `OAS1_0042_MR1` is case 042. People without a rating (OASIS-1 rated nobody under 60) are left out.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = [
                {
                    (key or "").strip().lower(): (value or "").strip()
                    for key, value in row.items()
                    if isinstance(value, str)
                }
                for row in csv.DictReader(lines)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OasisVQError(f"{table}: not a readable table ({error}): save it as comma-separated UTF-8 text") from error
    if not rows or "cdr" not in rows[0] or not {"case", "id"} & set(rows[0]):
        raise OasisVQError(f"{table}: needs a heading line with case (or ID) and cdr, and a line a person")
    found = {}
    for row in rows:
        oasis = _OASIS_ID.fullmatch(row.get("id", ""))
        case = f"{int(oasis[1]):03d}" if oasis else row.get("case", row.get("id", ""))
        if row["cdr"] in ("", "N/A", "NA", "nan"):
            continue
        try:
            found[case] = float(row["cdr"])
        except ValueError as error:
            raise OasisVQError(f"{table}: case {case} has CDR {row['cdr']!r}: expected a number or nothing") from error
    return found


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OasisVQError(f"{file}: not JSON ({error}): delete it or prepare the set again") from error
    if not isinstance(content, dict):
        raise OasisVQError(f"{file}: expected an object with name and description: delete it or prepare the set again")
    return content
