"""The membership test against areas counted by hand, and its intervals."""

import numpy as np
import pytest

from oasisvq.measure import membership as measured
from oasisvq.measure.membership import membership


@pytest.fixture(autouse=True)
def _fewer_bootstraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "BOOTSTRAPS", 300)


def test_areas_are_those_of_people_and_of_slices() -> None:
    train = (np.array([1.0, 2.0, 1.0, 4.0, 3.0, 3.0]), ["a", "a", "b", "b", "c", "c"])  # means 1.5, 2.5, 3
    held_out = (np.array([2.0, 2.0, 5.0, 5.0]), ["d", "d", "e", "e"])  # means 2, 5
    found = membership(train, held_out)
    assert found["auc_people"] == pytest.approx(4 / 6)  # pairs in which the training person is cheaper
    assert found["auc_slices"] == pytest.approx(17 / 24)
    assert found["train_bits_per_code"] == pytest.approx(7 / 3)
    assert found["held_out_bits_per_code"] == pytest.approx(3.5)
    assert (found["train_people"], found["held_out_people"]) == (3, 2)


@pytest.mark.slow
def test_a_model_that_remembers_is_found_out_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(0)
    people = [f"{i:02}" for i in range(60) for _ in range(4)]

    def bits(mean: float) -> tuple[np.ndarray, list[str]]:
        return np.repeat(rng.normal(mean, 0.1, 60), 4) + rng.normal(0, 0.05, 240), people

    told = membership(bits(2.0), bits(2.3))
    assert told["auc_people"] > 0.95
    assert told["auc_people_ci95"][0] > 0.9
    alike = membership(bits(2.0), bits(2.0))
    low, high = alike["auc_people_ci95"]
    assert low < alike["auc_people"] < high
    # Hanley and McNeil (1982): the standard error of an area of a half from 60 and 60 is 0.053.
    assert high - low == pytest.approx(2 * 1.96 * 0.053, rel=0.2)
    # Slices of a person are near-copies: an interval over slices as if they were independent would be half as wide.
    low, high = alike["auc_slices_ci95"]
    assert high - low > 0.8 * 2 * 1.96 * 0.053
