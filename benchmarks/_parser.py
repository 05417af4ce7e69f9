"""What the commands of all benchmarks have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


def new_parser(module: str, about: str | None, json: str | None = "write the figures here") -> argparse.ArgumentParser:
    """The parser of a benchmark, by its `__name__` and `__doc__`; with --json, unless its help is None."""
    name, description = module.rpartition(".")[2], (about or "").splitlines()[0]
    parser = argparse.ArgumentParser(f"python -m oasisvq benchmark {name}", description=description)
    if json:
        parser.add_argument("--json", type=Path, metavar="FILE", help=json)
    return parser
