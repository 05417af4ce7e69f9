"""What the codes of a model stand for: where, how often and before which others people have them.

    python -m oasisvq benchmark codes --weights checkpoints/base --data DIR --json checkpoints/base/codes.json

Written beside the weights, the app shows it on Edit codes. It says nothing of one person, see `oasisvq.measure.usage`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks._parser import new_parser
from oasisvq import OasisVQ
from oasisvq.data.layout import load_for
from oasisvq.measure.record import write_record
from oasisvq.measure.usage import FEWEST, usage


def main(arguments: list[str] | None = None) -> None:
    """Counts, prints, and writes what was found where asked to."""
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--weights", metavar="DIR|REPO", help="folder, bundled name or Hub repository")
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout")
    parser.add_argument("--split", choices=("train", "validate", "test"), default="train")
    parser.add_argument("--slices", type=int, default=2240, help="at most so many, spread evenly (default 2240)")
    args = parser.parse_args(arguments)
    model = OasisVQ.from_pretrained(args.weights)
    preset = model.preset
    data = load_for(preset, args.data, args.split)
    chosen = np.unique(np.linspace(0, len(data) - 1, min(args.slices, len(data))).round().astype(int))
    slices = torch.stack([data[int(i)]["slice"] for i in chosen])
    people = [data.cases[i] for i in chosen]
    found = {
        "split": args.split,
        "people": len(set(people)),
        "slices": len(chosen),
        "stages": usage(model, slices, people, [int(data.levels[i]) for i in chosen]),
        "weights_sha256": model.weights_sha256,
    }
    for stage in found["stages"]:
        rare = sum(count < FEWEST for count in stage["people"])
        print(f"{len(stage['share'])} codes, {rare} of them in fewer than {FEWEST} of {found['people']} people")
    if args.json:
        write_record(args.json, found, indent=None)
