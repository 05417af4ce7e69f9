"""How many codes a sample may choose from at a position: the choice of TOP_K.

    python -m oasisvq benchmark top_k --weights checkpoints/base --data DIR --json checkpoints/base/top_k.json

Draws as `benchmark draws` makes them, at the levels and grades of the validation people, from the likeliest codes alone
and from all. For each number of codes: how well fresh classifiers tell draws from the people's reconstructions; how far
each measure of anatomy lies from the people, over the distance of their halves; the Fréchet distance over that of as
many training slices; and the distance to the nearest training slice, over that of the reconstructions, both medians.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._parser import new_parser
from benchmarks.quality.draws import SIZE, draw
from oasisvq import OasisVQ
from oasisvq.data.layout import load_for
from oasisvq.data.slices import to_model
from oasisvq.measure import realism
from oasisvq.measure.evaluation import reconstruct
from oasisvq.measure.record import write_record

NUMBERS = (None, 200, 150, 100, 70)


def run(weights: str | None, data: Path, count: int, seed: int) -> dict[str, Any]:
    """Every figure, as plain values ready for JSON, a row for each number of codes."""
    model = OasisVQ.from_pretrained(weights)
    like = load_for(model.preset, data, "validate")
    held_out, train = (load_for(model.preset, data, s, SIZE) for s in ("validate", "train"))
    real, people = held_out.slices + 0.5, np.array(held_out.cases)
    again = _judged(reconstruct(model, like)[1])
    nearest = np.median(realism.nearest_distance(again, train.slices + 0.5))
    rows = []
    for top_k in NUMBERS:
        drawn, sources = draw(model, like, count, seed, temperature=1.0, top_k=top_k)
        drawn = _judged(drawn)
        anatomy = realism.anatomy_figures({"draws": drawn}, sources, real, people, seed)
        frechet = realism.frechet_figures(drawn, sources, held_out, train, train.slices + 0.5, seed)
        areas = realism.auc_figures(drawn, {"reconstructions": again}, people, seed)
        rows.append(
            {
                "top_k": top_k,
                "auc": areas["against_reconstructions_by_seed"],
                "auc_linear": areas["against_reconstructions_linear_by_seed"],
                "anatomy_ratio": {name: one["draws_ratio"] for name, one in anatomy.items()},
                "frechet_ratio": frechet["ratio"],
                "nearest_ratio": float(np.median(realism.nearest_distance(drawn, train.slices + 0.5)) / nearest),
            }
        )
        ratios = ", ".join(f"{name} {ratio}" for name, ratio in rows[-1]["anatomy_ratio"].items())
        area = areas["against_reconstructions"]
        print(f"{top_k or 'all'} codes: AUC {area:.3f}; Fréchet {frechet['ratio']:.2f}; {ratios}", flush=True)
    return {
        "split": "validate",
        "people": len(set(held_out.cases)),
        "count": count,
        "seed": seed,
        "rows": rows,
        "weights_sha256": model.weights_sha256,
    }


def _judged(pictures: np.ndarray) -> np.ndarray:
    return pictures if pictures.shape[1] == SIZE else to_model(pictures, SIZE) + np.float32(0.5)


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--weights", metavar="DIR|REPO", help="folder, bundled name or Hub repository")
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout, with train and validate")
    parser.add_argument("--count", type=int, default=640, help="draws for each number of codes (default 640)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    figures = run(args.weights, args.data, args.count, args.seed)
    if args.json:
        write_record(args.json, figures)
