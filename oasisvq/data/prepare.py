"""Write the PNG layout (see layout.py) from the phantom cohort or from volumes; an interrupted run continues."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from oasisvq.data import phantom
from oasisvq.data.align import align
from oasisvq.data.layout import SPLITS
from oasisvq.data.subjects import read_cdr
from oasisvq.data.volumes import VolumeFile, find_volumes, read_volume, stem
from oasisvq.errors import OasisVQError

# People of the original set by split.
PEOPLE = (302, 35, 17)

REFUSED = "refused.csv"


@dataclass(frozen=True)
class _Job:
    """One person (or one visit) to write: `make` gives slices and grade, in any process."""

    case: str
    split: str
    source: str
    make: Callable[[], tuple[np.ndarray, float | None]]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.case, self.split, self.source


def prepare_phantom(
    out: Path | str,
    people: tuple[int, int, int] = PEOPLE,
    levels: int = 32,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Write the phantom cohort into the folder `out`: people to train, to validate and to test with, on all cores.

    The slices depend on seed and levels alone, not on `workers`. Run again after an interruption, it goes on; run again
    when finished, it does nothing. Raises OasisVQError when `out` holds something else.
    """
    if len(people) != 3 or min(people) < 1:
        raise OasisVQError(f"people {tuple(people)}: give three numbers, at least 1 each, to train, validate and test")
    splits = [split for split, count in zip(SPLITS, people, strict=True) for _ in range(count)]
    jobs = [
        _Job(f"{n:03d}", split, f"phantom {seed}/{n}", partial(phantom.person, seed, n, levels))
        for n, split in enumerate(splits, 1)
    ]
    about = {
        "name": "phantom cohort",
        "description": "Made-up people, no patients: the MNI152 template (Fonov et al. 2011) bent, aged and given new "
        "contrast and noise. The grade stands for how far ventricles and sulci were widened.",
        "source": f"oasisvq.data.phantom on the template of nilearn {version('nilearn')}",
        "seed": seed,
        "levels": levels,
        "people": dict(zip(SPLITS, people, strict=True)),
    }
    return _write(Path(out), about, jobs, workers, "phantom people")


def prepare_volumes(
    source: Path | str,
    out: Path | str,
    seed: int = 0,
    subjects: Path | str | None = None,
    workers: int | None = None,
) -> Path:
    """Write the levels of OASIS-1 discs or T1 heads, skull on or off, into the folder `out`, split by person by a seed.

    Grades (CDR) come from `subjects`, a table with ID (or case) and CDR; by default OASIS-1's own table or a
    subjects.csv when it lies in `source`. Goes on after an interruption, as `prepare_phantom`.
    What does not fit the frame (see align.py) is refused and left out; `refused.csv` in `out` says why, volume by
    volume. Raises OasisVQError when a split is left without people.
    """
    source = Path(source)
    volumes = find_volumes(source)
    split_of = _split(sorted({volume.person for volume in volumes}), seed, source)
    tables = [Path(subjects)] if subjects else sorted(source.glob("oasis_cross-sectional*.csv"))[:1]
    if not tables and (source / "subjects.csv").is_file():
        tables = [source / "subjects.csv"]
    cdr = {case: grade for table in tables for case, grade in read_cdr(table).items()}
    jobs = []
    inputs = hashlib.sha256()  # of names, sizes and ratings: a replaced volume or a corrected table is another set
    for volume in volumes:
        number = f"{int(volume.person[5:]):03d}" if volume.person.startswith("OAS1_") else volume.person
        names = (number, volume.person, stem(volume.file))
        grade = next((cdr[name] for name in names if name in cdr), None)
        voxels = volume.file.with_suffix(".img") if volume.file.suffix == ".hdr" else volume.file
        size = voxels.stat().st_size if voxels.is_file() else 0
        inputs.update(f"{volume.file.relative_to(source)}\0{size}\0{grade}\0".encode())
        jobs.append(
            _Job(volume.case, split_of[volume.person], str(volume.file.relative_to(source)), _Cut(volume, grade))
        )
    about = {
        "name": source.resolve().name,
        "description": f"{len(volumes)} T1 volumes of {len(split_of)} people, 32 axial levels each.",
        "source": "OASIS-1" if all(person.startswith("OAS1_") for person in split_of) else "NIfTI volumes",
        "seed": seed,
        "levels": 32,
        "people": {split: sum(s == split for s in split_of.values()) for split in SPLITS},
        "inputs": inputs.hexdigest(),
    }
    return _write(Path(out), about, jobs, workers, "volumes")


def _split(people: list[str], seed: int, source: Path) -> dict[str, str]:
    """A split for each person, in the proportions of the original set, at least one person in each."""
    if len(people) < 3:
        raise OasisVQError(f"{source}: {len(people)} people: at least 3 are needed, to train, to validate and to test")
    validate, test = (max(1, round(len(people) * share / sum(PEOPLE))) for share in PEOPLE[1:])
    order = np.random.default_rng(seed).permutation(len(people))
    names = ["test"] * test + ["validate"] * validate
    names += ["train"] * (len(people) - len(names))
    return {people[i]: name for i, name in zip(order, names, strict=True)}


@dataclass(frozen=True)
class _Cut:
    """What a worker does for one volume."""

    volume: VolumeFile
    grade: float | None

    def __call__(self) -> tuple[np.ndarray, float | None]:
        return np.round(align(*read_volume(self.volume.file)).levels * 255).astype(np.uint8), self.grade


def _write(out: Path, about: dict[str, Any], jobs: list[_Job], workers: int | None, unit: str) -> Path:
    """Make every job in a folder beside `out` that keeps what is finished, and rename it when all is there."""
    out = out.resolve()
    if _is_of(out, about):
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OasisVQError(f"{out}: holds something else already: choose another folder or delete it")
    if out.is_mount() or out == Path.cwd():
        raise OasisVQError(f"{out}: a mounted or current folder, which no finished one can replace: name one in it")
    draft = out.with_name(out.name + ".partial")
    wanted = {job.key for job in jobs}
    finished = _read_rows(draft) if _is_of(draft, about) else {}
    if not finished or not set(finished) <= wanted:
        finished = {}
        shutil.rmtree(draft, ignore_errors=True)
        for split in SPLITS:
            (draft / f"keras_png_slices_{split}").mkdir(parents=True)
        (draft / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        _write_rows(draft, {})

    left = [job for job in jobs if job.key not in finished]
    made = _results(left, draft, workers)
    bar = tqdm(made, f"preparing {unit}", len(jobs), initial=len(finished), unit="", disable=None)
    refused = {}
    for job, grade in bar:
        if isinstance(grade, OasisVQError):
            refused[job.source] = str(grade)
            continue
        finished[job.key] = "" if grade is None else f"{grade:g}"
        _write_rows(draft, finished)
    if refused:
        _write_refused(draft, refused)
    if empty := [split for split in SPLITS if split not in {split for _, split, _ in finished}]:
        raise OasisVQError(
            f"{len(refused)} of {len(jobs)} {unit} were refused, nobody is left in {' and '.join(empty)}: see "
            f"{draft / REFUSED}"
        )
    if out.is_dir():
        out.rmdir()
    draft.rename(out)
    return out


def _results(jobs: list[_Job], folder: Path, workers: int | None) -> Iterator[tuple[_Job, float | OasisVQError | None]]:
    """Each job with its grade, or why it was refused, as it is finished; in this process for one worker."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        yield from ((job, _make(job, folder)) for job in jobs)
        return
    # Spawned, not forked: the caller may hold threads (PyTorch does), and a fork would copy their locks.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        jobs_of = {pool.submit(_make, job, folder): job for job in jobs}
        try:
            for future in as_completed(jobs_of):
                yield jobs_of[future], future.result()
        except BrokenProcessPool as error:
            raise OasisVQError(
                f"one of {workers} processes was ended from outside, as happens when memory runs out: run the same "
                "command again with fewer --workers; what is finished is kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _make(job: _Job, folder: Path) -> float | OasisVQError | None:
    try:
        slices, grade = job.make()
    except OasisVQError as error:
        return OasisVQError(str(error))  # of a kind that travels between processes
    for number, image in enumerate(slices):
        name = f"case_{job.case}_slice_{number}.nii.png"
        Image.fromarray(image).save(folder / f"keras_png_slices_{job.split}" / name)
    return grade


def _is_of(folder: Path, about: dict[str, Any]) -> bool:
    """Whether the folder was made, or begun, by this very call."""
    try:
        return bool(json.loads((folder / "dataset.json").read_text(encoding="utf-8")) == about)
    except (OSError, ValueError):
        return False


def _read_rows(folder: Path) -> dict[tuple[str, str, str], str]:
    with (folder / "subjects.csv").open(newline="", encoding="utf-8") as lines:
        return {(row["case"], row["split"], row["source"]): row["cdr"] for row in csv.DictReader(lines)}


def read_refused(folder: Path | str) -> dict[str, str]:
    """What `prepare_volumes` left out of a set, by its place in the source, and why."""
    file = Path(folder) / REFUSED
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        return {row["source"]: row["why"] for row in csv.DictReader(lines)}


def _write_refused(folder: Path, refused: dict[str, str]) -> None:
    with (folder / REFUSED).open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines)
        table.writerow(("source", "why"))
        table.writerows(sorted(refused.items()))


def _write_rows(folder: Path, grades: dict[tuple[str, str, str], str]) -> None:
    """subjects.csv of the people finished so far, replaced at once so that it is never half written."""
    draft = folder / ".subjects.csv"
    with draft.open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines)
        table.writerow(("case", "split", "cdr", "source"))
        table.writerows((case, split, cdr, source) for (case, split, source), cdr in sorted(grades.items()))
    draft.replace(folder / "subjects.csv")
