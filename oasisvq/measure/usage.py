"""What codes stand for: where in the slice, how often and before which others people have them.

Nothing of one person: a place counts only where at least FEWEST people have the code there or in a neighbouring cell.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from oasisvq.errors import OasisVQError
from oasisvq.pipeline import OasisVQ

FEWEST = 5
NEXT = 5  # likeliest codes to the right
_BATCH = 16


@torch.inference_mode()
def usage(model: OasisVQ, slices: Tensor, people: Sequence[str], levels: Sequence[int]) -> list[dict[str, Any]]:
    """What is known of every code of every stage of a model.

    Args:
        slices: (N, 1, S, S) in [-0.5, 0.5]. people, levels: whose each is, and at which level.

    Returns:
        For each stage: `shape` (K, rows, columns of cells); `places`, packed uint8 of that shape, 255 where a code is
        most common; `share` (K,) of all codes; `people` (K,) who have it; `next` (K, NEXT), the codes that the prior
        finds likeliest to its right, on average over where it occurs.
    """
    indices = torch.cat([model.encode(part) for part in slices.split(_BATCH)])
    numbers = np.unique(np.asarray(people), return_inverse=True)[1]
    found = []
    for number, stage in enumerate(model.stages):
        size, (rows, columns) = stage.preset.codebook_size, stage.preset.grid
        grids = model.preset.split(indices)[number]
        depth = stage.preset.depth
        counts = np.zeros((size, rows, columns // depth), np.int64)
        owners = np.zeros((numbers.max() + 1, size), bool)
        who = np.zeros(counts.shape, np.int32)
        for person in range(numbers.max() + 1):
            mine = grids[torch.from_numpy(numbers == person)].numpy()
            had = np.zeros(counts.shape, np.int64)
            row, column = np.indices(mine.shape[1:])
            for grid in mine:
                np.add.at(had, (grid, row, column // depth), 1)
            counts += had
            owners[person] = had.any((1, 2))
            who += ndimage.maximum_filter(had > 0, (1, 3, 3))
        common = np.where(who >= FEWEST, counts, 0)
        shown = common / np.maximum(common.max((1, 2), keepdims=True), 1)
        people_of = owners.sum(0)
        likely = _following(model, number, indices, torch.as_tensor(levels))
        found.append(
            {
                "shape": list(counts.shape),
                "places": _packed(np.rint(shown * 255).astype(np.uint8)),
                "share": [round(float(share), 7) for share in counts.sum((1, 2)) / counts.sum()],
                "people": [int(count) if count >= FEWEST else 0 for count in people_of],
                "next": [row if count >= FEWEST else [] for row, count in zip(likely, people_of, strict=True)],
            }
        )
    return found


def places(stage: dict[str, Any], code: int) -> NDArray[np.float32]:
    """(rows, columns) in [0, 1]: where a code occurs, from `usage` of its stage."""
    shape = tuple(stage["shape"])
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(stage["places"]), int(np.prod(shape)))
        return np.frombuffer(content, np.uint8).reshape(shape)[code].astype(np.float32) / 255
    except (ValueError, zlib.error, IndexError) as error:
        raise OasisVQError("what is recorded of the codes cannot be read: get the weights again") from error


def _following(model: OasisVQ, number: int, indices: Tensor, levels: Tensor) -> list[list[int]]:
    """The codes that the prior of a stage expects to the right of each code."""
    stage = model.stages[number]
    size = stage.preset.codebook_size
    expected = torch.zeros(size, size, dtype=torch.float64)
    unknown = torch.full((len(indices),), len(stage.preset.grades))
    parts = model.preset.split(indices)
    for start in range(0, len(indices), _BATCH):
        some = slice(start, start + _BATCH)
        before = [part[some].to(stage.device) for part in parts[:number]]
        grids = parts[number][some].to(stage.device)
        condition = (levels[some].to(stage.device), unknown[some].to(stage.device))
        likely = stage.prior(grids, *condition, picture=stage.tokenizer.picture(*before)).softmax(1)  # (B, K, h, w)
        following = likely[..., 1:].permute(0, 2, 3, 1).reshape(-1, size)
        expected.index_add_(0, grids[..., :-1].flatten().cpu(), following.double().cpu())
    return expected.topk(min(NEXT, size)).indices.tolist()


def _packed(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()
