"""Figures over a split, against the same worked out by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_weights import TINY, write_weights

from oasisvq import OasisVQ, metrics
from oasisvq.data.layout import load_split
from oasisvq.evaluation import evaluate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OasisVQ:
    loaded = OasisVQ.from_pretrained(write_weights(tmp_path_factory.mktemp("weights") / "tiny"), device="cpu")
    torch.manual_seed(0)
    loaded.vqvae.quantiser.codebook.copy_(torch.randn(TINY.codebook_size, TINY.code_dim))
    return loaded


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
    assert figures["bytes_per_slice_prior"] == pytest.approx(np.mean(bits) * TINY.grid**2 / 8, rel=1e-4)
    assert figures["codebook_utilisation"] == len(coded.indices.unique()) / TINY.codebook_size
    assert set(figures["weights_sha256"]) == {"vqvae.safetensors", "prior.safetensors"}


def test_a_set_without_training_people_is_enough(model: OasisVQ, tiny_cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_cohort / "keras_png_slices_test", tmp_path / "keras_png_slices_test")
    alone, whole = evaluate(model, tmp_path), evaluate(model, tiny_cohort)
    assert alone["ssim_mean"] == whole["ssim_mean"]
    assert alone["nll_bits_per_code"] == whole["nll_bits_per_code"]
    assert "table_bits_per_code" in whole
    assert "table_bits_per_code" not in alone
