"""A tiny cohort in the PNG layout, made of ellipses: enough to train on, in no time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

# Most tests are about what all models do alike: the smaller one does it sooner, here and in servers that tests start.
os.environ.setdefault("OASISVQ_MODEL", "base")
# Two processes run tests at once (pyproject.toml): threads on top of that would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

PEOPLE = {"train": 4, "validate": 2, "test": 2}
LEVELS = 8


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The groups: what is marked neither `browser` nor `slow` is `fast`."""
    for item in items:
        if not any(item.iter_markers("browser")) and not any(item.iter_markers("slow")):
            item.add_marker(pytest.mark.fast)
    # Files with long tests first: of two processes, none should be left with one when the other has nothing more to do.
    long = {item.path for item in items if not item.get_closest_marker("fast")}
    items.sort(key=lambda item: item.path not in long)


@contextlib.contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    """Hold a lock on a file or folder, of this kind of `fcntl.flock`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process that was forked meanwhile has the descriptor too
        os.close(descriptor)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that is marked `alone`, as it measures time, runs while the other processes wait."""
    here = Path(__file__)
    with contextlib.ExitStack() as queue, contextlib.ExitStack() as turn:
        queue.enter_context(locked(here.parent, fcntl.LOCK_EX))  # who waits to be alone is not overtaken
        turn.enter_context(locked(here, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH))
        queue.close()
        return (yield)


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64] - 32
    number = 0
    for split, people in PEOPLE.items():
        folder = root / f"keras_png_slices_{split}"
        folder.mkdir()
        for _ in range(people):
            number += 1
            tall, wide, inner = rng.uniform(18, 26), rng.uniform(14, 22), rng.uniform(0.3, 0.6)
            for level in range(LEVELS):
                radius = np.hypot(rows / tall, columns / wide) * (1 + 0.02 * level)
                picture = np.where(radius < 1, 200, 0) - np.where(radius < inner, 90, 0)
                noisy = np.where(radius < 1, picture + rng.normal(0, 6, picture.shape), 0)
                name = f"case_{number:03}_slice_{level}.nii.png"
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name)
    return root


@pytest.fixture
def upright(monkeypatch: pytest.MonkeyPatch) -> None:
    """For heads that lie nearly as the reference does: one start of their registration instead of the best of many."""
    monkeypatch.setattr("oasisvq.data.align._TURNS", ((0.0,),) * 3)
    monkeypatch.setattr("oasisvq.data.align._SHIFTS", (0.0,))
