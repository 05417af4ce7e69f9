"""Figures over a split, against the same worked out by hand."""

import shutil
from dataclasses import replace
from pathlib import Path

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
