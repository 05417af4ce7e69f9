"""A fuzzer on everything that reads what a stranger may have made.

    pip install atheris && python -m oasisvq benchmark fuzz png --inputs 100000 --out fuzz

Files that a reader takes (tests/readers.py) are changed at random, steered by the lines of Python that they reach:
atheris, which is libFuzzer. It stops at the first file that a reader neither takes nor refuses as it should, leaves it
in OUT/READER and prints what went wrong. Files worth keeping stay in OUT/READER/corpus, where the next call begins.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

from benchmarks._parser import new_parser
from oasisvq.errors import OasisVQError
from oasisvq.files import HOME
from oasisvq.measure.record import write_record

TESTS = HOME / "tests"
STEERED_BY = ["PIL", "nibabel", "pydicom", "safetensors", "oasisvq"]


def main(arguments: list[str] | None = None) -> None:
    """Fuzz one reader. Ends this process, with libFuzzer's exit status; with --json a process of its own."""
    parser = new_parser(__name__, __doc__, "add what this reader took to a record")
    parser.add_argument("reader", help="of tests/readers.py")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="folder of corpus and findings")
    args = parser.parse_args(arguments)
    if args.json:
        keep(args)
        return
    try:
        import atheris
    except ImportError as error:
        raise OasisVQError("atheris is missing: pip install atheris") from error
    sys.path.insert(0, str(TESTS))
    with atheris.instrument_imports(include=STEERED_BY):
        readers = importlib.import_module("readers").READERS
    if args.reader not in readers:
        parser.error(f"no reader {args.reader}: choose from {', '.join(readers)}")
    reader, seeds = readers[args.reader], readers[args.reader].seeds()
    corpus = args.out / args.reader / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds):
        (corpus / f"seed_{i}").write_bytes(b"\0" + seed)

    def one(data: bytes) -> None:
        # The first byte says how the rest is dressed: checksums and compression hide what lies behind them.
        file = reader.dressings[data[0] % len(reader.dressings)](data[1:]) if data else b""
        if (fault := reader.wrong(file)) is not None:
            raise RuntimeError(fault)

    longest = 2 * max(map(len, seeds)) + 1024
    limits = [
        f"-runs={args.inputs}",
        f"-max_len={longest}",
        "-timeout=30",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
    ]
    atheris.Setup(["fuzz", *limits, f"-artifact_prefix={corpus.parent}/", str(corpus)], one)
    atheris.Fuzz()


def keep(args: argparse.Namespace) -> None:
    """Fuzz in a process of its own, and write down that nothing was found. Raises OasisVQError when something was."""
    words = ["benchmark", "fuzz", args.reader, "--inputs", str(args.inputs), "--out", str(args.out)]
    if subprocess.run([sys.executable, "-m", "oasisvq", *words]).returncode:
        raise OasisVQError(f"the fuzzer of {args.reader} failed, see above")
    readers = json.loads(args.json.read_text())["readers"] if args.json.is_file() else {}
    write_record(args.json, {"readers": readers | {args.reader: {"inputs": args.inputs}}})
