"""What the codes of a model stand for: where, how often and before which others people have them.

    python -m oasisvq benchmark codes --weights checkpoints/base --data DIR --json checkpoints/base/codes.json

Written beside the weights, the app shows it on Edit codes. It says nothing of one person, see `oasisvq.measure.usage`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from oasisvq import OasisVQ
from oasisvq.data.layout import load_split
from oasisvq.errors import OasisVQError
from oasisvq.measure.record import write_record
from oasisvq.measure.usage import FEWEST, usage


def main(arguments: list[str] | None = None) -> None:
    """Counts, prints, and writes what was found where asked to."""
    parser = argparse.ArgumentParser("python -m oasisvq benchmark codes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", metavar="DIR|REPO", help="folder, bundled name or Hub repository")
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout")
    parser.add_argument("--split", choices=("train", "validate", "test"), default="train")
    parser.add_argument("--slices", type=int, default=2240, help="at most so many, spread evenly (default 2240)")
    parser.add_argument("--json", type=Path, help="write it here")
    args = parser.parse_args(arguments)
    try:
        model = OasisVQ.from_pretrained(args.weights)
        preset = model.preset
        data = load_split(args.data, args.split, preset.size, preset.levels, preset.grades)
        chosen = np.unique(np.linspace(0, len(data) - 1, min(args.slices, len(data))).round().astype(int))
        slices = torch.stack([data[int(i)]["slice"] for i in chosen])
        people = [data.cases[i] for i in chosen]
        found = {
            "split": args.split,
            "people": len(set(people)),
            "slices": len(chosen),
            "stages": usage(model, slices, people, [int(data.levels[i]) for i in chosen]),
            "weights_sha256": {
                name: file["sha256"] for name, file in model.info["files"].items() if name.endswith(".safetensors")
            },
        }
    except OasisVQError as error:
        parser.exit(2, f"error: {error}\n")
    for stage in found["stages"]:
        rare = sum(count < FEWEST for count in stage["people"])
        print(f"{len(stage['share'])} codes, {rare} of them in fewer than {FEWEST} of {found['people']} people")
    if args.json:
        write_record(args.json, found, indent=None)


if __name__ == "__main__":
    main()
