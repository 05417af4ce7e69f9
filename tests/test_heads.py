"""Whole heads: each level given its neighbours, against a naive sampler; files of heads; what the prior learns from."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_weights import TINY, write_weights

from oasisvq import OasisVQ, OasisVQError, cli, compress
from oasisvq.cli import main
from oasisvq.data.layout import SliceSet, describe_slices
from oasisvq.models import heads, sampling
from oasisvq.training.codes import CodeSet, encode_split
from oasisvq.training.loop import NEAREST_ALONE, NEIGHBOURS, PriorTask

LEVELS = 4
KNOWING = replace(TINY, levels=LEVELS, prior_neighbours=2)
# The fine stage draws all levels at once, or each given the finer slices beside it.
CASCADE = replace(KNOWING, name="tiny cascade", size=24, codebook_size=6, coarse=KNOWING, prior_neighbours=0)
KINDS = {
    "one stage": KNOWING,
    "cascade": CASCADE,
    "cascade of two that know": replace(CASCADE, prior_neighbours=2),
    "two levels on either side": replace(KNOWING, prior_neighbours=4),
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> OasisVQ:
    return load(tmp_path_factory.mktemp("weights") / "tiny", request.param)


def load(folder: Path, preset) -> OasisVQ:
    loaded = OasisVQ.from_pretrained(write_weights(folder, preset=preset), device="cpu")
    torch.manual_seed(0)
    for stage in loaded.stages:
        stage.vqvae.codebook.normal_(std=3)  # untrained, all codes show the same
        for name, weights in stage.prior.named_parameters():  # untrained, it would hardly look at anything
            weights.normal_(std={"mirror": 0.2, "context": 0.6}.get(name.split(".")[0], 0.35))
    return loaded


def test_a_head_grows_from_its_middle() -> None:
    assert heads.outward(range(6)) == [[3], [2, 4], [1, 5], [0]]

    assert heads.outward(range(8), reach=2) == [[4], [3], [2, 5], [1, 6], [0, 7]]


@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize("known", [set(), {0}, {5}, {2}, {0, 5}, {0, 4}, {1, 2, 5}])
def test_every_level_is_drawn_once_and_never_with_its_neighbour(known: set[int], reach: int) -> None:
    there = set(known)
    for step in heads.outward(range(6), known, reach):
        for level in step:
            assert not there or {level - 1, level + 1} & there
            assert not set(range(level - reach, level + reach + 1)) & set(step) - {level}
        assert not there & set(step)
        there |= set(step)
    assert there == set(range(6))


def test_only_levels_between_known_ones_are_drawn_again() -> None:
    assert heads.between(range(6), {2}) == []
    assert heads.between(range(6), {0, 1}) == []
    assert heads.between(range(7), {1, 5}) == [[2, 4], [3]]
    assert heads.between(range(9), {1, 7}, reach=2) == [[3, 6], [4], [2, 5]]


def by_hand(model: OasisVQ, seed: int) -> torch.Tensor:
    """The codes of one head, (L, h, w): a level at a time, by the naive sampler."""
    coarse, parts = None, []
    for number, stage in enumerate(model.stages):
        rank = int(np.random.default_rng((seed, 0, 2)).random() * TINY.prior_ranks)
        exact, below = sampling.in_double(stage.tokenizer), coarse
        codes = torch.zeros(LEVELS, *stage.preset.grid, dtype=torch.long)
        slices: dict[int, torch.Tensor] = {}
        for level in (2, 1, 3, 0):
            picture = None if below is None else exact.picture(below[level, None])
            given = [] if picture is None else [picture]
            if stage.preset.prior_neighbours:
                grey = torch.zeros(1, 1, stage.preset.size, stage.preset.size, dtype=torch.float64)
                given += [slices.get(level + side, grey) for side in stage.preset.near]
            stream = np.random.default_rng((seed, level, *((3, number) if number else ())))
            codes[level] = naive(stage, stream, level, rank, torch.cat(given, 1))
            slices[level] = exact.vqvae.decode(codes[level, None], picture)
        parts.append(codes)
        coarse = codes
    return model.preset.join(parts)


def naive(stage: OasisVQ, stream: np.random.Generator, level: int, rank: int, picture: torch.Tensor) -> torch.Tensor:
    """A full forward pass a position, and the first code whose cumulative probability exceeds a uniform number."""
    height, width = stage.preset.grid
    uniforms = stream.random(height * width)
    codes = torch.zeros(1, height, width, dtype=torch.long)
    prior = sampling.in_double(stage.prior)
    told = torch.tensor([level]), torch.tensor([len(TINY.grades)]), torch.tensor([rank])
    with torch.inference_mode():
        for position in range(height * width):
            row, column = divmod(position, width)
            logits = prior(codes, *told, picture, sampling.APPEARANCE_SCALE)[0, :, row, column]
            codes[0, row, column] = int((np.cumsum(logits.softmax(0).numpy()) <= uniforms[position]).sum())
    return codes[0]


def test_a_slice_is_shown_to_the_levels_beside_it_alone(model: OasisVQ) -> None:
    stage = model.stages[0]
    codes = any_codes(model, 1)[0]
    own = model.preset.split(codes[None])[0]
    stack = stage.stack(LEVELS)
    stack.put([0], own[:, None])
    slices = stage.exact_decode(own)[0]
    assert slices.any()
    for i, offset in enumerate(stage.prior.near):
        for level in range(LEVELS):
            shown = stack.pictures([level])[0, i]
            assert torch.equal(shown, slices[0] if level + offset == 0 else torch.zeros_like(slices[0]))


def test_a_head_is_that_of_a_naive_sampler_in_any_batch(model: OasisVQ) -> None:
    expected = by_hand(model, seed=4)
    head = model.sample_head(1, seed=4)
    assert torch.equal(head.indices[0], expected)
    together = model.sample_head(3, seed=4)
    assert torch.equal(together.indices[0], expected)
    assert torch.equal(model.sample_head(1, seed=4, first=2).indices[0], together.indices[2])
    assert not torch.equal(together.indices[1], expected)
    assert torch.equal(together.slices[1], model.decode(together.indices[1]))


def any_codes(model: OasisVQ, n: int) -> torch.Tensor:
    parts = [torch.randint(stage.codebook_size, (n, *stage.grid)) for stage in model.preset.stages]
    return model.preset.join(parts)


def test_levels_hang_together(model: OasisVQ) -> None:
    """Another slice to begin with makes another head: the neighbour is looked at."""
    first, second = (model.sample_head(given={2: codes}, seed=5).indices[0] for codes in any_codes(model, 2))
    for level in (1, 3):
        assert not torch.equal(first[level], second[level])


def test_a_gap_between_given_slices_is_filled_and_they_are_kept(model: OasisVQ) -> None:
    lowest, highest, other = any_codes(model, 3)
    filled = model.sample_head(8, seed=1, given={0: lowest, 3: highest}).indices
    assert torch.equal(filled[:, 0], lowest.expand(8, *lowest.shape))
    assert torch.equal(filled[:, 3], highest.expand(8, *lowest.shape))
    # The level next to one end knows of the other end too, by the levels that were drawn again.
    elsewhere = model.sample_head(8, seed=1, given={0: lowest, 3: other}).indices
    assert not torch.equal(filled[:, 1], elsewhere[:, 1])


def test_each_level_is_shown_when_it_is_drawn(model: OasisVQ) -> None:
    shown: list[tuple[int, torch.Tensor]] = []
    head = model.sample_head(2, seed=3, on_level=lambda *level: shown.append(level))
    assert sorted(level for level, _ in shown) == sorted(list(range(LEVELS)) * len(model.stages))
    final = dict(shown)
    for level in range(LEVELS):
        torch.testing.assert_close(final[level], head.slices[:, level])


def test_a_stop_ends_the_draw(model: OasisVQ) -> None:
    def stop(level: int, slices: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.sample_head(on_level=stop)


def test_a_prior_of_single_slices_is_refused(tmp_path: Path) -> None:
    alone = OasisVQ.from_pretrained(write_weights(tmp_path / "tiny"), device="cpu")
    with pytest.raises(OasisVQError, match="single slices"):
        alone.sample_head()
    with pytest.raises(OasisVQError, match="single slices"):
        compress.compress_head(alone, alone.sample(3).indices)


def test_a_head_has_only_levels_and_grades_that_there_are(model: OasisVQ) -> None:
    codes, unknown = any_codes(model, LEVELS), len(TINY.grades)
    for lowest, count, grade in ((1, LEVELS, 0), (-1, 2, 0), (0, 2, -1), (0, 2, unknown + 1), (LEVELS, 0, 0)):
        with pytest.raises(OasisVQError, match="a head has levels from 0 to 3"):
            compress.compress_head(model, codes[:count], lowest, grade)
    for lowest, count, grade in ((1, LEVELS - 1, unknown), (LEVELS - 1, 1, 0)):
        file = compress.compress_head(model, codes[:count], lowest, grade)
        found, level = compress.decompress_head(model, "head.ovq", file)
        assert torch.equal(found, codes[:count])
        assert level == lowest


def test_a_missing_neighbour_is_an_unknown_one(model: OasisVQ) -> None:
    stage = model.stages[0]
    codes = torch.randint(stage.preset.codebook_size, (2, *stage.preset.grid))
    told = torch.tensor([1, 2]), torch.tensor([0, 1])
    with torch.inference_mode():
        alone = stage.prior(codes, *told)
        grey = stage.prior(codes, *told, picture=torch.zeros(2, 2, *stage.prior.size))
        black = stage.prior(codes, *told, picture=torch.full((2, 2, *stage.prior.size), -0.5))
    torch.testing.assert_close(alone, grey, rtol=1e-3, atol=1e-3)
    assert (alone - black).abs().max() > 0.1


def test_surprise_of_a_stack_is_each_slice_given_its_neighbours(model: OasisVQ) -> None:
    codes = model.sample_head(seed=2).indices[0]
    bits = model.surprise(codes, list(range(LEVELS)), stack=True)
    coarse, *_ = model.preset.split(codes)
    stage = model.stages[0]
    slices = stage.decode(coarse)[:, 0]
    grey = torch.zeros_like(slices[0])
    near = torch.stack([slices[2 + side] if 2 + side < LEVELS else grey for side in stage.preset.near])[None]
    with torch.inference_mode():
        logits = stage.prior(coarse[2:3], torch.tensor([2]), torch.tensor([len(TINY.grades)]), picture=near)
    expected = torch.nn.functional.cross_entropy(logits, coarse[2:3], reduction="none") / np.log(2)
    torch.testing.assert_close(model.preset.split(bits)[0][2], expected[0], rtol=1e-4, atol=1e-4)


def test_how_bright_a_head_is_given_slices_show(model: OasisVQ, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[torch.Tensor] = []
    sample = heads.sample
    monkeypatch.setattr(heads, "sample", lambda *a, **k: told.append(k["appearance"]) or sample(*a, **k))
    codes = model.sample_head(seed=6).indices[0]
    assert all((ranks < 2 * TINY.prior_ranks).all() for ranks in told)
    told.clear()
    model.sample_head(seed=6, given={1: codes[1]})
    assert told
    assert all((ranks == 2 * TINY.prior_ranks).all() for ranks in told)


def test_a_file_of_a_head_holds_its_codes_exactly(model: OasisVQ, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = model.sample_head(seed=6).indices[0]
    whole = compress.compress_head(model, codes)
    found, lowest = compress.decompress_head(model, "head.ovq", whole)
    assert torch.equal(found, codes)
    assert lowest == 0
    monkeypatch.setattr(compress, "_safe_shift", lambda _tables: 5)  # as where a logit lies on a border
    part = compress.compress_head(model, codes[1:3], lowest=1, grade=1)
    found, lowest = compress.decompress_head(model, "part.ovq", part)
    assert torch.equal(found, codes[1:3])
    assert lowest == 1


def test_neighbours_make_the_file_of_their_own_head_smaller(model: OasisVQ) -> None:
    """Of codes drawn from the model itself: it knows best how they hang together."""
    own = [model.sample_head(seed=seed).indices[0] for seed in range(3)]
    apart = sum(len(file) - 10 for codes in own for file in compress.compress(model, codes, range(LEVELS)))
    together = sum(len(compress.compress_head(model, codes)) - 11 for codes in own)
    assert together < apart


def test_damaged_and_foreign_heads_are_refused(model: OasisVQ, tmp_path: Path) -> None:
    whole = compress.compress_head(model, model.sample_head(seed=6).indices[0])
    for at in (*range(12), len(whole) // 2):
        broken = whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :]
        with pytest.raises(OasisVQError, match=r"head\.ovq"):
            compress.decompress_head(model, "head.ovq", broken)
    with pytest.raises(OasisVQError, match=r"head\.ovq"):
        compress.decompress_head(model, "head.ovq", whole[:7])
    other = load(tmp_path / "other", replace(model.preset, seed=1))
    other.info["files"]["prior.safetensors"]["sha256"] = "0" * 64
    with pytest.raises(OasisVQError, match="made with weights"):
        compress.decompress_head(other, "head.ovq", whole)


def stacks() -> SliceSet:
    """Two people, the second without its level 1, the first's last level just under the second's first."""
    generator = np.random.default_rng(0)
    about = np.concatenate([describe_slices("a", [0, 1, 2], 0), describe_slices("b", [3, 5, 4], 0)])
    return SliceSet(generator.random((6, 16, 16), np.float32) - 0.5, about)


def test_neighbours_are_of_the_same_person(tmp_path: Path) -> None:
    slices = stacks()
    assert {(i, offset) for i in range(6) for offset in (-2, -1, 1, 2) if slices.beside(i, offset)} == {
        (0, 1),
        (0, 2),
        (1, -1),
        (1, 1),
        (2, -1),
        (2, -2),
    }


def test_the_prior_learns_from_the_decoded_slices_beside(model: OasisVQ, tmp_path: Path) -> None:
    stage = model.stages[0]
    slices = stacks()
    codes = encode_split(stage.tokenizer, slices, tmp_path, "train", "0" * 64, torch.device("cpu"))
    assert isinstance(codes, CodeSet)
    graded = SliceSet(slices.slices, slices.about.copy())
    graded.about["grade"] = 1
    again = encode_split(stage.tokenizer, graded, tmp_path, "train", "0" * 64, torch.device("cpu"))
    assert {int(again[i]["grade"]) for i in range(6)} == {1}, "a table of grades was corrected"
    task = PriorTask(stage.preset, stage.tokenizer)
    near = stage.preset.near
    every = torch.ones(1, len(near), dtype=torch.bool)
    batch = {k: v[None] for k, v in codes[1].items()}
    for mirrored in (False, True):
        pictures = task.add_neighbours(None, batch, torch.tensor([mirrored]), every)
        for offset in (-1, 1):
            picture = torch.from_numpy(slices.slices[1 + offset])[None, None]
            shown = stage.reconstruct(picture.flip(3) if mirrored else picture).slices[0, 0]
            torch.testing.assert_close(pictures[0, near.index(offset)], shown)
    hidden = task.add_neighbours(None, batch, torch.tensor([False]), torch.tensor([[offset == 1 for offset in near]]))
    assert [bool((picture != 0).any()) for picture in hidden[0]] == [offset == 1 for offset in near]
    edge = {k: v[None] for k, v in codes[2].items()}  # the highest of its person
    there = task.add_neighbours(None, edge, torch.tensor([False]), every)[0]
    assert [bool((picture != 0).any()) for picture in there] == [offset < 0 for offset in near]


def test_what_lies_further_is_shown_with_what_lies_between(model: OasisVQ) -> None:
    stage = model.stages[0]
    shown = PriorTask(stage.preset, stage.tokenizer).shown(4000, torch.Generator().manual_seed(0)).float()
    near = list(stage.preset.near)
    for side in (-1, 1):
        share = NEIGHBOURS[(side + 1) // 2 + 1] + NEIGHBOURS[3]
        assert shown[:, near.index(side)].mean() == pytest.approx(share, abs=0.03)
        if 2 * side in near:
            behind = shown[:, near.index(2 * side)]
            assert behind.mean() == pytest.approx(share * (1 - NEAREST_ALONE), abs=0.03)
            assert (behind <= shown[:, near.index(side)]).all()
    assert (shown.sum(1) == 0).float().mean() == pytest.approx(NEIGHBOURS[0], abs=0.03)


def test_drawn_heads_from_the_command_line(
    model: OasisVQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("oasisvq.cli._load", lambda args: model)
    words = ["sample", "--head", "--count", "2", "--first", "1", "--seed", "3", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    head = model.sample_head(seed=3, first=2)
    expected = (head.slices[0, :, 0].numpy() + 0.5).clip(0, 1)
    for level in range(LEVELS):
        picture = np.asarray(Image.open(tmp_path / "out" / "head_00002" / f"level_{level:02d}.png"))
        assert np.abs(picture / 255 - expected[level]).max() < 0.003
    volume = nibabel.load(tmp_path / "out" / "head_00002.nii.gz")
    assert volume.shape == (*picture.shape, LEVELS)
    assert np.array_equal(np.asarray(volume.dataobj)[:, ::-1, LEVELS - 1].T, picture)
    assert b"SYNTHETIC" in volume.header["descrip"].tobytes()
    with np.load(tmp_path / "out" / "head_00002" / "codes.npz") as codes:
        assert np.array_equal(codes["indices"], head.indices[0].numpy())
    assert main([*words, "--level", "3"]) == 2
    assert "--level" in capsys.readouterr().err


def test_heads_from_the_command_line(model: OasisVQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oasisvq.cli._load", lambda args: model)
    pictures = []
    for level in range(LEVELS):
        picture = np.zeros((64, 64), np.uint8)
        picture[16:48, 20 : 36 + level] = 150
        pictures.append(tmp_path / f"level_{level}.png")
        Image.fromarray(picture).save(pictures[-1])
    words = [*map(str, pictures), "--out", str(tmp_path / "small"), "--json", str(tmp_path / "small.json")]
    assert main(["compress", "--head", *words]) == 0
    (whole,) = (tmp_path / "small").iterdir()
    figures = json.loads((tmp_path / "small.json").read_text())
    assert figures["bytes_a_slice"] == whole.stat().st_size / LEVELS
    assert main(["decompress", str(whole), "--out", str(tmp_path / "back")]) == 0
    (tmp_path / "single").mkdir()
    assert main(["compress", str(pictures[0]), "--out", str(tmp_path / "single")]) == 0
    single = (tmp_path / "single" / "level_0.ovq").rename(tmp_path / "head_level_00.ovq")
    assert main(["decompress", str(whole), str(single), "--out", str(tmp_path / "both")]) == 2
    assert main(["reconstruct", *map(str, pictures), "--out", str(tmp_path / "direct")]) == 0
    for level in range(LEVELS):
        back = np.asarray(Image.open(tmp_path / "back" / f"head_level_{level:02d}.png"))
        assert np.array_equal(back, np.asarray(Image.open(tmp_path / "direct" / f"level_{level}.png")))

    # In any order with a volume, the pictures are one file; none takes the place of another.
    monkeypatch.setattr("oasisvq.cli._read", lambda _: iter(slices))
    given = [cli._Slice(path.stem, path, None, np.asarray(Image.open(path)) / 255) for path in pictures[:2]]
    for name in ("scan", "head"):
        volume = [cli._Slice(f"{name}_level_{k:02d}", tmp_path, k, given[0].picture) for k in range(2)]
        slices = [given[0], *volume, given[1]]
        words = ["compress", "--head", "x", "--out", str(tmp_path / name)]
        assert main(words) == (0 if name == "scan" else 2)
    assert sorted(path.stem for path in (tmp_path / "scan").iterdir()) == ["head", "scan"]
    assert not (tmp_path / "head").exists()
    slices = [cli._Slice("scan_level_00", tmp_path / at, 0, given[0].picture) for at in ("one", "two")]
    assert main(["compress", "--head", "x", "--out", str(tmp_path / "twice")]) == 2
    assert not (tmp_path / "twice").exists()
