"""The PNG layout of the `keras_png_slices_data` set: one folder a split, one file a slice.

    ROOT/keras_png_slices_train/case_001_slice_0.nii.png      also validate and test; .png, .jpg and .jpeg too
    ROOT/subjects.csv                                         optional: case,split,cdr
    ROOT/dataset.json                                         optional: name, description

ROOT may also be the folder that holds `keras_png_slices_data`. Instead of subjects.csv, OASIS-1's own table
(`oasis_cross-sectional*.csv`) may lie in ROOT: case numbers of this set are OASIS-1's subject numbers.

A split that is small when decoded is kept in memory. One that is large is decoded once, into a file in ROOT/decoded, or
in the folder that the environment variable OASISVQ_CACHE names, and slices are read from there as they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from oasisvq.data.names import Case, Names
from oasisvq.data.slices import VERSION, as_grey, normalise, to_model
from oasisvq.data.subjects import read_cdr
from oasisvq.errors import OasisVQError
from oasisvq.models.presets import Preset

SPLITS = ("train", "validate", "test")

# Bytes of decoded slices above which a split lives on disk: 80,000 slices of 80x80.
IN_MEMORY = 2**31

T = TypeVar("T")


class SliceSet(Dataset[dict[str, Any]]):
    """Slices of one split, ready for training, and whose they are.

    Attributes:
        slices: float32 (N, S, S) in [-0.5, 0.5], in memory or mapped from a file.
        about: (N,), in memory or mapped, with the fields `person`, the name in ASCII; `level`, 0 the lowest; and
            `grade`, index into the grades (CDR) of the preset, whose number means unknown. See `describe_slices`.
    """

    def __init__(self, slices: np.ndarray, about: np.ndarray) -> None:
        self.slices, self.about = slices, about
        self._slice, self._about = reader(slices), reader(about)

    @property
    def cases(self) -> list[str]:
        """The name of each slice's person; a second visit (042MR2) counts as the person (042)."""
        return self.about["person"].astype(str).tolist()

    @property
    def levels(self) -> np.ndarray:
        """int16 (N,)."""
        return np.ascontiguousarray(self.about["level"])

    @property
    def grades(self) -> np.ndarray:
        """int8 (N,)."""
        return np.ascontiguousarray(self.about["grade"])

    def __len__(self) -> int:
        return len(self.slices)

    def beside(self, i: int, offset: int) -> bool:
        """Whether slice i + offset is there, of the same person, and as many levels higher."""
        if not 0 <= i + offset < len(self):
            return False
        own, other = self._about(i), self._about(i + offset)
        return bool(other["person"] == own["person"] and other["level"] == own["level"] + offset)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """dict of slice, float tensor (1, S, S); level, int; grade, int."""
        about = self._about(i)
        return {
            "slice": torch.from_numpy(self._slice(i))[None],
            "level": int(about["level"]),
            "grade": int(about["grade"]),
        }


def describe_slices(person: str, levels: Sequence[int], grade: int, longest: int | None = None) -> np.ndarray:
    """`SliceSet.about` of slices of one person, (n,); arrays of people whose names differ in length need `longest`."""
    about = np.empty(len(levels), [("person", f"S{longest or len(person)}"), ("level", np.int16), ("grade", np.int8)])
    about["person"], about["level"], about["grade"] = person, levels, grade
    return about


def reader(array: np.ndarray) -> Callable[[int], np.ndarray]:
    """A function i -> array[i]. A mapped file is read, not mapped: pages touched would count as memory of this process.

    The file is held open: another run may replace it under its name.
    """
    if not isinstance(array, np.memmap):
        return array.__getitem__
    file = open(str(array.filename), "rb")  # noqa: SIM115 - open as long as the set is
    shape, size = array.shape[1:], array[0].nbytes

    def read(i: int) -> np.ndarray:
        content = bytearray(os.pread(file.fileno(), size, i * size))
        return np.frombuffer(content, array.dtype).reshape(shape)

    return read


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
    folders = _folders(root)
    if split not in folders:
        raise OasisVQError(f"{root}: no folder keras_png_slices_{split}: found only {', '.join(folders)}")
    names = Names(folders)
    known = _read_grades(root, grades)
    _check_known(known, names, root)
    by_rank, longest = names.largest_number() >= levels, names.longest_person(split)
    _, cases, count = names.counts(split)

    shape = _read_slice(next(names.cases(split)).files[0])
    stacks = _for_each(
        lambda case: to_model(normalise(_read_stack(case.files, shape)), size),
        names.cases(split),
        cases,
        f"reading {split}",
    )

    def about(case: Case) -> np.ndarray:
        numbers = case.numbers
        ranks = [rank * levels // len(numbers) for rank in range(len(numbers))]
        return describe_slices(case.person, ranks if by_rank else numbers, known.get(case.name, len(grades)), longest)

    if count * size**2 * 4 <= IN_MEMORY:
        return SliceSet(np.concatenate(list(stacks)), np.concatenate([about(case) for case in names.cases(split)]))
    pictures, records = hashlib.sha256(f"version {VERSION}".encode()), hashlib.sha256()
    for case in names.cases(split):
        for file in case.files:
            stat = file.stat()
            pictures.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        records.update(about(case).data)
    folder = Path(os.environ.get("OASISVQ_CACHE") or root / "decoded")
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]  # sets may share a folder
    decoded = on_disk(folder, f"{split}_{place}_{size}", pictures.hexdigest(), "float32", stacks)
    beside = on_disk(folder, f"{split}_{place}_about", records.hexdigest(), "records", map(about, names.cases(split)))
    return SliceSet(
        np.memmap(decoded, np.float32, "r").reshape(-1, size, size),
        np.memmap(beside, about(next(names.cases(split))).dtype, "r"),
    )


def load_for(preset: Preset, root: Path | str, split: str, size: int | None = None) -> SliceSet:
    """`load_split` as a preset reads slices, at its own size or another."""
    return load_split(root, split, size or preset.size, preset.levels, preset.grades)


def on_disk(folder: Path, name: str, stamp: str, kind: str, parts: Iterator[np.ndarray]) -> Path:
    """The file that holds `parts` one after the other, written unless it exists under this stamp.

    Of several processes on one machine one writes, and the others wait for it.
    """
    path = folder / f"{name}_{stamp[:16]}.{kind}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if path.is_file():
                return path
            for old in folder.glob(f"{name}_*.{kind}*"):
                old.unlink()
            partial = path.with_name(f"{path.name}.partial")
            with partial.open("wb") as out:
                for part in parts:
                    out.write(part.data)
            os.replace(partial, path)
    except OSError as error:
        raise OasisVQError(
            f"{folder}: {error.strerror}: free some space there, or name another folder: OASISVQ_CACHE for decoded "
            "slices, --out for codes"
        ) from error
    return path


def describe(root: Path | str) -> dict[str, Any]:
    """What a set holds: name, description, people and slices by split, and a fingerprint.

    The fingerprint is the sha256 over name, size and bytes of every slice in sorted order: two sets share it when their
    slices are the same files. Name and description come from dataset.json, else the folder's name and nothing.
    """
    root = _find_root(Path(root))
    names = Names(_folders(root))
    counts = {split: names.counts(split) for split in _folders(root)}
    digest = hashlib.sha256()
    total = sum(slices for _, _, slices in counts.values())
    for file in tqdm(names.files(), "fingerprint", total, unit="slice", disable=None, leave=False):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    said = _read_json(root / "dataset.json")
    return {
        "name": said.get("name", root.resolve().name),
        "description": said.get("description", ""),
        "people": {split: people for split, (people, _, _) in counts.items()},
        "slices": {split: slices for split, (_, _, slices) in counts.items()},
        "fingerprint": digest.hexdigest(),
    }


def _find_root(root: Path) -> Path:
    if not root.is_dir():
        raise OasisVQError(f"{root}: no such folder: give the folder that holds keras_png_slices_train")
    for candidate in (root, root / "keras_png_slices_data"):
        if any((candidate / f"keras_png_slices_{split}").is_dir() for split in SPLITS):
            return candidate
    raise OasisVQError(
        f"{root}: no keras_png_slices_train, _validate or _test inside: run `python -m oasisvq prepare` first"
    )


def _folders(root: Path) -> dict[str, Path]:
    """Folders of the splits that exist."""
    folders = {split: root / f"keras_png_slices_{split}" for split in SPLITS}
    return {split: folder for split, folder in folders.items() if folder.is_dir()}


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


def _for_each(work: Callable[[Case], T], cases: Iterator[Case], count: int, label: str) -> Iterator[T]:
    """`work` on every case in threads (decoding and resampling release the lock), in order, with a progress bar.

    Only a few results are kept before they are taken.
    """
    threads = min(8, os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(None, label, total=count, unit="person", disable=None, leave=False) as bar,
    ):
        waiting: deque[Future[T]] = deque()
        try:
            for case in cases:
                waiting.append(pool.submit(work, case))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
                    bar.update()
            while waiting:
                yield waiting.popleft().result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _read_grades(root: Path, grades: tuple[float, ...]) -> dict[str, int]:
    """Index of the grade of each person who has one."""
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


def _check_known(known: Mapping[str, int], names: Names, root: Path) -> None:
    """Raises OasisVQError when there are grades and all of them are of others: a spreadsheet may have made 1 of 001."""
    if known and not any(case.name in known for split in _folders(root) for case in names.cases(split)):
        raise OasisVQError(
            f"{root}: the table of grades names nobody whose slices are here, but {next(iter(known))}, for example: "
            "write its cases as they stand in the names of the files"
        )


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
