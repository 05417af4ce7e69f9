"""How well the deviation map finds lesions with other constants: the choice of those of `oasisvq.measure.atypical`.

    python -m oasisvq benchmark deviation --weights checkpoints/base --data DIR --json checkpoints/base/deviation.json

Lesions as `benchmark lesions` paints them, into slices of validation people, judged by the deviation map alone. Each
constant is halved and doubled about the value that is in use, while the others stay. For each: the area under the ROC
curve per slice and per pixel, over lesions of 6 pixels and more of 80.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._parser import new_parser
from benchmarks.quality import lesions
from oasisvq import OasisVQ
from oasisvq.data.layout import SliceSet, load_for
from oasisvq.measure import atypical
from oasisvq.measure.record import write_record

CONSTANTS = ("NEARNESS", "LEAST", "SMOOTHING")
FACTORS = (0.5, 2.0)
EVERY = 4  # levels


def run(weights: str | None, data: Path, count: int, seed: int) -> dict[str, Any]:
    """Every figure, as plain values ready for JSON: a row for the constants in use, and one for each other."""
    model = OasisVQ.from_pretrained(weights)
    held_out = load_for(model.preset, data, "validate")
    chosen = np.flatnonzero(held_out.levels % EVERY == 0)
    some = SliceSet(held_out.slices[chosen], held_out.about[chosen])
    usual = {name: getattr(atypical, name) for name in CONSTANTS}
    settings = [usual, *(usual | {name: usual[name] * factor} for name in CONSTANTS for factor in FACTORS)]
    rows = []
    try:
        for setting in settings:
            for name, value in setting.items():
                setattr(atypical, name, value)
            found = lesions.run(model, some, count, seed)["scores"]["unusual"]["at_6_and_more"]
            rows.append({name.lower(): value for name, value in setting.items()} | found)
            print("  ".join(f"{name} {value:.3f}" for name, value in rows[-1].items()), flush=True)
    finally:
        for name, value in usual.items():
            setattr(atypical, name, value)
    return {
        "split": "validate",
        "people": len(set(some.cases)),
        "slices": len(some),
        "per_case": count,
        "seed": seed,
        "rows": rows,
        "weights_sha256": model.weights_sha256,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--weights", metavar="DIR|REPO", help="folder, bundled name or Hub repository")
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout, with validate")
    parser.add_argument("--count", type=int, default=16, help="lesions of each kind and size (default 16)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    figures = run(args.weights, args.data, args.count, args.seed)
    if args.json:
        write_record(args.json, figures)
