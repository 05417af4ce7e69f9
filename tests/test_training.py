"""The loop: augmentation, schedule, and a killed run that goes on as if nothing had happened."""

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import RandomSampler

from oasisvq.data.layout import describe, load_split
from oasisvq.errors import OasisVQError
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import PRESETS
from oasisvq.models.tokenizer import Tokenizer
from oasisvq.models.vqvae import VQVAE, Quantised
from oasisvq.training import loop as training
from oasisvq.training.codes import brightness, encode_split
from oasisvq.training.reproducibility import trained

pytestmark = pytest.mark.slow

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
CASCADE = replace(
    TINY, size=64, codebook_size=12, code_dim=4, rate_weight=0.08, coarse=TINY, prior_heads=0, vqvae_crop=32
)
KINDS = {"one stage": TINY, "cascade": CASCADE, "neighbours": replace(TINY, name="tiny", prior_neighbours=2)}


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


@pytest.mark.parametrize("count", [10_000, 200_000])
def test_shuffle_is_torch_s_order_of_every_epoch(count: int) -> None:
    sampler = training.Shuffle(count, seed=3)
    for epoch in (0, 5):
        sampler.set_epoch(epoch)
        generator = torch.Generator().manual_seed(3 + epoch)
        assert list(sampler) == list(RandomSampler(range(count), generator=generator))
    assert len(sampler) == count


def test_learning_rate_warms_up_peaks_and_ends_at_zero() -> None:
    rates = [training.learning_rate(step, 200, 1.0) for step in range(200)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3


@pytest.fixture(scope="module")
def finished(tiny_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind with its VQ-VAE trained."""
    root = tmp_path_factory.mktemp("finished")
    for kind, preset in KINDS.items():
        if preset.coarse:
            shutil.copytree(root / "one stage", root / kind / "coarse")
        training.train_vqvae(preset, tiny_cohort, root / kind, "fp32")
    return {kind: root / kind for kind in KINDS}


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["vqvae", "prior"])
def test_a_killed_run_resumes_to_the_same_bytes(
    kind: str,
    model: str,
    finished: dict[str, Path],
    tiny_cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preset, out = KINDS[kind], tmp_path / "killed"
    train = {"vqvae": training.train_vqvae, "prior": training.train_prior}[model]
    whole = shutil.copytree(finished[kind], tmp_path / "whole") / f"{model}.safetensors"
    if model == "prior":
        train(preset, tiny_cohort, whole.parent, "fp32")
        shutil.copytree(finished[kind], out)
    elif preset.coarse:
        shutil.copytree(finished[kind] / "coarse", out / "coarse")

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
        train(preset, tiny_cohort, out, "fp32")
    monkeypatch.undo()
    assert len((out / f"{model}.jsonl").read_text().splitlines()) == 1

    if model == "prior":
        monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("the codes are on disk"))
    resumed = train(preset, tiny_cohort, out, "fp32")
    assert digest(resumed) == digest(whole)
    lines = [json.loads(line) for line in (out / f"{model}.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, getattr(preset, f"{model}_epochs") + 1))
    figures = {"vqvae": {"val_loss", "val_ssim", "val_perplexity"}, "prior": {"val_nll_bits"}}[model]
    assert {"train_loss", "lr", "seconds"} | figures <= set(lines[0])


def test_a_run_that_goes_on_under_other_circumstances_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    path = tmp_path / "prior.safetensors"

    def checkpoint(precision: str, threads: int) -> training.Checkpoint:
        return training.Checkpoint(path, TINY, "data", "", precision, {"threads": threads, "device": "AVX512"})

    checkpoint("fp32", 2).save(model, optimiser, [{}])
    assert checkpoint("fp32", 2).load(model, optimiser, 3) == [{}]
    assert not capsys.readouterr().err
    other = checkpoint("bf16", 1)
    other.load(model, optimiser, 3)
    assert "resumed prior after epoch 1 (until then precision fp32 and threads 2)" in capsys.readouterr().err
    other.save(model, optimiser, [{}, {}])
    last = checkpoint("bf16", 4)
    last.load(model, optimiser, 3)
    assert last.made["resumed"] == (
        "prior after epoch 1 (until then precision fp32 and threads 2); prior after epoch 2 (until then threads 1)"
    )
    last.save(model, optimiser, [{}, {}, {}])
    capsys.readouterr()
    done = checkpoint("fp32", 9)  # nothing is left to train
    done.load(model, optimiser, 3)
    assert not capsys.readouterr().err
    assert done.made["resumed"] == last.made["resumed"]


def test_damaged_files_of_weights_are_named(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    path = tmp_path / "prior.safetensors"
    path.write_bytes(b"../../base/prior.safetensors")  # a link, as it is checked out where there are none
    for read in (training.load_weights, training.start_from):
        with pytest.raises(OasisVQError, match=r"prior\.safetensors is damaged or no file of weights"):
            read(model, path)
    with pytest.raises(OasisVQError, match="delete it, and the training begins again"):
        training.Checkpoint(path, TINY, "data", "", "fp32", {}).load(model, torch.optim.AdamW(model.parameters()), 1)


def test_a_cascade_is_trained_on_one_coarse_stage_alone(
    finished: dict[str, Path], tiny_cohort: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished["cascade"], tmp_path / "out")
    weights = out / "coarse" / "vqvae.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(OasisVQError, match="another VQ-VAE"):
        training.train_vqvae(CASCADE, tiny_cohort, out, "fp32")
    training.train_prior(CASCADE, tiny_cohort, out, "fp32")
    shutil.copy(finished["one stage"] / "vqvae.safetensors", weights)
    with pytest.raises(OasisVQError, match="another VQ-VAE"):
        training.train_prior(CASCADE, tiny_cohort, out, "fp32")
    shutil.copy(out / "vqvae.safetensors", weights)
    with pytest.raises(OasisVQError, match=r"coarse/vqvae\.safetensors does not fit this preset"):
        training.train_vqvae(CASCADE, tiny_cohort, out, "fp32")
    weights.unlink()
    for train in (training.train_vqvae, training.train_prior):
        with pytest.raises(OasisVQError, match=r"coarse/vqvae\.safetensors is missing"):
            train(CASCADE, tiny_cohort, out, "fp32")


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_learns_the_codes_of_slices_as_they_lie_and_mirrored(
    kind: str, finished: dict[str, Path], tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = KINDS[kind]
    tokenizer, _ = training.finished(preset, finished[kind])
    data = load_split(tiny_cohort, "train", preset.size, preset.levels, preset.grades)
    codes = encode_split(tokenizer, data, tmp_path, "train", "a" * 64, torch.device("cpu"))
    slices = torch.from_numpy(data.slices)[:, None]
    expected = torch.stack([tokenizer.encode(slices), tokenizer.encode(slices.flip(3))], 1).flatten(2)
    assert len(expected.unique()) > 2
    assert len(codes) == len(data) == 32
    for i in range(len(codes)):
        assert torch.equal(codes[i]["codes"], expected[i])
        assert codes[i]["level"] == data[i]["level"]
        assert codes[i]["grade"] == data[i]["grade"]
        torch.testing.assert_close(codes[i]["brightness"], brightness(slices[i, None])[0])

    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("they are on disk"))
    again = encode_split(tokenizer, data, tmp_path, "train", "a" * 64, torch.device("cpu"))
    assert torch.equal(again[3]["codes"], expected[3])
    monkeypatch.setattr(Tokenizer, "encode", lambda self, slices: expected[: len(slices), 0] * 0 + 5)
    other = encode_split(tokenizer, data, tmp_path, "train", "b" * 64, torch.device("cpu"))
    assert (other[3]["codes"] == 5).all()
    assert len(list(tmp_path.glob("train_codes_*"))) == 1, "those of other weights are gone"
    assert torch.equal(codes[3]["codes"], expected[3]), "whoever has them open can go on"


def test_codes_on_disk_are_made_again_when_a_stage_changes(
    finished: dict[str, Path], tiny_cohort: Path, tmp_path: Path
) -> None:
    stamps = set()
    for part in (None, "vqvae.safetensors", "coarse/vqvae.safetensors"):
        out = shutil.copytree(finished["cascade"], tmp_path / str(part).replace("/", " "))
        if part:
            save_file({name: tensor * 1.01 for name, tensor in load_file(out / part).items()}, out / part)
        training.train_prior(replace(CASCADE, prior_epochs=1), tiny_cohort, out, "fp32")
        stamps |= {path.name for path in (out / "state").glob("train_codes_*.records")}
    assert len(stamps) == 3


def test_crops_are_cut_at_the_borders_of_cells_slice_and_picture_alike() -> None:
    task = training.VQVAETask(replace(CASCADE, size=128, vqvae_crop=48))
    slices = torch.arange(128 * 128.0).view(1, 1, 128, 128).expand(200, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    cropped, picture = task.crop(slices, slices + 0.5, generator)
    assert cropped.shape == (200, 1, 48, 48)
    assert picture is not None
    assert torch.equal(picture, cropped + 0.5)
    corners = []
    for one in cropped[:, 0].long():
        y, x = divmod(int(one[0, 0]), 128)
        assert torch.equal(one, slices[0, 0, y : y + 48, x : x + 48].long())
        assert y % CASCADE.cell == x % CASCADE.cell == 0
        corners.append((y, x))
    rows, columns = ({corner[axis] for corner in corners} for axis in (0, 1))
    assert rows == columns == set(range(20, 61, 4)), "from a quarter to three quarters of what room there is"
    assert len(set(corners)) > 50, "each slice has a place of its own"
    assert task.crop(slices, None, generator)[1] is None


def test_a_finer_stage_sees_the_part_of_the_whole_slice_s_picture_that_its_crop_shows(
    finished: dict[str, Path], tiny_cohort: Path
) -> None:
    tokenizer, _ = training.finished(CASCADE, finished["cascade"])
    task = training.VQVAETask(CASCADE, tokenizer.coarse)
    slices = torch.from_numpy(load_split(tiny_cohort, "train", 64, 8, CASCADE.grades).slices)[::5, None]
    seen: list[torch.Tensor] = []

    def model(*args: torch.Tensor) -> tuple[torch.Tensor, Quantised]:
        seen.extend(args)
        return args[0], Quantised(args[0], args[0], torch.zeros(()))

    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    loss = task.loss(model, {"slice": slices}, generators[0])
    assert abs(float(loss)) < 1e-6
    whole = training.augment(slices, generators[1])
    pictures = task.tokenizer.picture_of(whole)
    assert pictures is not None
    crops, of_pictures = seen
    for crop, of_picture, one, picture in zip(crops, of_pictures, whole, pictures, strict=True):
        corners = [(y, x) for y in range(0, 33, 4) for x in range(0, 33, 4)]
        found = [(y, x) for y, x in corners if torch.equal(one[:, y : y + 32, x : x + 32], crop)]
        assert found
        assert any(torch.equal(picture[:, y : y + 32, x : x + 32], of_picture) for y, x in found)


def test_a_finer_prior_is_given_the_picture_that_belongs_to_its_codes(finished: dict[str, Path]) -> None:
    tokenizer, _ = training.finished(CASCADE, finished["cascade"])
    task = training.PriorTask(CASCADE, tokenizer)
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(s.codebook_size, (32, *s.grid), generator=generator) for s in CASCADE.stages for _ in "12"]
    both = torch.stack([CASCADE.join(parts[i::2]).flatten(1) for i in (0, 1)], 1)  # (32, 2, codes)
    task.fit_ranks(np.linspace(0.1, 0.9, 32).astype(np.float32), np.arange(32) % 8)
    batch = {
        "codes": both,
        "beside": torch.zeros(32, len(CASCADE.near), dtype=torch.bool),
        "neighbours": both[:, None].expand(-1, len(CASCADE.near), -1, -1),
        "brightness": torch.rand(32),
        "level": torch.arange(32) % 8,
        "grade": torch.zeros(32).long(),
    }
    seen: list[torch.Tensor] = []

    def model(*args: torch.Tensor) -> torch.Tensor:
        seen.extend(args)
        return torch.zeros(32, CASCADE.codebook_size, *CASCADE.grid)

    loss = task.loss(model, batch, torch.Generator().manual_seed(0))
    assert float(loss) == pytest.approx(math.log(CASCADE.codebook_size))
    indices, _, _, appearance, picture = seen
    mirrored = [not torch.equal(one, parts[2][i]) for i, one in enumerate(indices)]
    assert 8 < sum(mirrored) < 24
    for i, m in enumerate(mirrored):
        assert torch.equal(indices[i], parts[2 + m][i])
        torch.testing.assert_close(picture[i, None, :1], tokenizer.picture(parts[m][i, None]))
        assert (picture[i, 1:] == 0).all()  # nobody is beside it
        assert appearance[i] == 2 * CASCADE.prior_ranks or (appearance[i] >= CASCADE.prior_ranks) == m


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


@pytest.mark.parametrize("depth", [1, 2])
def test_codes_close_in_the_codebook_begin_alike_in_a_prior(depth: int) -> None:
    torch.manual_seed(0)
    preset = replace(TINY, depth=depth, codebook_size=64, code_dim=8, prior_channels=64)
    prior, codebook = PixelCNN(preset), torch.randn(64, 8) * torch.logspace(-3, 3, 8) + 5
    codebook[32:] = codebook[:32]
    last = cast(torch.nn.Conv2d, prior.head[-1]).weight
    before = [weight.std() for weight in (prior.embedding.weight, last)]
    training.begin_with_codebook(prior, codebook)
    for weight, std in zip((prior.embedding.weight, last), before, strict=True):
        torch.testing.assert_close(weight.std(), std, rtol=0.1, atol=0)
        tables = torch.nn.functional.normalize(weight.detach().flatten(1)).unflatten(0, (depth, 2, 32))
        alike = tables[:, 0] @ tables[:, 1].mT  # (L, 32, 32): cosines, those of equal codes on the diagonal
        assert alike.diagonal(dim1=1, dim2=2).mean() > 0.35
        assert alike.mean().abs() < 0.05

    training.begin_with_codebook(prior, torch.zeros(64, 8))  # of a VQ-VAE that has seen nothing
    assert prior.embedding.weight.isfinite().all()


def test_a_prior_starts_where_another_ended_whatever_neighbours_it_is_shown(tmp_path: Path) -> None:
    fewer = replace(CASCADE, prior_neighbours=0)
    other, prior = PixelCNN(fewer).eval(), PixelCNN(replace(CASCADE, prior_neighbours=2)).eval()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    training.save_weights(other, tmp_path / "prior.safetensors")
    training.load_weights(other, tmp_path / "prior.safetensors")
    training.start_from(prior, tmp_path / "prior.safetensors")
    codes, pictures = torch.randint(CASCADE.codebook_size, (2, *CASCADE.grid)), torch.rand(2, 3, 64, 64) - 0.5
    level, grade = torch.tensor([1, 2]), torch.tensor([0, 1])
    expected = other(codes, level, grade, picture=pictures[:, :1])
    torch.testing.assert_close(prior(codes, level, grade, picture=pictures), expected)
    with pytest.raises(OasisVQError, match="is of other sizes"):
        training.start_from(PixelCNN(replace(fewer, prior_channels=4)), tmp_path / "prior.safetensors")
    with pytest.raises(OasisVQError, match="is missing"):
        training.start_from(prior, tmp_path / "nothing.safetensors")
    training.save_weights(prior, tmp_path / "two.safetensors")
    with pytest.raises(OasisVQError, match="is given other neighbours"):  # the first two of four are others
        training.start_from(PixelCNN(replace(CASCADE, prior_neighbours=4)), tmp_path / "two.safetensors")


def test_a_run_says_what_it_started_from(finished: dict[str, Path], tiny_cohort: Path, tmp_path: Path) -> None:
    start, out = finished["one stage"], tmp_path / "out"
    preset = replace(TINY, vqvae_epochs=1, vqvae_rate=0.0)
    training.train_vqvae(preset, tiny_cohort, out, "fp32", start)
    before, after = (load_file(folder / "vqvae.safetensors") for folder in (start, out))
    torch.testing.assert_close(after["encoder.0.weight"], before["encoder.0.weight"])
    with safe_open(out / "state" / "vqvae.safetensors", "pt") as file:
        assert file.metadata()["start"] == digest(start / "vqvae.safetensors")
    with pytest.raises(OasisVQError, match="of another --start"):
        training.train_vqvae(preset, tiny_cohort, out, "fp32")
    with pytest.raises(OasisVQError, match="would be written over"):
        training.train_vqvae(preset, tiny_cohort, out, "fp32", out)
    first, second = (shutil.copytree(start, tmp_path / name) for name in ("first", "second"))
    training.train_prior(TINY, tiny_cohort, first, "fp32")
    training.train_prior(TINY, tiny_cohort, second, "fp32", first)
    _, _, told = trained(second, describe(tiny_cohort))
    assert told["command"].endswith("train prior --data DATA --out OUT --preset smoke --precision fp32 --start START")
    assert told["start"] == digest(first / "prior.safetensors")


def test_brightness_is_the_mean_of_the_brain_alone() -> None:
    slices = torch.full((2, 1, 8, 8), -0.5)
    slices[0, 0, :2, :2] = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    torch.testing.assert_close(brightness(slices), torch.tensor([0.75, 0.0]))


def test_appearance_is_the_rank_within_the_level_and_the_orientation() -> None:
    preset = replace(TINY, prior_ranks=4, levels=2)
    grey = torch.linspace(0.1, 0.9, 16).repeat(2) * torch.tensor([1.0, 0.5]).repeat_interleave(16)  # level 1 is darker
    levels = np.repeat([0, 1], 16)
    task = training.PriorTask(preset, Tokenizer(preset, VQVAE(preset)))
    task.fit_ranks(grey.numpy(), levels)

    batch = {"brightness": grey, "level": torch.tensor(levels)}
    mirrored = torch.arange(32) % 2 == 1
    appearances = torch.stack([task.appearance(batch, mirrored, torch.Generator().manual_seed(i)) for i in range(200)])
    unknown = appearances == 8
    assert abs(unknown.double().mean() - training.APPEARANCE_DROPOUT) < 0.02
    ranks = torch.arange(4).repeat_interleave(4).repeat(2)
    assert torch.equal(appearances[~unknown], (ranks + 4 * mirrored).expand(200, 32)[~unknown])

    without = replace(preset, prior_ranks=0)
    assert (
        training.PriorTask(without, Tokenizer(without, VQVAE(without))).appearance(batch, mirrored, torch.Generator())
        is None
    )


def test_ranks_are_the_quantiles_of_each_level_and_of_all_where_a_level_has_no_slices() -> None:
    preset = replace(TINY, prior_ranks=8, levels=3)
    rng = np.random.default_rng(0)
    bright = rng.uniform(0.1, 1, 110).astype(np.float32)
    levels = np.arange(110) % 2  # none of level 2
    task = training.PriorTask(preset, Tokenizer(preset, VQVAE(preset)))
    task.fit_ranks(bright, levels)
    for level, own in enumerate((bright[levels == 0], bright[levels == 1], bright)):
        ranks = np.searchsorted(task.thresholds[level].numpy(), own)
        expected = np.searchsorted(np.quantile(own, np.arange(1, 8) / 8), own)
        np.testing.assert_array_equal(ranks, expected)


def test_the_finer_stage_of_a_cascade_adds_to_the_picture(
    finished: dict[str, Path], tiny_cohort: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished["one stage"], tmp_path / "coarse")
    learns = replace(CASCADE, vqvae_epochs=15, vqvae_rate=3e-3, prior_epochs=8, prior_rate=5e-3)
    training.train_vqvae(learns, tiny_cohort, tmp_path, "fp32")
    tokenizer, _ = training.finished(learns, tmp_path)
    slices = torch.from_numpy(load_split(tiny_cohort, "validate", 64, 8, learns.grades).slices)[:, None]
    picture, output = tokenizer.picture_of(slices), tokenizer.decode(tokenizer.encode(slices))
    assert (output - slices).abs().mean() < 0.8 * (picture - slices).abs().mean()
    training.train_prior(learns, tiny_cohort, tmp_path, "fp32")
    lines = [json.loads(line) for line in (tmp_path / "prior.jsonl").read_text().splitlines()]
    assert lines[-1]["val_nll_bits"] < 0.9 * math.log2(learns.codebook_size)


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
