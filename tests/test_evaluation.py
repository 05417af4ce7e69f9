"""Figures over a split, against the same worked out by hand."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_weights import TINY, write_weights

from oasisvq import OasisVQ
from oasisvq.data.layout import load_split
from oasisvq.measure import evaluation, metrics
from oasisvq.measure.evaluation import evaluate
from oasisvq.measure.out_of_distribution import calibrate, compare, measure


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OasisVQ:
    loaded = OasisVQ.from_pretrained(write_weights(tmp_path_factory.mktemp("weights") / "tiny"), device="cpu")
    torch.manual_seed(0)
    loaded.vqvae.quantiser.codebook.copy_(torch.randn(TINY.codebook_size, TINY.code_dim))
    return loaded


def test_the_rivals_of_the_prior_count_each_place_in_a_cell_apart() -> None:
    rng = np.random.default_rng(0)
    seen, indices = rng.integers(8, size=(50, 4, 8)), rng.integers(8, size=(3, 4, 8))
    seen[:, :, 1::2] = 7  # refinements are always the same
    indices[:, :, 1::2] = 7
    preset = replace(TINY, depth=2)
    bits = evaluation._rivals(preset, seen, indices)
    for name in ("table_bits", "histogram_bits"):
        assert bits[name][:, :, 1::2].max() < 0.1
        assert bits[name][:, :, ::2].mean() > 2.5
    first = metrics.NeighbourTable(seen[:, :, ::2], 8).bits(indices[:, :, ::2])
    np.testing.assert_array_equal(bits["table_bits"][:, :, ::2], first)


def test_figures_agree_with_a_plain_loop(model: OasisVQ, tiny_cohort: Path) -> None:
    figures = evaluate(model, tiny_cohort, "test")
    held_out = load_split(tiny_cohort, "test", TINY.size)
    coded = model.reconstruct(torch.from_numpy(held_out.slices)[:, None])
    people: dict[str, list[float]] = {}
    for person, a, b in zip(held_out.cases, held_out.slices, coded.slices[:, 0].numpy(), strict=True):
        people.setdefault(person, []).append(metrics.ssim(a + 0.5, b + 0.5))
    assert figures["people"] == len(people) == 2
    assert figures["ssim_mean"] == pytest.approx(np.mean([np.mean(values) for values in people.values()]))
    bits = [
        float(model.surprise(coded.indices[i : i + 1], int(level)).mean()) for i, level in enumerate(held_out.levels)
    ]
    assert figures["nll_bits_per_code"] == pytest.approx(np.mean(bits), rel=1e-4)
    assert figures["bytes_per_slice_prior"] == pytest.approx(np.mean(bits) * TINY.codes / 8, rel=1e-4)
    assert figures["codebook_utilisation"] == len(coded.indices.unique()) / TINY.codebook_size
    assert set(figures["weights_sha256"]) == {"vqvae.safetensors", "prior.safetensors"}

    scores = [metrics.ssim(a + 0.5, b + 0.5) for a, b in zip(held_out.slices, coded.slices[:, 0].numpy(), strict=True)]
    untold = model.surprise(coded.indices).mean((1, 2)).numpy()
    for name, values in {"ssim": scores, "bits_per_code": untold}.items():
        percentiles = figures["percentiles"][name]
        assert len(percentiles) == 101
        assert percentiles[0] == pytest.approx(min(values), rel=1e-4)
        assert percentiles[50] == pytest.approx(np.median(values), rel=1e-4)
    assert list(figures["ssim_by_grade"]) == ["unknown"]
    assert figures["ssim_by_grade"]["unknown"]["ssim"] == pytest.approx(figures["ssim_mean"])


def test_bits_a_pixel_and_figures_by_level_follow_from_the_rest(model: OasisVQ, tiny_cohort: Path) -> None:
    figures = evaluate(model, tiny_cohort, "test")
    held_out = load_split(tiny_cohort, "test", TINY.size)
    assert figures["slices"] == len(held_out) == 16
    assert figures["bits_per_pixel"] == 16 * 3 / 256  # codes of 3 bits, over pixels
    assert figures["bits_per_pixel_prior"] == pytest.approx(figures["nll_bits_per_code"] / 16)
    coded = model.reconstruct(torch.from_numpy(held_out.slices)[:, None])
    scores = np.array(
        [metrics.ssim(a + 0.5, b + 0.5) for a, b in zip(held_out.slices, coded.slices[:, 0].numpy(), strict=True)]
    )
    assert figures["ssim_by_level"] == {
        level: pytest.approx(scores[held_out.levels == level].mean()) for level in range(8)
    }
    brain = metrics.brain_cells(held_out.slices + 0.5, TINY.grid)
    told = evaluation.prior_bits(model, coded.indices.numpy(), held_out)
    each = [bits[mask].mean() for bits, mask in zip(told, brain, strict=True)]
    assert figures["nll_bits_per_brain_code"] == pytest.approx(metrics.by_person(each, held_out.cases).mean())
    untold = metrics.by_person(model.surprise(coded.indices).mean((1, 2)).numpy(), held_out.cases)
    assert figures["untold_bits_per_code"] == pytest.approx(untold.mean(), rel=1e-4)
    whole = [metrics.similarity(a, b) for a, b in ((held_out.slices[3] + 0.5, coded.slices[3, 0].numpy() + 0.5),)]
    assert evaluation._score(held_out.slices[3] + 0.5, coded.slices[3, 0].numpy() + 0.5) == {
        "ssim": whole[0].ssim,
        "ssim_foreground": whole[0].foreground,
        "psnr": metrics.psnr(held_out.slices[3] + 0.5, coded.slices[3, 0].numpy() + 0.5),
        "sharpness": metrics.sharpness(held_out.slices[3] + 0.5, coded.slices[3, 0].numpy() + 0.5),
    }


def test_means_stand_beside_their_spread_over_people() -> None:
    values = np.array([1.0, 2.0, 6.0])
    found = evaluation._summary("x", values)
    assert set(found) == {"x_mean", "x_sd", "x_ci95"}
    assert found["x_mean"] == 3
    assert found["x_sd"] == pytest.approx(math.sqrt(7))
    assert found["x_ci95"] == list(metrics.bootstrap_ci95(values))
    alone = evaluation._summary("x", values[:1], suffix="")
    assert (alone["x"], alone["x_sd"]) == (1, 0)
    assert evaluation._summary("x", values[:2])["x_sd"] == pytest.approx(math.sqrt(0.5))


def test_each_grade_has_the_mean_over_its_people() -> None:
    rows = [{"ssim": x, "ssim_foreground": x / 2} for x in (1.0, 3.0, 8.0, 5.0, 7.0)]
    data = SimpleNamespace(cases=["a", "a", "b", "c", "d"], grades=np.array([0, 0, 0, 2, 3]))
    assert evaluation._by_grade(rows, data, (0.0, 0.5, 1.0)) == {
        "0": {"people": 2, "ssim": 5.0, "ssim_foreground": 2.5},
        "1": {"people": 1, "ssim": 5.0, "ssim_foreground": 2.5},
        "unknown": {"people": 1, "ssim": 7.0, "ssim_foreground": 3.5},
    }


def test_codes_of_brain_outline_and_background_are_counted_apart() -> None:
    counts = {
        "brain": {7: 2, 5: 2},
        "black": {0: 1977, 1: 20, 2: 2, 3: 1},  # 2 of 2000 are one in a thousand, 1 is not
        "outline": {4: 1996, 5: 2, 6: 1, 0: 1},
    }
    cells = [(part, code) for part, codes in counts.items() for code, times in codes.items() for _ in range(times)]
    parts, indices = np.array([part for part, _ in cells]), np.array([code for _, code in cells])
    found = evaluation._codebook_figures(indices, parts == "brain", parts == "black", 10)
    share = np.bincount(indices) / len(indices)
    assert found == {
        "codebook_size": 10,
        "codebook_utilisation": 0.8,
        "codebook_utilisation_brain": 0.2,
        "background_codes": 3,
        "background_codes_for_99_percent": 2,
        "background_top_code_share": 1977 / 2000,
        "outline_codes": 2,
        "perplexity": pytest.approx(2 ** -(share * np.log2(share)).sum()),
        "perplexity_brain": pytest.approx(2),
    }


def test_where_there_is_no_brain_or_no_background_it_has_no_codes() -> None:
    none, all_ = np.zeros(4, bool), np.ones(4, bool)
    black = evaluation._codebook_figures(np.zeros(4, int), none, all_, 8)
    assert (black["codebook_utilisation_brain"], black["perplexity_brain"]) == (0, 1)
    assert (black["background_codes"], black["background_codes_for_99_percent"], black["outline_codes"]) == (1, 1, 0)
    brain = evaluation._codebook_figures(np.arange(4), all_, none, 8)
    assert (brain["background_codes"], brain["background_codes_for_99_percent"]) == (0, 0)
    assert brain["background_top_code_share"] == 0
    assert brain["perplexity_brain"] == pytest.approx(4)


def test_nothing_depends_on_how_many_slices_are_coded_at_a_time(
    model: OasisVQ, tiny_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = load_split(tiny_cohort, "test", TINY.size)
    slices = torch.from_numpy(held_out.slices)[:, None]
    monkeypatch.setattr(evaluation, "BATCH", 5)
    indices, pictures = evaluation.reconstruct(model, held_out)
    coded = model.reconstruct(slices)
    np.testing.assert_array_equal(indices, coded.indices.numpy())
    np.testing.assert_allclose(pictures, coded.slices[:, 0].numpy() + 0.5, atol=1e-5)
    both = evaluation._mirrored_codes(model, held_out)
    np.testing.assert_array_equal(both[:16], model.encode(slices).numpy())
    np.testing.assert_array_equal(both[16:], model.encode(slices.flip(3)).numpy())


def test_the_prior_is_told_level_and_grade_of_each_slice(model: OasisVQ) -> None:
    prior, indices = model.prior, torch.randint(8, (4, 4, 4), generator=torch.Generator().manual_seed(0))
    before = prior.grade.weight.clone()
    prior.grade.weight.normal_(generator=torch.Generator().manual_seed(1))
    told = [(3, 0), (3, len(TINY.grades)), (5, 1), (3, 0)]
    data = SimpleNamespace(levels=np.array([level for level, _ in told]), grades=np.array([grade for _, grade in told]))
    bits = evaluation.prior_bits(model, indices.numpy(), data)
    grades = [*TINY.grades, None]
    for i, (level, grade) in enumerate(told):
        expected = model.surprise(indices[i : i + 1], level, grades[grade])[0].numpy()
        np.testing.assert_allclose(bits[i], expected, atol=1e-4)
    prior.grade.weight.copy_(before)


def test_validation_people_set_the_threshold_and_the_split_counts_false_alarms(
    model: OasisVQ, tiny_cohort: Path
) -> None:
    found = evaluate(model, tiny_cohort, "test")["unlike"]
    validation = load_split(tiny_cohort, "validate", TINY.size)
    calibration = calibrate(measure(model, torch.from_numpy(validation.slices)[:, None]))
    assert {key: found[key] for key in calibration} == calibration
    assert found["people"] == 2
    held_out = load_split(tiny_cohort, "test", TINY.size)
    verdicts = compare(measure(model, torch.from_numpy(held_out.slices)[:, None]), calibration)
    assert found["false_alarms"] == pytest.approx(np.mean([verdict.unlike for verdict in verdicts]))


def test_a_set_without_training_people_is_enough(model: OasisVQ, tiny_cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_cohort / "keras_png_slices_test", tmp_path / "keras_png_slices_test")
    alone, whole = evaluate(model, tmp_path), evaluate(model, tiny_cohort)
    assert alone["ssim_mean"] == whole["ssim_mean"]
    assert alone["nll_bits_per_code"] == whole["nll_bits_per_code"]
    assert "table_bits_per_code" in whole
    assert not {"table_bits_per_code", "unlike"} & set(alone)
