"""The loop: augmentation, schedule, and a killed run that goes on as if nothing had happened."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import RandomSampler

from oasisvq.errors import OasisVQError
from oasisvq.models.presets import PRESETS
from oasisvq.models.tokenizer import Tokenizer
from oasisvq.models.vqvae import VQVAE
from oasisvq.training import loop as training
from oasisvq.training.codes import brightness

TINY = replace(
    PRESETS["smoke"],
    size=32,
    codebook_size=16,
    channels=(8, 8),
    prior_channels=8,
    prior_heads=2,
    levels=8,
    vqvae_batch=16,
    prior_batch=16,
    codebook_warmup=4,
    vqvae_epochs=3,
    prior_epochs=2,
)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_augment_moves_by_whole_pixels_and_keeps_background_and_range() -> None:
    slices = torch.full((64, 1, 20, 20), -0.5)
    slices[:, :, 8:12, 8:11] = 0.4
    out = training.augment(slices, torch.Generator().manual_seed(0))
    assert out.shape == slices.shape
    assert out.min() == -0.5
    assert out.max() <= 0.5
    lit = out > -0.5
    assert (lit.sum((1, 2, 3)) == 12).all()  # no pixel lost, none smeared
    rows, columns = lit.any(3).float().argmax(2), lit.any(2).float().argmax(2)
    assert set(rows.flatten().tolist()) == set(range(8 - training.SHIFT, 8 + training.SHIFT + 1))
    assert len(columns.unique()) >= 2 * training.SHIFT + 1  # the mirror adds one
    assert out[lit].max() > 0.4 > out[lit].min()


def test_augment_follows_its_generator() -> None:
    slices = torch.rand(4, 1, 20, 20) - 0.5
    first, again, other = (training.augment(slices, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_shuffle_is_torch_s_order_of_every_epoch() -> None:
    sampler = training.Shuffle(10_000, seed=3)
    for epoch in (0, 5):
        sampler.set_epoch(epoch)
        generator = torch.Generator().manual_seed(3 + epoch)
        assert list(sampler) == list(RandomSampler(range(10_000), generator=generator))
    assert len(sampler) == 10_000


@pytest.mark.parametrize("count", [2**17 + 1, 200_000, 2**18])
def test_a_long_shuffle_takes_each_once_and_looks_random(count: int) -> None:
    sampler = training.Shuffle(count, seed=3)
    orders = []
    for sampler.epoch in (0, 0, 1):
        orders.append(np.fromiter(sampler, np.int64))
        assert np.array_equal(np.sort(orders[-1]), np.arange(count))
    first, again, other = orders
    assert np.array_equal(first, again)
    # Correlations of so many independent numbers have a standard deviation of 0.003.
    for a, b in (
        (first, np.arange(count)),
        (first[:-1], first[1:]),
        (first, other),
        (first % 32, np.arange(count) % 32),
    ):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.015
    # The 32 slices of a person must not come together, nor those of a level: as many kinds a batch as chance gives.
    batches = first[: count // 32 * 32].reshape(-1, 32)
    levels = np.mean([len(np.unique(batch)) for batch in batches % 32])
    assert levels == pytest.approx(32 * (1 - (31 / 32) ** 32), abs=0.1)
    assert np.mean([len(np.unique(batch)) for batch in batches // 32]) > 31.5


def test_learning_rate_warms_up_peaks_and_ends_at_zero() -> None:
    rates = [training.learning_rate(step, 200, 1.0) for step in range(200)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3


class Killed(Exception):
    pass


def test_a_killed_run_resumes_to_the_same_bytes(
    tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training.train_vqvae(TINY, tiny_cohort, tmp_path / "whole", "fp32")

    steps = 0
    learning_rate = training.learning_rate

    def dies_in_the_second_epoch(*args: float) -> float:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise Killed
        return learning_rate(*args)

    monkeypatch.setattr(training, "learning_rate", dies_in_the_second_epoch)
    with pytest.raises(Killed):
        training.train_vqvae(TINY, tiny_cohort, tmp_path / "killed", "fp32")
    monkeypatch.undo()
    assert len((tmp_path / "killed" / "vqvae.jsonl").read_text().splitlines()) == 1

    resumed = training.train_vqvae(TINY, tiny_cohort, tmp_path / "killed", "fp32")
    assert digest(resumed) == digest(whole)
    lines = [json.loads(line) for line in (tmp_path / "killed" / "vqvae.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert {"train_loss", "val_loss", "val_ssim", "val_perplexity", "lr", "seconds"} <= set(lines[0])


def test_prior_trains_on_the_finished_vqvae_and_rests_when_done(tiny_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(OasisVQError, match=r"vqvae\.safetensors is missing"):
        training.train_prior(TINY, tiny_cohort, tmp_path)
    learns = replace(TINY, vqvae_epochs=10, prior_epochs=20, prior_rate=5e-3)
    training.train_vqvae(learns, tiny_cohort, tmp_path, "fp32")
    before = digest(tmp_path / "vqvae.safetensors")
    prior = training.train_prior(learns, tiny_cohort, tmp_path, "fp32")
    lines = [json.loads(line) for line in (tmp_path / "prior.jsonl").read_text().splitlines()]
    assert lines[-1]["val_nll_bits"] < 3.5  # log2 of 16 codes is 4
    assert digest(tmp_path / "vqvae.safetensors") == before
    written = prior.stat().st_mtime_ns
    training.train_prior(learns, tiny_cohort, tmp_path, "fp32")
    assert prior.stat().st_mtime_ns == written


def test_brightness_is_the_mean_of_the_brain_alone() -> None:
    slices = torch.full((2, 1, 8, 8), -0.5)
    slices[0, 0, :2, :2] = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    torch.testing.assert_close(brightness(slices), torch.tensor([0.75, 0.0]))


def test_a_look_says_the_rank_within_the_level_and_the_mirror() -> None:
    preset = replace(TINY, prior_ranks=4, levels=2)
    grey = torch.linspace(0.1, 0.9, 16).repeat(2) * torch.tensor([1.0, 0.5]).repeat_interleave(16)  # level 1 is darker
    levels = np.repeat([0, 1], 16)
    task = training.PriorTask(preset, Tokenizer(preset, VQVAE(preset)))
    task.rank(grey.numpy(), levels)

    batch = {"brightness": grey, "level": torch.tensor(levels)}
    mirrored = torch.arange(32) % 2 == 1
    looks = torch.stack([task.look(batch, mirrored, torch.Generator().manual_seed(i)) for i in range(200)])
    unknown = looks == 8
    assert abs(unknown.double().mean() - training.PLAIN) < 0.02
    ranks = torch.arange(4).repeat_interleave(4).repeat(2)
    assert torch.equal(looks[~unknown], (ranks + 4 * mirrored).expand(200, 32)[~unknown])

    untold = replace(preset, prior_ranks=0)
    assert training.PriorTask(untold, Tokenizer(untold, VQVAE(untold))).look(batch, mirrored, torch.Generator()) is None


def test_ranks_are_the_quantiles_of_each_level_and_of_all_where_a_level_has_no_slices() -> None:
    preset = replace(TINY, prior_ranks=8, levels=3)
    rng = np.random.default_rng(0)
    bright = rng.uniform(0.1, 1, 110).astype(np.float32)
    levels = np.arange(110) % 2  # none of level 2
    task = training.PriorTask(preset, Tokenizer(preset, VQVAE(preset)))
    task.rank(bright, levels)
    for level, own in enumerate((bright[levels == 0], bright[levels == 1], bright)):
        ranks = np.searchsorted(task.borders[level].numpy(), own)
        expected = np.searchsorted(np.quantile(own, np.arange(1, 8) / 8), own)
        np.testing.assert_array_equal(ranks, expected)


def test_learning_happens(tiny_cohort: Path, tmp_path: Path) -> None:
    training.train_vqvae(replace(TINY, vqvae_epochs=25, vqvae_rate=3e-3), tiny_cohort, tmp_path, "fp32")
    lines = [json.loads(line) for line in (tmp_path / "vqvae.jsonl").read_text().splitlines()]
    assert lines[-1]["val_ssim"] > max(0.5, lines[0]["val_ssim"])


def test_another_preset_is_refused(tiny_cohort: Path, tmp_path: Path) -> None:
    training.train_vqvae(replace(TINY, vqvae_epochs=1), tiny_cohort, tmp_path, "fp32")
    with pytest.raises(OasisVQError, match="another preset"):
        training.train_vqvae(TINY, tiny_cohort, tmp_path, "fp32")
    with pytest.raises(OasisVQError, match="does not fit this preset"):
        training.load_weights(VQVAE(replace(TINY, code_dim=5)), tmp_path / "vqvae.safetensors")


def test_too_few_slices_for_a_batch(tiny_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(OasisVQError, match="do not fill one batch"):
        training.train_vqvae(replace(TINY, vqvae_batch=64), tiny_cohort, tmp_path, "fp32")


def test_other_data_or_another_vqvae_is_refused(tiny_cohort: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    shutil.copytree(tiny_cohort, other)
    (other / "keras_png_slices_train" / "case_001_slice_0.nii.png").unlink()
    short = replace(TINY, vqvae_epochs=1, prior_epochs=1)
    training.train_vqvae(short, tiny_cohort, out, "fp32")
    training.train_prior(short, tiny_cohort, out, "fp32")
    with pytest.raises(OasisVQError, match="other data"):
        training.train_vqvae(short, other, out, "fp32")
    (out / "state" / "vqvae.safetensors").unlink()
    training.train_vqvae(short, other, out, "fp32")
    with pytest.raises(OasisVQError, match="another VQ-VAE"):
        training.train_prior(short, tiny_cohort, out, "fp32")
