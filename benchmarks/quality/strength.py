"""How strongly a finished prior should be conditioned on the brightness of a sample: the choice of APPEARANCE_SCALE.

    python -m oasisvq benchmark strength --weights checkpoints/base --data DIR --json checkpoints/base/strength.json

Draws as `benchmark draws` makes them, at the levels and grades of the validation people, with the brightness given 1
(as in training), 1.3 and 1.6 times as strongly, and several seeds each. For each seed: the Fréchet distance to the
validation people over that of as many training slices, and how much the brightness of draws varies, as the variance of
the mean grey about that of its level, over the same of training slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._parser import new_parser
from benchmarks.quality.draws import SIZE, draw
from oasisvq import OasisVQ
from oasisvq.data.layout import load_for
from oasisvq.data.slices import to_model
from oasisvq.measure import realism
from oasisvq.measure.record import write_record
from oasisvq.models import sampling
from oasisvq.models.presets import TOP_K

STRENGTHS = (1.0, 1.3, 1.6)


@contextmanager
def conditioned(strength: float) -> Iterator[None]:
    """Samples are conditioned on their appearance so strongly."""
    usual = sampling.APPEARANCE_SCALE
    sampling.APPEARANCE_SCALE = strength
    try:
        yield
    finally:
        sampling.APPEARANCE_SCALE = usual


def spread(pictures: NDArray[np.floating], levels: NDArray[np.integer]) -> float:
    """Variance of the mean grey of pictures (N, S, S) about the mean of their level."""
    greys = pictures.mean((1, 2))
    return float(np.mean([greys[levels == level].var(ddof=1) for level in np.unique(levels)]))


def run(weights: str | None, data: Path, count: int, seeds: int) -> dict[str, Any]:
    """Every figure, as plain values ready for JSON, a row for each strength."""
    model = OasisVQ.from_pretrained(weights)
    preset = model.preset
    like = load_for(preset, data, "validate")
    held_out, train = (load_for(preset, data, s, SIZE) for s in ("validate", "train"))
    real = train.slices + 0.5
    rows = []
    for strength in STRENGTHS:
        row: dict[str, Any] = {"strength": strength, "frechet_ratio": [], "brightness_variance_ratio": []}
        for seed in range(seeds):
            with conditioned(strength):
                drawn, sources = draw(model, like, count, seed, temperature=1.0, top_k=TOP_K)
            if preset.size != SIZE:
                drawn = to_model(drawn, SIZE) + np.float32(0.5)
            row["frechet_ratio"].append(realism.frechet_figures(drawn, sources, held_out, train, real, seed)["ratio"])
            row["brightness_variance_ratio"].append(
                spread(drawn, held_out.levels[sources]) / spread(real, train.levels)
            )
        rows.append(row)
        print("  ".join(f"{key} {np.mean(values):.2f}" for key, values in row.items()), flush=True)
    return {
        "split": "validate",
        "people": len(set(held_out.cases)),
        "count": count,
        "top_k": TOP_K,
        "rows": rows,
        "weights_sha256": model.weights_sha256,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--weights", metavar="DIR|REPO", help="folder, bundled name or Hub repository")
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout, with train and validate")
    parser.add_argument("--count", type=int, default=640, help="draws of each seed (default 640)")
    parser.add_argument("--seeds", type=int, default=3, help="(default 3)")
    args = parser.parse_args(arguments)
    figures = run(args.weights, args.data, args.count, args.seeds)
    if args.json:
        write_record(args.json, figures)
