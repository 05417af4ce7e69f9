"""Measures of draws: on pictures made by hand, on sets whose answer is known, and the whole command on tiny weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from skimage.feature import hog
from tiny_weights import forget_the_hub, write_weights

from benchmarks.quality import draws
from oasisvq.data.layout import SliceSet, describe_slices
from oasisvq.errors import OasisVQError
from oasisvq.measure import membership, realism

ROWS, COLUMNS = np.mgrid[:80, :80] - 39.5


def ellipse(tall: float, wide: float, row: float = 0, column: float = 0) -> np.ndarray:
    return np.square((ROWS - row) / tall) + np.square((COLUMNS - column) / wide) < 1


def brain(hole: float = 6, column: float = 0, grey: float = 0.6) -> np.ndarray:
    """White inside, a grey rim, a dark hole in the middle of the brain or `column` beside it."""
    picture = np.where(ellipse(28, 22), 0.9 * grey, 0)
    picture = np.where(ellipse(23, 17), 0.9, picture)
    return np.where(ellipse(hole, hole, 0, column), 0.1, picture) if hole else picture


def test_area_and_ventricle_are_those_of_the_ellipses() -> None:
    found = realism.anatomy(brain(hole=6))
    assert found["brain area"] == pytest.approx(np.pi * 28 * 22 / 80**2, rel=0.01)
    assert found["ventricle share"] == pytest.approx(6 * 6 / (28 * 22), rel=0.05)
    assert realism.anatomy(brain(hole=0))["ventricle share"] == 0


def test_dark_spots_near_the_outline_are_no_ventricles() -> None:
    assert realism.anatomy(brain(hole=3, column=18))["ventricle share"] == 0


def test_contrast_is_that_of_the_two_tissues_at_any_brightness() -> None:
    assert realism.anatomy(brain(grey=0.6))["grey/white contrast"] == pytest.approx(0.4, abs=0.01)
    assert realism.anatomy(brain(grey=0.75))["grey/white contrast"] == pytest.approx(0.25, abs=0.01)
    assert realism.anatomy(0.5 * brain()) == pytest.approx(realism.anatomy(brain()), abs=1e-6)


def test_symmetry_forgives_an_axis_off_centre_but_not_a_one_sided_hole() -> None:
    assert realism.anatomy(brain())["left-right symmetry"] == pytest.approx(1)
    assert realism.anatomy(np.roll(brain(), 4, axis=1))["left-right symmetry"] == pytest.approx(1, abs=1e-6)
    assert realism.anatomy(brain(column=8))["left-right symmetry"] < 0.9


def test_blur_lowers_sharpness_and_faint_haze_is_no_brain() -> None:
    blurred = sum(np.roll(brain(), (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    sharp, soft = realism.anatomy(brain()), realism.anatomy(blurred)
    assert soft["edge sharpness"] < 0.8 * sharp["edge sharpness"]
    haze = np.where(ellipse(36, 30), 0.05, 0)
    assert realism.anatomy(np.maximum(brain(), haze))["brain area"] == sharp["brain area"]


def test_black_and_flat_pictures_have_figures() -> None:
    assert set(realism.anatomy(np.zeros((80, 80))).values()) == {0}
    flat = realism.anatomy(np.where(ellipse(20, 20), 0.5, 0))
    assert flat["grey/white contrast"] == 0
    assert all(np.isfinite(list(flat.values())))


def test_halves_ratio_is_one_for_people_alike_and_grows_with_a_shift() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat([f"{i:02}" for i in range(20)], 32)

    def cohort() -> np.ndarray:
        return np.repeat(rng.normal(size=20), 32) + 0.3 * rng.normal(size=640)

    real = cohort()
    ratios = [np.divide(*realism.halves_ratio(cohort(), np.arange(640), real, people, i)) for i in range(12)]
    assert 0.8 < np.mean(ratios) < 1.25
    far, between = realism.halves_ratio(real + 3, np.arange(640), real, people)
    assert far > 4 * between


def test_halves_never_split_a_person() -> None:
    people = np.repeat(["a", "b", "c", "d"], 5)
    for half in realism.halves(people, 10):
        assert sorted({half[people == person].mean() for person in people}) == [0, 1]
        assert half.sum() == 10


def test_frechet_distance_is_the_closed_form_for_gaussians() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    a, b, shift = np.array([1, 2, 0.5, 3]), np.array([2, 1, 0, 3]), np.array([1, 0, -2, 0.5])
    # Exactly white vectors, so that means and covariances are what is asked for; common axes, so that roots commute.
    white = rng.normal(size=(500, 4))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(white.T @ white / 500)).T
    expected = np.square(shift).sum() + np.square(a - b).sum()
    assert realism.frechet_distance(white * a @ basis, (white * b + shift) @ basis) == pytest.approx(expected)
    assert realism.frechet_distance(white, white) == pytest.approx(0, abs=1e-9)
    # One dimension less than vectors: covariances without full rank.
    few, others = rng.normal(size=(30, 60)), rng.normal(size=(30, 60))
    assert realism.frechet_distance(few, few[::-1]) == pytest.approx(0, abs=1e-6)
    assert realism.frechet_distance(few, others) == pytest.approx(realism.frechet_distance(others, few))


def test_features_are_histograms_of_gradients_and_a_coarse_picture() -> None:
    picture = np.pad(np.random.default_rng(0).random((60, 60)), 10)
    found = realism.features(np.stack([picture, 0.5 * picture]))
    np.testing.assert_allclose(found[1], 0.5 * found[0])
    ours = found[0, :384].reshape(6, 8, 8)
    theirs = hog(picture, 6, (10, 10), (8, 8), block_norm="L2", feature_vector=False)[0, 0].transpose(2, 0, 1)
    np.testing.assert_allclose(ours / np.linalg.norm(ours), theirs, atol=1e-6)
    np.testing.assert_allclose(found[0, 384:].reshape(8, 8)[3, 4], 0.3 * picture[30:40, 40:50].mean())
    with pytest.raises(OasisVQError, match="multiple of 8"):
        realism.features(np.zeros((1, 20, 20)))


def stripes(n: int, seed: int, upright: bool = True) -> np.ndarray:
    """Noisy stripes of random phase: upright or lying."""
    rng = np.random.default_rng(seed)
    waves = 0.5 + 0.3 * np.sin(np.arange(16) + rng.uniform(0, 6, (n, 1, 1))) + rng.normal(0, 0.1, (n, 16, 16))
    return waves if upright else waves.swapaxes(1, 2)


@pytest.mark.slow
def test_classifier_tells_what_differs_and_not_what_does_not() -> None:
    people = [str(i // 10) for i in range(200)]
    real = stripes(200, 0)
    assert np.mean([realism.auc(stripes(200, 1), real, people, i) for i in range(3)]) == pytest.approx(0.5, abs=0.1)
    different = realism.auc(stripes(200, 1, upright=False), real, people)
    assert different > 0.97
    assert realism.auc(stripes(200, 1, upright=False), real, people) == different


def test_nearest_distance_finds_a_planted_copy_and_its_mirror_image() -> None:
    rng = np.random.default_rng(0)
    references, draws = rng.random((50, 16, 16)), rng.random((6, 16, 16))
    draws[2], draws[4] = references[41], references[13, :, ::-1]
    found = realism.nearest_distance(draws, references, chunk=16)
    both = np.concatenate([references, references[:, :, ::-1]])
    brute = np.sqrt(np.square(draws[:, None] - both[None]).mean((2, 3))).min(1)
    np.testing.assert_allclose(found, brute, atol=1e-6)
    assert np.flatnonzero(found < 1e-6).tolist() == [2, 4]


def made_up(people: int, seed: int) -> SliceSet:
    levels = np.tile(np.arange(8), people)
    rng = np.random.default_rng(seed)
    slices = np.stack([np.where(ellipse(25 + 3 * rng.random(), 20), 0.8, 0)[::5, ::5] for _ in levels])
    slices = (slices * rng.uniform(0.5, 1, slices.shape)).astype(np.float32) - 0.5
    return SliceSet(slices, np.concatenate([describe_slices(str(i), range(8), 0) for i in range(people)]))


@pytest.mark.slow
def test_figures_report_planted_copies_and_needs_two_people() -> None:
    train, held_out = made_up(6, 0), made_up(4, 1)
    sources = np.arange(32)
    drawn = made_up(4, 2).slices + 0.5
    drawn[:8] = train.slices[3:11] + 0.5
    figures = realism.measure(drawn, sources, held_out, held_out.slices + 0.5, train, train.slices + 0.5)
    assert figures["copies"]["share_closer"] == pytest.approx(8 / 32, abs=2 / 32)
    assert figures["copies"]["draws_least"] == 0
    assert figures["copies"]["held_out_percentiles"]["1"] == figures["copies"]["closest_1_percent"]
    assert figures["copies"]["draws_percentiles"]["50"] == figures["copies"]["draws_median"]
    alone = SliceSet(held_out.slices[:8], held_out.about[:8])
    with pytest.raises(OasisVQError, match="only one person"):
        realism.measure(drawn, sources % 8, alone, alone.slices + 0.5, train, train.slices + 0.5)


@pytest.mark.slow
def test_command_writes_its_table_figures_and_sheet_and_repeats_them(
    tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_the_hub(monkeypatch, tmp_path)
    monkeypatch.setattr(realism, "CLASSIFIER_SEEDS", 1)
    monkeypatch.setattr(membership, "BOOTSTRAPS", 20)
    folder = write_weights(tmp_path / "tiny")
    written = []
    for name in ("one", "two"):
        options = ["--weights", folder, "--data", tiny_cohort, "--count", "40", "--temperature", "0.9", "--top-k", "6"]
        outputs = ["--json", tmp_path / f"{name}.json", "--sheet", tmp_path / f"{name}.png"]
        draws.main(list(map(str, [*options, *outputs])))
        written.append((tmp_path / f"{name}.json").read_text())
    assert written[0] == written[1]
    figures = json.loads(written[0])
    for section in ("anatomy", "frechet", "auc", "copies"):
        assert (figures[section]["temperature"], figures[section]["top_k"]) == (0.9, 6)
    assert set(realism.MEASURES) <= set(figures["anatomy"])
    assert "40 draws, temperature 0.9, top-k 6" in capsys.readouterr().out
    assert (tmp_path / "one.png").stat().st_size > 1000
