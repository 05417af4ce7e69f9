"""The training data of a prior: every slice of a split, and its mirror image, encoded once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from oasisvq.data.layout import SliceSet, on_disk, reader
from oasisvq.data.slices import FOREGROUND
from oasisvq.models.tokenizer import Tokenizer

BATCH = 32


class CodeSet(Dataset[dict[str, Tensor]]):
    """Codes of a split, read from a file one by one.

    Args:
        slices: what was encoded.
        near: the levels, counted from the slice's own, whose codes are wanted too.

    Attributes:
        records: (N,), memory-mapped, with the fields `codes`, uint16 (2, codes), of the slice and of its mirror image;
            `brightness`, from the function of that name; `level` and `grade` as in `SliceSet`.
    """

    def __init__(self, records: np.memmap, slices: SliceSet, near: tuple[int, ...] = ()) -> None:
        self.records, self.slices, self.near = records, slices, near
        self._read = reader(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """dict of codes, int64 (2, codes); brightness, level and grade, numbers.

        With `near` also `beside`, bool (len(near),), whether those levels are there, and `neighbours`, their codes,
        int64 (len(near), 2, codes), 0 where they are not.
        """
        record = self._read(i)
        return self._beside(i) | {
            "codes": torch.from_numpy(record["codes"].astype(np.int64)),
            "brightness": torch.tensor(float(record["brightness"])),
            "level": torch.tensor(int(record["level"])),
            "grade": torch.tensor(int(record["grade"])),
        }

    def _beside(self, i: int) -> dict[str, Tensor]:
        if not self.near:
            return {}
        there = [self.slices.beside(i, offset) for offset in self.near]
        codes = np.zeros((len(self.near), *self.records.dtype["codes"].shape), np.int64)
        for own, offset, found in zip(codes, self.near, there, strict=True):
            if found:
                own[:] = self._read(i + offset)["codes"]
        return {"beside": torch.tensor(there), "neighbours": torch.from_numpy(codes)}


def brightness(slices: Tensor) -> Tensor:
    """Mean grey of the brain: (B, 1, S, S) in [-0.5, 0.5] -> (B,) in [0, 1], 0 for a slice without brain."""
    grey = slices.flatten(1) + 0.5
    brain = grey > FOREGROUND
    return (grey * brain).sum(1) / brain.sum(1).clamp_min(1)


def encode_split(
    tokenizer: Tokenizer, slices: SliceSet, folder: Path, name: str, stamp: str, device: torch.device
) -> CodeSet:
    """Encode a split, unless `folder` has its codes under this stamp, a sha256 of what its pixels become codes by.

    In full precision, as slices are encoded later: rounding would move whole backgrounds to a neighbouring code.
    """
    codes = ("codes", np.uint16, (2, tokenizer.preset.codes))
    kind = np.dtype([codes, ("brightness", np.float32), ("level", np.int16), ("grade", np.int8)])

    def records() -> Iterator[NDArray[np.void]]:
        for batch in tqdm(DataLoader(slices, BATCH), f"encoding {name}", disable=None, leave=False):
            pictures = batch["slice"].to(device)
            both = [tokenizer.encode(one).flatten(1) for one in (pictures, pictures.flip(3))]
            part = np.empty(len(pictures), kind)
            part["codes"] = torch.stack(both, 1).cpu().numpy()
            part["brightness"] = brightness(pictures).cpu().numpy()
            part["level"], part["grade"] = batch["level"], batch["grade"]
            yield part

    # A grade may be corrected while pixels stay as they are.
    stamp = hashlib.sha256(stamp.encode() + slices.levels.tobytes() + slices.grades.tobytes()).hexdigest()
    with torch.no_grad():
        path = on_disk(folder, f"{name}_codes", stamp, "records", records())
    return CodeSet(np.memmap(path, kind, "r"), slices, tokenizer.preset.near)
