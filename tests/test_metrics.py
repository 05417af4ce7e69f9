"""Measures against other libraries, hand-made arrays and brute force."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from pytorch_msssim import ssim as reference_ssim
from tiny_weights import CASCADE, TINY

from oasisvq.data.slices import to_model
from oasisvq.measure import metrics


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = np.zeros((40, 40), np.float32)
    a[8:32, 8:32] = rng.random((24, 24))
    return a, np.clip(a + 0.05 * rng.standard_normal((40, 40)).astype(np.float32), 0, 1)


def test_ssim_agrees_with_an_independent_implementation(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (torch.from_numpy(x)[None, None].double() for x in pair)
    assert metrics.ssim(*pair) == pytest.approx(float(reference_ssim(a, b, data_range=1.0, win_sigma=1.5)), abs=1e-6)


def test_ssim_of_equal_pictures_is_one(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert metrics.ssim(pair[0], pair[0]) == pytest.approx(1)
    assert metrics.foreground_ssim(pair[0], pair[0]) == pytest.approx(1)
    assert metrics.sharpness(pair[0], pair[0]) == pytest.approx(1)
    assert metrics.psnr(pair[0], pair[0]) == math.inf


def test_foreground_ssim_ignores_the_background_and_counts_holes(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, _ = pair
    holed = a.copy()
    holed[16:22, 16:22] = 0
    mapped = metrics.similarity(holed, np.zeros_like(a)).map
    assert metrics.foreground_ssim(holed, np.zeros_like(a)) == pytest.approx(mapped[8:32, 8:32].mean(), abs=5e-3)
    assert math.isnan(metrics.foreground_ssim(np.zeros_like(a), a))


def test_pictures_are_clipped_before_they_are_compared(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    beyond = np.where(a == 0, -0.5, np.where(b > 0.9, 1.5, b))
    clipped = np.clip(beyond, 0, 1)
    for measure in (metrics.ssim, metrics.psnr, metrics.foreground_ssim):
        assert measure(a, beyond) == pytest.approx(measure(a, clipped))
    for measure in (metrics.ssim, metrics.psnr):
        assert measure(beyond, a) == pytest.approx(measure(clipped, a))
        assert measure(beyond, a) < measure(a, a)


def test_psnr_by_hand() -> None:
    assert metrics.psnr(np.zeros((8, 8)), np.full((8, 8), 0.1)) == pytest.approx(20)


def test_sharpness_of_half_the_contrast_is_a_quarter(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert metrics.sharpness(pair[0], pair[0] / 2) == pytest.approx(0.25, rel=1e-5)


def test_perplexity_and_utilisation_by_hand() -> None:
    indices = np.array([[[0, 0], [1, 1]], [[2, 2], [3, 3]]])
    assert metrics.perplexity(indices, 8) == pytest.approx(4)
    assert metrics.utilisation(indices, 8) == 0.5
    assert metrics.perplexity(np.zeros((1, 2, 2), int), 8) == pytest.approx(1)


def test_people_weigh_alike_however_many_slices_they_have() -> None:
    per_person = metrics.by_person([1, 1, 1, 0, math.nan], ["b", "b", "b", "a", "a"])
    assert per_person.tolist() == [1, 0]
    low, high = metrics.bootstrap_ci95(per_person)
    assert (low, high) == (0, 1)


def test_the_interval_is_the_same_whenever_it_is_taken() -> None:
    """A record says it to the last digit, so neither the seed nor the number of draws may change."""
    low, high = metrics.bootstrap_ci95(np.arange(7.0) ** 2)
    means = np.arange(7.0)[np.random.default_rng(0).integers(7, size=(10_000, 7))] ** 2
    assert (low, high) == tuple(np.percentile(means.mean(1), [2.5, 97.5]))


@pytest.mark.parametrize("people", [30, 1000])
def test_the_interval_is_that_of_a_normal_mean(people: int) -> None:
    values = np.random.default_rng(people).normal(size=people)
    low, high = metrics.bootstrap_ci95(values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / math.sqrt(people), rel=0.05)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.03)


def test_brain_cells_need_half_a_cell() -> None:
    slices = np.zeros((1, 8, 8), np.float32)
    slices[0, 0:4, 0:2] = 1  # half of the first cell
    slices[0, 4:8, 4] = slices[0, 5:8, 5] = 1  # 7 of 16 pixels of the last
    assert metrics.brain_cells(slices, (2, 2))[0].tolist() == [[True, False], [False, False]]


def test_neighbour_table_agrees_with_a_naive_one() -> None:
    rng = np.random.default_rng(0)
    size = 5
    train, test = rng.integers(0, size, (6, 4, 4)), rng.integers(0, size, (2, 4, 4))

    def contexts(grids: np.ndarray) -> list[tuple[int, int, int]]:
        def at(g: np.ndarray, r: int, c: int) -> int:
            return int(g[r, c]) if r >= 0 and c >= 0 else -1

        return [(at(g, r, c), at(g, r, c - 1), at(g, r - 1, c)) for g in grids for r in range(4) for c in range(4)]

    seen = contexts(train)
    unigram = Counter(c for c, _, _ in seen)

    def blend(matching: list[int], code: int, fallback: float) -> float:
        if not matching:
            return fallback
        kinds = len(set(matching))
        return (matching.count(code) + kinds * fallback) / (len(matching) + kinds)

    wanted = []
    for code, left, up in contexts(test):
        none = (unigram[code] + 1) / (len(seen) + size)
        either = 0.5 * (
            blend([c for c, x, _ in seen if x == left], code, none)
            + blend([c for c, _, y in seen if y == up], code, none)
        )
        wanted.append(-math.log2(blend([c for c, x, y in seen if (x, y) == (left, up)], code, either)))
    table = metrics.NeighbourTable(train, size)
    np.testing.assert_allclose(table.bits(test).ravel(), wanted)


def test_codes_that_were_never_counted_cost_what_none_costs() -> None:
    """The largest code beside itself is a context beyond all that were seen."""
    table = metrics.NeighbourTable(np.zeros((1, 3, 3), int), 9)
    unseen = np.full((1, 3, 3), 8)
    assert table.histogram_bits(unseen) == pytest.approx(np.full((1, 3, 3), math.log2(18)))
    assert table.bits(unseen)[0, 1:, 1:] == pytest.approx(np.full((2, 2), math.log2(18)))


def test_neighbour_table_is_a_distribution() -> None:
    rng = np.random.default_rng(1)
    size = 7
    table = metrics.NeighbourTable(rng.integers(0, size, (3, 5, 5)), size)
    grid = rng.integers(0, size, (1, 5, 5))
    total = np.zeros(())
    for code in range(size):
        changed = grid.copy()
        changed[0, 4, 4] = code
        total = total + 2.0 ** -table.bits(changed)[0, 4, 4]
    assert total == pytest.approx(1)


def test_the_codes_of_a_cell_are_all_in_the_brain_or_none() -> None:
    slices = np.zeros((2, 8, 8))
    slices[0, :4, 4:] = slices[1, 4:] = 1.0
    once, thrice = (metrics.brain_cells(slices, grid) for grid in ((2, 2), (2, 6)))
    assert np.array_equal(thrice, once.repeat(3, axis=2))
    assert metrics.background_cells(slices, (4, 8)).shape == (2, 4, 8)


def test_brain_codes_of_a_cascade_are_those_of_its_stages() -> None:
    rng = np.random.default_rng(0)
    slices = np.zeros((3, 24, 24), np.float32)
    slices[:, 6:20, 3:15] = 0.2 + 0.6 * rng.random((3, 14, 12))
    found = metrics.brain_codes(slices, CASCADE)
    small = to_model(slices, TINY.size) + 0.5
    coarse, own = metrics.brain_cells(small, (4, 4)), metrics.brain_cells(slices, (6, 6))
    assert found.shape == (3, *CASCADE.shape)
    np.testing.assert_array_equal(found.reshape(3, -1)[:, :16], coarse.reshape(3, -1))
    np.testing.assert_array_equal(found.reshape(3, -1)[:, 16:], own.reshape(3, -1))
    assert coarse.any()
    assert not own.all()


def test_background_begins_two_cells_from_the_brain() -> None:
    picture = np.zeros((1, 48, 48))
    picture[0, 21, 21] = 1.0  # one pixel, in cell (5, 5) of 12 x 12
    far = metrics.background_cells(picture, (12, 12))[0]
    rows, columns = np.indices(far.shape)
    assert np.array_equal(far, np.maximum(abs(rows - 5), abs(columns - 5)) > 1)


def test_sharpness_looks_where_the_original_shows_brain() -> None:
    rng = np.random.default_rng(0)
    original, other = np.zeros((24, 24)), np.zeros((24, 24))
    original[4:20, 4:20] = 0.3 + 0.4 * rng.random((16, 16))
    other[4:20, 4:12] = original[4:20, 4:12]  # half of the brain is lost, and what is black there has no edges
    inside = np.zeros((24, 24), bool)
    inside[4:20, 4:20] = True
    energy = [sum(np.square(g)[inside].sum() for g in np.gradient(picture)) for picture in (other, original)]
    assert metrics.sharpness(original, other) == pytest.approx(energy[0] / energy[1])
