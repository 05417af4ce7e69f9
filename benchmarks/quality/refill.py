"""Seams of refilled regions: what the prior and the eye would notice at each edge of a region that was drawn again.

    python -m oasisvq benchmark refill --weights checkpoints/base --data DIR --json refill.json

Squares of a quarter of the grid's side, in the brain, are drawn again in slices of held-out people, the level given.
Plain raster drawing (one proposal) cannot see what is kept right of and below the square. Measured, mean over slices:

* excess: bits a kept code needs more than in the untouched slice, over the two rows below the square, and over the two
  columns right of it: 0 when the prior finds nothing odd where the new meets the old;
* jump: the mean difference of grey across each edge of the square, decoded, over that of the untouched reconstruction:
  1 when the edge cannot be seen;
* change: mean difference of grey to the untouched reconstruction inside the square. A fill that only copied would have
  no seams either.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks._parser import new_parser
from oasisvq import OasisVQ, OasisVQError
from oasisvq.data.layout import SliceSet, load_for
from oasisvq.measure import metrics
from oasisvq.measure.record import write_record

REACH = 2  # rows below and columns right whose codes are asked
EDGES = ("top", "left", "bottom", "right")


def squares(data: SliceSet, cells: int, count: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(row, column, side) of squares in cells, with kept brain on all sides in nearly every slice."""
    side, margin = cells // 4, REACH
    brain = metrics.brain_cells(data.slices + 0.5, (cells, cells)).mean(0)
    corners = [
        (row, column)
        for row in range(margin, cells - side - margin + 1)
        for column in range(margin, cells - side - margin + 1)
        if brain[row - margin : row + side + margin, column - margin : column + side + margin].mean() > 0.9
    ]
    if not corners:
        raise OasisVQError("no square lies in the brain of these slices: are they brains?")
    return [(*corners[rng.integers(len(corners))], side) for _ in range(count)]


def edges(pictures: Tensor, row: int, column: int, side: int, cell: int) -> np.ndarray:
    """Mean difference of grey across the edges of a square of cells: (N, S, S) -> (N, 4), in the order of EDGES."""
    top, left, bottom, right = (cell * at for at in (row, column, row + side, column + side))
    inside, beyond = (
        (
            pictures[:, top - 1 + k, left:right],
            pictures[:, top:bottom, left - 1 + k],
            pictures[:, bottom - 1 + k, left:right],
            pictures[:, top:bottom, right - 1 + k],
        )
        for k in (0, 1)
    )
    return np.stack([(a - b).abs().mean(1).numpy() for a, b in zip(inside, beyond, strict=True)], axis=1)


def excess(more: Tensor, row: int, column: int, side: int) -> np.ndarray:
    """Mean of additional bits (N, h, w) below and right of a square: (N, 2)."""
    below = more[:, row + side : row + side + REACH, column : column + side]
    right = more[:, row : row + side, column + side : column + side + REACH]
    return torch.stack([below.mean((1, 2)), right.mean((1, 2))], dim=1).numpy()


def run(model: OasisVQ, data: SliceSet, slices: int, proposals: list[int], seed: int = 0) -> list[dict[str, Any]]:
    """A row of figures for each number of proposals; a different square for every eight slices."""
    rng = np.random.default_rng(seed)
    cells, depth = model.preset.side, model.preset.depth
    cell = model.preset.size // cells  # pixels
    chosen = np.array_split(rng.permutation(len(data))[:slices], max(1, slices // 8))
    cases = list(zip(chosen, squares(data, cells, len(chosen), rng), strict=True))
    rows = []
    for number in tqdm(proposals, "refilling", disable=None, leave=False):
        found: dict[str, list[np.ndarray]] = {"excess": [], "before": [], "after": [], "change": []}
        seconds = 0.0
        for picks, (row, column, side) in cases:
            level = data.levels[picks].tolist()
            indices = model.encode(torch.from_numpy(data.slices[picks])[:, None])
            inside = (slice(None), slice(row * cell, (row + side) * cell), slice(column * cell, (column + side) * cell))
            region = torch.zeros(model.preset.size, model.preset.size, dtype=torch.bool)
            region[inside[1:]] = True
            started = time.perf_counter()
            filled, *_ = model.refill(indices, model.preset.cells(region), seed, level, proposals=number)
            seconds += time.perf_counter() - started
            bits = (model.preset.split(model.surprise(codes, level))[-1] for codes in (filled, indices))
            more = next(bits) - next(bits)
            before, after = model.decode(indices)[:, 0], model.decode(filled)[:, 0]
            in_cells = more.unflatten(2, (cells, depth)).mean(3)  # (N, h, w), of a code
            found["excess"].append(excess(in_cells, row, column, side))
            found["before"].append(edges(before, row, column, side, cell))
            found["after"].append(edges(after, row, column, side, cell))
            found["change"].append((after - before)[inside].abs().mean((1, 2)).numpy())
        figures = {name: np.concatenate(values) for name, values in found.items()}
        jumps = figures["after"].mean(0) / figures["before"].mean(0)
        rows.append(
            {
                "proposals": number,
                "slices": slices,
                "excess_below": float(figures["excess"][:, 0].mean()),
                "excess_right": float(figures["excess"][:, 1].mean()),
                "excess_error": float(figures["excess"].mean(1).std(ddof=1) / slices**0.5),
                **{f"jump_{edge}": float(jump) for edge, jump in zip(EDGES, jumps, strict=True)},
                "change": float(figures["change"].mean()),
                "seconds_a_fill": seconds / slices,
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Prints a row for every number of proposals asked for."""
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--weights", metavar="DIR|REPO", help="folder, bundled name or Hub repository")
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout")
    parser.add_argument("--split", choices=("validate", "test"), default="test")
    parser.add_argument("--slices", type=int, default=48, help="slices to refill (default 48)")
    parser.add_argument("--proposals", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    model = OasisVQ.from_pretrained(args.weights)
    preset = model.preset
    data = load_for(preset, args.data, args.split)
    rows = run(model, data, min(args.slices, len(data)), args.proposals, args.seed)
    print(f"{'':9}   bits more a kept code       jump of grey at the edge, 1: none")
    print(f"{'proposals':>9} {'below':>8}{'right':>8} {'error':>7}" + "".join(f"{edge:>9}" for edge in EDGES), end="")
    print(f"{'change':>9}{'s a fill':>10}")
    for row in rows:
        print(
            f"{row['proposals']:>9} {row['excess_below']:>8.2f}{row['excess_right']:>8.2f} {row['excess_error']:>7.2f}"
            + "".join(f"{row[f'jump_{edge}']:>9.2f}" for edge in EDGES)
            + f"{row['change']:>9.3f}{row['seconds_a_fill']:>10.2f}"
        )
    if args.json:
        write_record(args.json, {"rows": rows, "weights_sha256": model.weights_sha256})
