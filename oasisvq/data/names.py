"""The names of a set's files, checked and in order.

They are kept by SQLite in a temporary file: as Python strings the names of a million slices would take 80 MB, and more
with the numbers and people in them.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from oasisvq.errors import OasisVQError

_NAME = re.compile(r"case_([0-9A-Za-z]+)_slice_(\d+)(?:\.nii)?\.(?:png|jpe?g)", re.IGNORECASE | re.ASCII)
_LEFT_BY_BROWSERS = ("Thumbs.db", "desktop.ini")  # and whatever begins with a dot
_LARGEST = 2**63 - 1  # slice number that SQLite holds


@dataclass(frozen=True, slots=True)
class Case:
    """One visit of a person: its files by the number of the slice."""

    name: str
    folder: Path
    numbers: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        return [self.folder / name for name in self.names]

    @property
    def person(self) -> str:
        return _person(self.name)


def _person(case: str) -> str:
    """Case 042MR2 is a second visit of person 042."""
    return re.sub(r"(?<=\d)MR\d+$", "", case)


class Names:
    """The slices in folders, {split: folder}: cases in the order of their names, slices by number.

    Raises OasisVQError naming the file and the fix when a folder is empty, a name is not understood, a slice is there
    twice, or a person is in two splits.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        try:
            self._sort()
        except sqlite3.OperationalError as error:
            raise OasisVQError(
                f"names cannot be sorted: {error}: name a folder with room for temporary files in SQLITE_TMPDIR"
            ) from error
        for split, folder in folders.items():
            self._check(split, folder)
        self._check_homes()

    def _sort(self) -> None:
        self._db = sqlite3.connect("")  # on disk once it outgrows its cache
        self._db.execute("PRAGMA cache_size = -512")  # kB
        self._db.execute(
            "CREATE TABLE found (split TEXT, person TEXT, name TEXT, head TEXT, number INTEGER, file TEXT)"
        )
        for split, folder in self._folders.items():
            self._db.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?)", _walk(split, folder))
        self._db.execute("CREATE TABLE slices AS SELECT * FROM found ORDER BY split, name, number, file")
        self._db.execute("DROP TABLE found")

    def cases(self, split: str) -> Iterator[Case]:
        rows = self._db.execute("SELECT name, number, file FROM slices WHERE split = ? ORDER BY rowid", (split,))
        for name, group in groupby(rows, itemgetter(0)):
            _, numbers, files = zip(*group, strict=True)
            yield Case(name, self._folders[split], numbers, files)

    def files(self) -> Iterator[Path]:
        """Files of all splits, sorted by folder, spelling of the case, and name."""
        folders = sorted((folder, split) for split, folder in self._folders.items())
        for folder, split in folders:
            rows = self._db.execute("SELECT file FROM slices WHERE split = ? ORDER BY head, file", (split,))
            yield from (folder / name for (name,) in rows)

    def counts(self, split: str) -> tuple[int, int, int]:
        """People, cases and slices."""
        ask = "SELECT count(DISTINCT person), count(DISTINCT name), count(*) FROM slices WHERE split = ?"
        return self._db.execute(ask, (split,)).fetchone()

    def largest_number(self) -> int:
        """Of any slice of any split."""
        return self._db.execute("SELECT max(number) FROM slices").fetchone()[0]

    def longest_person(self, split: str) -> int:
        """Characters of the longest name of a person."""
        return self._db.execute("SELECT max(length(person)) FROM slices WHERE split = ?", (split,)).fetchone()[0]

    def _check(self, split: str, folder: Path) -> None:
        rows = self._db.execute("SELECT name, number, head, file FROM slices WHERE split = ? ORDER BY rowid", (split,))
        case = spelt = number = file = None
        for name, its_number, head, its_file in rows:
            if name != case:
                case, spelt, number = name, head, None
            if head != spelt:
                raise OasisVQError(f"{folder / its_file}: case {case} is also spelt {spelt}: use one spelling")
            if its_number == number:
                raise OasisVQError(f"{folder / its_file}: the same slice as {file}: keep one of them")
            number, file = its_number, its_file
        if case is None:
            raise OasisVQError(
                f"{folder}: the folder is empty: copy the slices into it or run `python -m oasisvq prepare`"
            )

    def _check_homes(self) -> None:
        two = "SELECT person FROM slices GROUP BY person HAVING min(split) <> max(split) LIMIT 1"
        for (person,) in self._db.execute(two):
            ask = "SELECT file FROM slices WHERE split = ? AND person = ? LIMIT 1"
            at = {split: self._db.execute(ask, (split, person)).fetchone() for split in self._folders}
            (home, _), (other, (file,)), *_ = ((split, found) for split, found in at.items() if found)
            raise OasisVQError(
                f"{self._folders[other] / file}: this case is also in {home}: keep a person in one split"
            )


def _walk(split: str, folder: Path) -> Iterator[tuple[str, str, str, str, int, str]]:
    with os.scandir(folder) as entries:
        for file in (entry.name for entry in entries):
            if file.startswith(".") or file in _LEFT_BY_BROWSERS:
                continue
            match = _NAME.fullmatch(file)
            if match is None or int(match[2]) > _LARGEST:
                raise OasisVQError(
                    f"{folder / file}: not named like case_001_slice_0.nii.png: rename it or take it out of the folder"
                )
            yield split, _person(match[1]), match[1], file[: match.start(2)], int(match[2]), file
