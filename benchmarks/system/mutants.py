"""Mutation testing: small changes to the library, one at a time, and whether a test fails for each.

    OMP_NUM_THREADS=1 python -m oasisvq benchmark mutants --json benchmarks/records/mutants.json

Cosmic Ray (`pip install cosmic-ray`) makes the changes, called mutants: another operator, a number one off, a condition
negated, a loop not entered, an exception not caught, a decorator removed. Texts, annotations and docstrings are left as
they are. Everything happens in a copy of the working tree. A mutant faces those tests of its module, see MODULES, that
run its line, the quickest first; or all of them, where no test runs it by itself, as a constant on import. It is caught
by the first test that fails, that takes far more processor time than all of them took unchanged, or far more memory.

`--sample N` takes N places of each module at random, and of several changes to one place one. Modules that were
measured before keep their rows of the record unless they are named again. `--again` tries only the survivors on record,
after tests were added.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._parser import new_parser
from oasisvq.errors import OasisVQError
from oasisvq.measure.record import write_record

ROOT = Path(__file__).parent.parent.parent
MODULES = {  # under oasisvq/, and the tests that belong to it: files in tests/, or one test of a file
    "models/vqvae": ["vqvae"],
    "models/pixelcnn": ["pixelcnn", "sampling.py::test_logits_are_those_of_the_parallel_view"],
    "models/sampling": ["sampling"],
    "models/heads": ["heads"],
    "models/tokenizer": ["pipeline", "heads"],
    "measure/metrics": ["metrics"],
    "measure/evaluation": ["evaluation"],
    "compress": ["compress", "heads"],
    "hub/verification": ["manifest", "hub"],
    "hub/manifest": ["manifest", "hub"],
    "app/links": ["links"],
    "data/dicom": ["data_dicom", "data_scan"],
    "data/nifti": ["data_nifti", "data_scan"],
}
# What measures time, waits for it to pass, or takes longer than all other tests of its module.
WITHOUT = "benchmark or hub_that or hub_is_down or dead_hub or brightness_of_samples or other_arithmetic"
SPARE = 10  # seconds of processor time beyond twice what all tests of a module take
SERVERS = {"hub"}  # fixtures whose tests wait for a server
MEMORY = 12 << 30  # bytes of address space
PATIENCE = 1800  # seconds until a test that waits without computing is given up


class Mutant(NamedTuple):
    """One change of a file: an operator of Cosmic Ray, and at which of the places that it fits, counted from 0."""

    operator: str
    occurrence: int
    line: int
    column: int

    @property
    def kind(self) -> str:
        """The operator without what it puts in: of `core/ReplaceBinaryOperator_Add_Sub` the first word."""
        return self.operator.partition("/")[2].partition("_")[0]

    def is_of(self, survivor: dict[str, Any]) -> bool:
        """Whether it is that of a record."""
        name = self.operator.partition("/")[2]
        return (self.line, self.column, name, self.occurrence) == tuple(
            survivor[key] for key in ("line", "column", "operator", "occurrence")
        )


class Order:
    """A plugin of pytest: chosen tests alone, in a given order, or all without servers; and the seconds of each."""

    def __init__(self, chosen: Sequence[str] | None = None) -> None:
        self.chosen = None if chosen is None else {name: i for i, name in enumerate(chosen)}
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.chosen is not None:
            order = self.chosen
            items[:] = sorted((one for one in items if one.nodeid in order), key=lambda one: order[one.nodeid])
        else:
            items[:] = [one for one in items if not SERVERS & set(one.fixturenames)]

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration


def main(arguments: list[str] | None = None) -> None:
    """Measures module by module, prints the survivors, and adds each module to the record as soon as it is done."""
    parser = new_parser(__name__, __doc__, "the record that the modules are added to")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"default all: {', '.join(MODULES)}")
    parser.add_argument("--sample", type=int, default=40, help="places a module (default 40; 0: every mutant)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--again", action="store_true", help="survivors on record alone, of the sample on record")
    args = parser.parse_args(arguments)
    if unknown := set(args.modules) - set(MODULES):
        parser.error(f"no tests are known of {', '.join(sorted(unknown))}: choose from {', '.join(MODULES)}")
    found = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    rows: dict[str, Any] = found.get("modules", {})
    for module in args.modules or MODULES:
        tests = [f"tests/test_{name if '.py' in name else f'{name}.py'}" for name in MODULES[module]]
        sample, seed, only, first = args.sample, args.seed, None, None
        if args.again:
            if not (rows.get(module) or {}).get("survivors"):
                continue
            sample, seed, only, first = (
                rows[module][key] for key in ("sample", "seed", "survivors", "caught_at_first")
            )
        rows[module] = measure(ROOT, f"oasisvq/{module}.py", tests, sample, seed, only)
        first = rows[module]["caught"] if first is None else first
        rows[module] |= {"sample": sample, "seed": seed, "caught_at_first": first}
        print(f"{module}: {rows[module]['caught']} of {rows[module]['mutants']} caught", flush=True)
        if args.json:
            write_record(args.json, {"modules": {name: rows[name] for name in MODULES if name in rows}})


def measure(
    root: Path,
    module: str,
    tests: Sequence[str],
    sample: int = 0,
    seed: int = 0,
    only: Sequence[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Mutates one file of a working tree, in a copy of it. With `only`, survivors of this sample, all others count as
    caught.

    Returns counts, and of each survivor its place, text, operator and whether any test runs the line. Raises
    OasisVQError when Cosmic Ray is missing, or when the tests fail without any change.
    """
    try:
        importlib.import_module("cosmic_ray.ast")
        mutating = importlib.import_module("cosmic_ray.mutating")
        plugins = importlib.import_module("cosmic_ray.plugins")
    except ImportError as error:
        raise OasisVQError("Cosmic Ray is missing: pip install cosmic-ray") from error
    importlib.import_module("pytest")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        _copy(root, copy)
        path, text = copy / module, (copy / module).read_text(encoding="utf-8")
        chosen = tried = _some(_mutants(path), text, sample, seed)
        if only is not None:
            tried = [one for one in chosen if any(one.is_of(survivor) for survivor in only)]
            if len(tried) != len(only):
                raise OasisVQError(f"{module} is no longer what the record is of: measure it without --again")
        seconds, by_line, limit = _unchanged(copy, path, tests)
        files = [name.partition("::")[0] for name in tests]
        order = sorted(seconds, key=lambda name: (files.index(name.partition("::")[0]), seconds[name]))
        survivors = []
        for number, mutant in enumerate(tried, 1):
            those = by_line.get(mutant.line, ())
            some = [name for name in order if name in those]
            with mutating.use_mutation(path, plugins.get_operator(mutant.operator)(), mutant.occurrence):
                caught = _fails(copy, tests, some or order, limit)
            if not caught:
                survivors.append(
                    {
                        "line": mutant.line,
                        "text": text.splitlines()[mutant.line - 1].strip(),
                        "operator": mutant.operator.partition("/")[2],
                        "column": mutant.column,
                        "occurrence": mutant.occurrence,
                        "run": bool(some),
                    }
                )
                print(f"{module}:{mutant.line}:{mutant.column} {mutant.operator} survives", flush=True)
            print(f"{number} of {len(tried)}", end="\r", file=sys.stderr)
    return {"mutants": len(chosen), "caught": len(chosen) - len(survivors), "survivors": survivors}


def _copy(root: Path, to: Path) -> None:
    """All files that git tracks or would track, as they are now."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in names:
        if name and (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, to / name)


def _mutants(path: Path) -> list[Mutant]:
    """Every change that Cosmic Ray knows of a file, but those of annotations."""
    init = importlib.import_module("cosmic_ray.commands.init").init
    database = importlib.import_module("cosmic_ray.work_db")
    annotated = list(_annotations(ast.parse(path.read_text(encoding="utf-8"))))
    with (
        tempfile.TemporaryDirectory() as folder,
        database.use_db(f"{folder}/mutants.sqlite", database.WorkDB.Mode.create) as db,
    ):
        init([path], db, {})
        specs = [one for item in db.work_items for one in item.mutations]
    found = [Mutant(one.operator_name, one.occurrence, *one.start_pos) for one in specs]
    return sorted(
        (one for one in found if not any(begin <= (one.line, one.column) < end for begin, end in annotated)),
        key=lambda one: (one.line, one.column, one.operator, one.occurrence),
    )


def _annotations(tree: ast.AST) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end."""
    for node in ast.walk(tree):
        for kind in ("annotation", "returns"):
            if isinstance(one := getattr(node, kind, None), ast.expr):
                yield (one.lineno, one.col_offset), (one.end_lineno or one.lineno, one.end_col_offset or 0)


def _some(mutants: Sequence[Mutant], text: str, sample: int, seed: int) -> list[Mutant]:
    """One mutant of each of so many places, or all mutants when `sample` is 0; none that does not compile.

    Of one operator Cosmic Ray makes eleven others, nearly all of which end in a TypeError: drawn by places, they do not
    make up the score. A larger sample of the same seed contains a smaller one.
    """
    chosen: dict[object, Mutant] = {}
    for one in random.Random(seed).sample(mutants, len(mutants)):
        place = (one.line, one.column, one.kind if sample else one)
        if place not in chosen and _compiles(one, text):
            chosen[place] = one
        if len(chosen) == sample:
            break
    return sorted(chosen.values(), key=lambda one: (one.line, one.column))


def _compiles(mutant: Mutant, text: str) -> bool:
    mutate = importlib.import_module("cosmic_ray.mutating").mutate_code
    operator = importlib.import_module("cosmic_ray.plugins").get_operator(mutant.operator)
    try:
        compile(mutate(text, operator(), mutant.occurrence), "mutant", "exec")
    except (SyntaxError, AttributeError):  # the latter from Cosmic Ray: `except a.b:` is not known to it
        return False
    return True


def _unchanged(copy: Path, path: Path, tests: Sequence[str]) -> tuple[dict[str, float], dict[int, set[str]], float]:
    """The seconds of each test, the tests that run each line, and the processor time that a mutant may take."""
    coverage = importlib.import_module("coverage")
    before = time.time()

    def run() -> int:
        order = Order()
        words = ["--cov=oasisvq", "--cov-context=test", "--cov-report=", "-k", f"not ({WITHOUT})"]
        status = _pytest([*words, *tests], order)
        libraries = [
            name for name, one in sys.modules.items() if "site-packages" in (getattr(one, "__file__", "") or "")
        ]
        found = {"seconds": order.seconds, "took": sum(os.times()[:2]), "libraries": libraries}
        Path("unchanged.json").write_text(json.dumps(found))
        return status

    if status := _forked(copy, run, None):
        output = (copy / "output.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
        raise OasisVQError(f"the tests fail without any change (pytest's status {status}): {output}")
    # A mutant written within a second, and of the same size, would be taken for what is compiled here.
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
    found = json.loads((copy / "unchanged.json").read_text())
    for name in found["libraries"]:  # loaded here, once, they are there in every process forked from this one
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    data = coverage.CoverageData(str(copy / ".coverage"))
    data.read()
    measured = {Path(name).resolve(): name for name in data.measured_files()}
    by_line = data.contexts_by_lineno(measured[path.resolve()]) if path.resolve() in measured else {}
    names = {line: {name.partition("|")[0] for name in some if name} for line, some in by_line.items()}
    print(
        f"{len(found['seconds'])} tests pass in {time.time() - before:.0f} s, {found['took']:.0f} s of processor time"
    )
    return found["seconds"], names, SPARE + 2 * found["took"]


def _fails(copy: Path, tests: Sequence[str], chosen: Sequence[str], limit: float) -> bool:
    """Whether any of the chosen tests fails, or the limit of processor time is reached."""
    files = {name.partition("::")[0] for name in chosen}
    asked = [one for one in tests if one.partition("::")[0] in files]

    def run() -> int:
        sys.dont_write_bytecode = True  # a file of the same size and second would be taken for the one before it
        return _pytest(["-x", "-p", "no:cov", *asked], Order(chosen))

    return _forked(copy, run, limit) != 0


def _pytest(words: Sequence[str], plugin: Order) -> int:
    import pytest

    quiet = ["-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-n", "0"]
    return int(pytest.main([*quiet, *words], plugins=[plugin]))


def _forked(copy: Path, run: Callable[[], int], limit: float | None) -> int:
    """The exit status of a function in a process of its own, in the copy, where oasisvq is that of the copy."""

    def child() -> None:
        import resource  # which Windows lacks

        os.setsid()
        os.chdir(copy)
        out = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit)))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        for name in list(sys.modules):
            if name.partition(".")[0] in ("oasisvq", "benchmarks"):
                del sys.modules[name]
        sys.path.insert(0, str(copy))
        os.environ["PYTHONPATH"] = str(copy)
        os._exit(run())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode or 0


if __name__ == "__main__":
    main()
