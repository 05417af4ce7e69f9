"""The benchmark of failures: changes do what they are called, the worst are the worst."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture(scope="module")
def failures() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "quality" / "failures.py"
    spec = importlib.util.spec_from_file_location("failures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def head() -> np.ndarray:
    rows, columns = np.mgrid[:256, :256] - 127.5
    return np.where(np.hypot(rows / 80, (columns + 5) / 60) < 1, 0.5 + rows / 400, 0)[None]


@pytest.mark.parametrize(
    ("name", "down", "right"),
    [("unchanged", 0, 0), ("mirrored", 0, 10), ("moved by 8 mm", 0, 8), ("moved down by 16 mm", 16, 0)],
)
def test_changes_move_the_head_as_far_as_they_say(
    failures: ModuleType, head: np.ndarray, name: str, down: float, right: float
) -> None:
    changed = failures.CHANGES[name](head, np.random.default_rng(0))
    before, after = (np.array(ndimage.center_of_mass(x[0] > 0)) for x in (head, changed))
    assert after - before == pytest.approx([down, right], abs=0.1)


def test_changes_scale_turn_and_dim_as_they_say(failures: ModuleType, head: np.ndarray) -> None:
    def change(name: str) -> np.ndarray:
        return failures.CHANGES[name](head, np.random.default_rng(0))

    area = (head > 0.01).sum()
    assert (change("a tenth larger") > 0.01).sum() == pytest.approx(1.21 * area, rel=0.03)
    assert (change("rotated by 20 degrees") > 0.01).sum() == pytest.approx(area, rel=0.03)
    assert change("dimmed to a half").max() == head.max() / 2
    noise = change("noise of 5 % in the brain") - head
    assert noise[head == 0].max() == 0
    assert noise[head > 0.4].std() == pytest.approx(0.05, rel=0.05)


def test_the_worst_are_those_of_lowest_brain_ssim(failures: ModuleType) -> None:
    rng = np.random.default_rng(0)
    known = {name: rng.random(50) for name in ("ssim", "ssim_foreground", *failures.TRAITS)}
    known["detail"] = -known["ssim_foreground"]
    found = failures.worst(known, ["a"] * 25 + ["b"] * 25)
    assert [row["ssim_foreground"] for row in found["rows"]] == np.round(
        np.sort(known["ssim_foreground"])[:10], 4
    ).tolist()
    assert found["shared"]["detail"]["rank_correlation"] == pytest.approx(-1)
    assert found["shared"]["detail"]["worst_mean"] > found["shared"]["detail"]["all_mean"]
