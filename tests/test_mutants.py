"""Mutation testing itself, on a small library: what its tests hold, what they only run, and what no test runs."""

import contextlib
import importlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oasisvq.errors import OasisVQError

pytestmark = pytest.mark.slow

LIBRARY = '''"""A small library."""

from __future__ import annotations


def add(a: int | float, b: int | float) -> int | float:
    return a + b


def run(a: int) -> None:
    a * 2


def forgotten(a: int) -> int:
    return a - 1


def until(a: int) -> int:
    while a > 0:
        a -= 1
    return a
'''
TESTS = """from oasisvq.small import add, run, until


def test_add():
    run(1)
    assert add(3, 2) == 5
    assert until(3) == 0
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A working tree with a library of one module, whose tests are nearly good."""
    pytest.importorskip("cosmic_ray")
    for name, text in {
        "oasisvq/__init__.py": "",
        "oasisvq/small.py": LIBRARY,
        "tests/test_small.py": TESTS,
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\nmarkers = ["slow", "browser"]\n',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


def test_only_what_no_test_holds_survives(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants = importlib.import_module("benchmarks.system.mutants")
    monkeypatch.setattr(mutants, "SPARE", 1)  # some of these loops never end
    found = mutants.measure(tree, "oasisvq/small.py", ["tests/test_small.py"], sample=100)
    lines = {number: line.strip() for number, line in enumerate(LIBRARY.splitlines(), 1)}
    survivors = {(lines[one["line"]], one["run"]) for one in found["survivors"]}
    assert all(one["text"] == lines[one["line"]] for one in found["survivors"])
    assert {("a * 2", True), ("return a - 1", False)} <= survivors
    assert not any(text in ("return a + b", "return a") for text, _ in survivors)
    assert not any("def " in text for text, _ in survivors), "an annotation was changed"
    assert found["caught"] == found["mutants"] - len(found["survivors"]) >= 2
    assert (tree / "oasisvq" / "small.py").read_text() == LIBRARY


def test_a_larger_sample_holds_a_smaller_one_of_the_same_seed(tree: Path) -> None:
    mutants = importlib.import_module("benchmarks.system.mutants")
    found = mutants._mutants(tree / "oasisvq" / "small.py")
    few, some, all_ = (mutants._some(found, LIBRARY, count, 0) for count in (3, 5, 0))
    assert len(few) == 3
    assert set(few) < set(some) < set(all_)
    assert len({(one.line, one.column, one.kind) for one in some}) == 5
    assert mutants._some(found, LIBRARY, 3, 0) == few
    assert mutants._some(found, LIBRARY, 3, 1) != few


def test_survivors_alone_are_tried_again(tree: Path) -> None:
    mutants = importlib.import_module("benchmarks.system.mutants")
    tests = ["tests/test_small.py"]
    before = mutants.measure(tree, "oasisvq/small.py", tests, sample=3)
    assert before["survivors"]
    better = TESTS.replace("add, run, until", "add, forgotten, run, until") + "    assert forgotten(5) == 4\n"
    (tree / tests[0]).write_text(better)
    after = mutants.measure(tree, "oasisvq/small.py", tests, 3, 0, before["survivors"])
    assert after["mutants"] == 3
    assert after["caught"] > before["caught"]
    (tree / "oasisvq" / "small.py").write_text("\n" + LIBRARY)
    with pytest.raises(OasisVQError, match="without --again"):
        mutants.measure(tree, "oasisvq/small.py", tests, 3, 0, before["survivors"])


def test_a_mutant_written_in_the_same_second_is_not_taken_for_the_file(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants = importlib.import_module("benchmarks.system.mutants")
    mutating = importlib.import_module("cosmic_ray.mutating")
    use, times = mutating.use_mutation, []

    @contextlib.contextmanager
    def at_once(path: Path, *mutation: Any) -> Iterator[Any]:
        times.append(path.stat().st_mtime)
        with use(path, *mutation) as texts:
            os.utime(path, (times[0], times[0]))
            yield texts

    monkeypatch.setattr(mutating, "use_mutation", at_once)
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    tests = TESTS.replace("add, run, until", "add, forgotten, run, until") + "    assert forgotten(5) == 4\n"
    (tree / "tests" / "test_small.py").write_text(tests)
    found = mutants.measure(tree, "oasisvq/small.py", ["tests/test_small.py"], sample=3)
    assert [one["text"] for one in found["survivors"]] == ["a * 2"]


def test_tests_that_fail_without_a_change_are_an_error(tree: Path) -> None:
    mutants = importlib.import_module("benchmarks.system.mutants")
    (tree / "tests" / "test_small.py").write_text(TESTS + "    assert add(1, 1) == 3\n")
    with pytest.raises(OasisVQError, match="fail without any change"):
        mutants.measure(tree, "oasisvq/small.py", ["tests/test_small.py"], sample=1)
