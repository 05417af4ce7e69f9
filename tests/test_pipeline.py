"""OasisVQ: what each verb promises, on random weights, and what it refuses."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_weights import CASCADE, TINY, forget_the_hub, write_weights

from oasisvq import OasisVQ, OasisVQError
from oasisvq.data.slices import FOREGROUND, resize
from oasisvq.models import sampling, tokenizer
from oasisvq.models.presets import Preset


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    return {preset.name: write_weights(root / preset.name, preset=preset) for preset in (TINY, CASCADE)}


def load(folder: Path) -> OasisVQ:
    """Random weights whose codes differ, and whose priors care about what they are told."""
    loaded = OasisVQ.from_pretrained(folder, device="cpu")
    torch.manual_seed(0)
    for stage in loaded.stages:
        slices, picture = torch.rand(2, 4, 1, stage.preset.size, stage.preset.size) - 0.5
        stage.vqvae.train()(slices, picture if stage.coarse else None)  # its first step fills the codebook
        stage.vqvae.eval()
        for weights in stage.prior.parameters():
            weights.mul_(3)
    return loaded


@pytest.fixture(params=[TINY, CASCADE], ids=lambda preset: preset.name)
def model(
    request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> OasisVQ:
    forget_the_hub(monkeypatch, tmp_path)
    return load(folders[request.param.name])


@pytest.fixture
def cascade(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OasisVQ:
    forget_the_hub(monkeypatch, tmp_path)
    return load(folders[CASCADE.name])


def random_codes(preset: Preset, n: int) -> torch.Tensor:
    """(n, *preset.shape), each within the codebook of its stage."""
    generator = torch.Generator().manual_seed(1)
    grids = [torch.randint(s.codebook_size, (n, *s.grid), generator=generator) for s in preset.stages]
    return preset.join(grids)


def some_of(preset: Preset) -> torch.Tensor:
    """A mask, bool preset.shape, True at half of the codes of every stage."""
    return torch.rand(preset.shape, generator=torch.Generator().manual_seed(2)) < 0.5


def test_info_says_what_is_loaded_and_from_where(model: OasisVQ) -> None:
    assert model.info["source"] == "folder"
    assert model.info["preset"]["name"] == model.preset.name
    assert model.info["data"]["name"] == "Phantom cohort"
    assert model.info["results"]["people"] == 1
    assert [line["epoch"] for line in model.info["history"]["vqvae"]] == [1, 2]
    assert set(model.info["files"]) >= {"vqvae.safetensors", "prior.safetensors"}
    assert model.info["device"] == "cpu"


def test_reconstruct_is_decode_of_encode(model: OasisVQ) -> None:
    size = model.preset.size
    slices = torch.rand(3, 1, size, size) - 0.5
    coded = model.reconstruct(slices)
    assert coded.indices.shape == (3, *model.preset.shape)
    assert torch.equal(coded.indices, model.encode(slices))
    assert torch.equal(coded.slices, model.decode(coded.indices))
    assert coded.slices.shape == slices.shape
    assert coded.slices.abs().max() <= 0.5
    assert all(len(part.unique()) > 1 for part in model.preset.split(coded.indices))


def test_a_cascade_codes_what_its_coarse_stage_lacks(cascade: OasisVQ) -> None:
    """Worked out with Pillow and the two VQ-VAEs alone."""
    slices = torch.rand(3, 1, 24, 24, generator=torch.Generator().manual_seed(0)) - 0.5
    small = torch.stack([torch.from_numpy(resize(one.numpy(), 16).copy()) for one in slices[:, 0]])[:, None]
    assert cascade.coarse is not None
    coarse = cascade.coarse.vqvae.encode(small)
    shown = cascade.coarse.vqvae.decode(coarse)
    large = F.interpolate(shown, (24, 24), mode="bicubic").clamp(-0.5, 0.5)
    picture = torch.where(large + 0.5 < FOREGROUND, -0.5, large)
    own = cascade.vqvae.encode(slices, picture)
    indices = cascade.encode(slices)
    assert indices.shape == (3, 1, 16 + 36)
    assert torch.equal(indices, torch.cat([coarse.flatten(1), own.flatten(1)], 1)[:, None])
    torch.testing.assert_close(cascade.decode(indices), cascade.vqvae.decode(own, picture))
    torch.testing.assert_close(cascade.tokenizer.picture_of(slices), picture)
    exact = cascade.exact_picture(coarse)
    assert exact is not None
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), picture)


@pytest.mark.parametrize(("before", "after"), [(256, 80), (24, 16), (16, 16), (50, 7)])
def test_shrinking_is_reading_at_a_smaller_size(before: int, after: int) -> None:
    """A person's slices, at 256 pixels and at 80, become the same codes of the coarse stage."""
    pictures = np.random.default_rng(0).random((2, before, before), np.float32)
    filtered = [Image.fromarray(p).resize((after, after), Image.Resampling.HAMMING) for p in pictures]
    found = tokenizer.shrink(torch.from_numpy(pictures)[:, None] - 0.5, after)
    np.testing.assert_allclose(found[:, 0].numpy() + 0.5, np.stack(filtered), atol=1e-6)
    if before == 256:  # where `resize` adds no canvas
        np.testing.assert_allclose(found[0, 0].numpy() + 0.5, resize(pictures[0], after), atol=1e-6)


def test_the_background_of_an_enlarged_picture_is_black() -> None:
    hazy = torch.full((1, 1, 8, 8), 0.9 * FOREGROUND - 0.5)
    hazy[:, :, 4:] = 0.3
    large = tokenizer.enlarge(hazy, 32)
    assert large.shape == (1, 1, 32, 32)
    assert (large[:, :, :12] == -0.5).all()
    torch.testing.assert_close(large[:, :, 24:], torch.full((1, 1, 8, 32), 0.3))
    dark = torch.full((1, 1, 8, 8), 1.1 * FOREGROUND - 0.5)
    torch.testing.assert_close(tokenizer.enlarge(dark, 32), torch.full((1, 1, 32, 32), 1.1 * FOREGROUND - 0.5))


def test_an_enlarged_edge_stays_within_the_range_of_greys() -> None:
    edge = torch.full((1, 1, 8, 8), -0.5)
    edge[:, :, 4:] = 0.5
    large = tokenizer.enlarge(edge, 32)
    assert large.max() == 0.5
    assert large.min() == -0.5


def test_draws_with_seeds_and_grades_of_their_own_are_what_they_are_alone(model: OasisVQ) -> None:
    grades = [0.5, None, 0.0]
    together = model.sample(3, seed=[7, 2, 7], level=[1, 2, 1], grade=grades, first=2)
    for i, (seed, grade) in enumerate(zip([7, 2, 7], grades, strict=True)):
        alone = model.sample(1, seed=seed, level=[1, 2, 1][i], grade=grade, first=2)
        assert torch.equal(together.indices[i], alone.indices[0])
    untold = model.sample(2, seed=[5, 6])
    assert untold.levels.tolist() == [int(model.sample(1, seed=seed).levels[0]) for seed in (5, 6)]
    with pytest.raises(OasisVQError, match="seed -1"):
        model.sample(2, seed=[0, -1])
    with pytest.raises(OasisVQError, match="grade 7"):
        model.sample(2, grade=[0.5, 7])
    with pytest.raises(OasisVQError, match="1 draws need one seed"):
        model.sample(1, seed=[0, 1], level=1)
    with pytest.raises(OasisVQError, match="3 draws need one seed"):
        model.sample(3, seed=[0, 1])


def test_sample_is_its_seeds_alone(model: OasisVQ) -> None:
    together = model.sample(3, seed=4, level=2, grade=0.5)
    apart = torch.cat([model.sample(1, seed=4, level=2, grade=0.5, first=i).indices for i in range(3)])
    assert torch.equal(together.indices, apart)
    assert torch.equal(together.slices, model.decode(together.indices))
    other = model.sample(3, seed=5, level=2, grade=0.5).indices
    for one, another in zip(model.preset.split(together.indices), model.preset.split(other), strict=True):
        assert (one != another).flatten(1).any(1).all()


def test_a_level_is_drawn_first_where_none_is_told(model: OasisVQ) -> None:
    drawn = model.sample(12, seed=4)
    assert drawn.levels is not None
    assert len(drawn.levels.unique()) > 5
    again = model.sample(12, seed=np.int64(4), level=drawn.levels)  # as they come back
    assert torch.equal(drawn.indices, again.indices)
    assert torch.equal(drawn.levels, again.levels)
    for i in (0, 7):
        alone = model.sample(1, seed=4, first=i, level=int(drawn.levels[i]))
        assert torch.equal(alone.indices[0], drawn.indices[i])
        assert torch.equal(model.sample(1, seed=4, first=i).indices, alone.indices)
    shares = torch.bincount(sampling.draw_levels(32, 4000, seed=4), minlength=32) / 4000
    assert (shares.min(), shares.max()) == pytest.approx((1 / 32, 1 / 32), rel=0.35), "every level is as likely"


def test_the_draw_of_a_cascade_is_that_of_its_stages_one_after_the_other(cascade: OasisVQ) -> None:
    assert cascade.coarse is not None
    drawn = cascade.sample(3, seed=4, level=[2, 5, 9], grade=0.5, temperature=1.2).indices
    told = {"seed": 4, "temperature": 1.2, "level": [2, 5, 9], "grade": 1}
    coarse = cascade.coarse.sample(3, seed=4, level=[2, 5, 9], grade=0.5, temperature=1.2).indices
    picture = copy.deepcopy(cascade.tokenizer).double().picture(coarse)
    own = sampling.sample(cascade.prior, 3, picture=picture, stage=1, **told)
    assert torch.equal(drawn, torch.cat([coarse.flatten(1), own.flatten(1)], 1)[:, None])
    other = sampling.sample(cascade.prior, 3, picture=picture.flip(0), stage=1, **told)
    assert not torch.equal(own, other), "the picture matters"


def test_a_stage_with_fewer_codes_than_the_likeliest_asked_for_keeps_them_all(cascade: OasisVQ) -> None:
    assert cascade.preset.codebook_size < 7 < TINY.codebook_size
    hot = {"seed": 1, "level": 3, "temperature": 100}
    some, every = (cascade.preset.split(cascade.sample(4, top_k=k, **hot).indices) for k in (7, None))
    assert not torch.equal(some[0], every[0])
    given, finer = cascade.preset.join(every)[0], torch.arange(52)[None] >= 16
    kept = [cascade.sample(1, given=given, mask=finer, top_k=k, **hot).indices for k in (7, 6, None)]
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0], kept[2])
    with pytest.raises(OasisVQError, match="top_k 0"):
        cascade.sample(1, top_k=0)


@pytest.mark.parametrize("kept", [False, True], ids=["everything drawn", "half given"])
def test_each_step_of_a_draw_is_shown_once(model: OasisVQ, kept: bool) -> None:
    preset = model.preset
    mask = some_of(preset)
    given = {"given": random_codes(preset, 1)[0], "mask": mask} if kept else {}
    steps: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    drawn = model.sample(
        2, seed=3, level=1, on_step=lambda i, codes, bits: steps.append((i, codes.clone(), bits)), **given
    )
    drawn_at = mask.flatten() if kept else torch.ones(preset.codes, dtype=torch.bool)
    assert [i for i, _, _ in steps] == drawn_at.nonzero().flatten().tolist()
    final = drawn.indices.flatten(1)
    before = given["given"].expand(2, *preset.shape).flatten(1) if kept else torch.zeros_like(final)
    for i, codes, bits in steps:
        assert codes.shape == (2, *preset.shape)
        assert torch.equal(codes.flatten(1)[:, : i + 1], final[:, : i + 1])
        assert torch.equal(codes.flatten(1)[:, i + 1 :], before[:, i + 1 :])
        assert bits.shape == (2,)
    sizes = [stage.codebook_size for stage in preset.stages for _ in range(math.prod(stage.grid))]
    assert all((bits <= math.log2(sizes[i]) + 1e-9).all() for i, _, bits in steps)


def test_given_codes_are_kept_in_every_stage(model: OasisVQ) -> None:
    preset, mask = model.preset, some_of(model.preset)
    given = random_codes(preset, 1)[0]
    drawn = model.sample(3, seed=3, given=given, mask=mask)
    assert drawn.levels is None
    assert torch.equal(drawn.indices[:, ~mask], given[~mask].expand(3, -1))
    for part, where, old in zip(*map(preset.split, (drawn.indices, mask[None], given[None])), strict=True):
        assert (part != old)[:, where[0]].any()
    apart = [model.sample(1, seed=3, first=i, given=given, mask=mask).indices for i in range(3)]
    assert torch.equal(drawn.indices, torch.cat(apart))
    nothing = torch.zeros_like(mask)
    assert torch.equal(model.sample(1, given=given, mask=nothing).indices[0], given)


def bits_by_hand(model: OasisVQ, indices: torch.Tensor, level: int) -> torch.Tensor:
    """-log2 p in double precision: (B, *shape)."""
    found, coarse = [], None
    for stage, part in zip(model.stages, model.preset.split(indices), strict=True):
        picture = None if coarse is None else stage.exact_picture(coarse)
        told = torch.full((len(part),), level), torch.full((len(part),), len(TINY.grades))
        logits = copy.deepcopy(stage.prior).double()(part, *told, picture=picture)
        found.append(-torch.log_softmax(logits, 1).gather(1, part[:, None])[:, 0] / math.log(2))
        coarse = part
    return model.preset.join(found)


def test_surprise_is_the_cross_entropy_of_the_priors(model: OasisVQ) -> None:
    indices = random_codes(model.preset, 2)
    expected = bits_by_hand(model, indices, 3)
    torch.testing.assert_close(model.surprise(indices, level=3).double(), expected, rtol=1e-4, atol=1e-4)
    apart = torch.cat([bits_by_hand(model, indices[:1], 3), bits_by_hand(model, indices[1:], 5)])
    torch.testing.assert_close(model.surprise(indices, level=[3, 5]).double(), apart, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected[1], apart[1])


def test_the_likeliest_codes_of_a_place_have_the_least_surprise(model: OasisVQ) -> None:
    indices = random_codes(model.preset, 1)
    for place in (0, 5, 15, model.preset.codes // 2, model.preset.codes - 1):
        codes, shares = model.likely(indices, place, count=3, level=2)
        for code, share in zip(codes, shares, strict=True):
            changed = indices.clone()
            changed.view(-1)[place] = code
            bits = bits_by_hand(model, changed, 2).flatten()[place]
            assert float(share) == pytest.approx(float(2**-bits), rel=1e-4)
        assert (shares.diff() <= 0).all()
    for wrong in (-1, model.preset.codes):
        with pytest.raises(OasisVQError, match=f"0 to {model.preset.codes - 1}"):
            model.likely(indices, wrong)


def test_refill_keeps_the_rest(model: OasisVQ) -> None:
    preset, mask = model.preset, some_of(model.preset)
    indices = random_codes(preset, 2)
    filled = model.refill(indices, mask, seed=1)
    assert torch.equal(filled.indices[:, ~mask], indices[:, ~mask])
    for part, where, old in zip(*map(preset.split, (filled.indices, mask[None], indices)), strict=True):
        assert (part != old)[:, where[0]].any()
    assert torch.equal(filled.slices, model.decode(filled.indices))
    assert torch.equal(model.refill(indices, ~mask & mask).indices, indices)
    assert torch.equal(model.refill(indices[:1], mask, seed=1).indices, filled.indices[:1])
    told = model.refill(indices, mask, seed=1, level=[3, 9]).indices
    for i, level in enumerate((3, 9)):
        assert torch.equal(model.refill(indices[: i + 1], mask, seed=1, level=level).indices[i], told[i])


def test_the_refill_of_a_cascade_is_that_of_its_stages_one_after_the_other(cascade: OasisVQ) -> None:
    assert cascade.coarse is not None
    indices, mask = random_codes(cascade.preset, 2), some_of(cascade.preset)
    filled = cascade.preset.split(cascade.refill(indices, mask, seed=7, level=3, grade=0.5, proposals=4).indices)
    before, where = cascade.preset.split(indices), cascade.preset.split(mask[None])
    picture = cascade.exact_picture(filled[0])
    assert picture is not None
    for i in (0, 1):
        told = {"seed": 7, "first": i, "level": 3, "grade": 1, "proposals": 4}
        coarse = sampling.refill(cascade.coarse.prior, before[0][i, None], where[0][0], **told)
        assert torch.equal(coarse[0], filled[0][i])
        own = sampling.refill(cascade.prior, before[1][i, None], where[1][0], picture=picture[i, None], stage=1, **told)
        assert torch.equal(own[0], filled[1][i])


def test_a_stage_that_is_kept_whole_is_seen_by_the_one_refilled(cascade: OasisVQ) -> None:
    indices = random_codes(cascade.preset, 2)
    mask = torch.arange(52)[None] >= 16  # the finer stage, all of it
    other = indices.clone()
    other[:, :, :16] = (other[:, :, :16] + 3) % TINY.codebook_size
    first, second = (cascade.refill(codes, mask, seed=1, level=3).indices for codes in (indices, other))
    assert torch.equal(first[:, :, :16], indices[:, :, :16])
    assert not torch.equal(first[:, :, 16:], second[:, :, 16:])
    coarse = cascade.refill(indices, ~mask, seed=1, level=3).indices
    assert torch.equal(coarse[:, :, 16:], indices[:, :, 16:])
    assert not torch.equal(coarse[:, :, :16], indices[:, :, :16])


def test_nearest_is_the_least_distance_between_decoded_slices(model: OasisVQ) -> None:
    indices, training = random_codes(model.preset, 73).split([3, 70])
    training[66] = indices[1]
    pictures, others = model.decode(indices)[:, 0].double(), model.decode(training)[:, 0].double()
    both = torch.cat([others, others.flip(2)])
    expected = (pictures[:, None] - both).square().mean((2, 3)).sqrt().min(1).values
    found = model.nearest(indices, training)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found[1] == 0 < found[0]


def codes(model: OasisVQ, *first: int) -> torch.Tensor:
    """(1, *shape) int64, zero but for the first few."""
    found = torch.zeros(1, *model.preset.shape, dtype=torch.int64)
    found.view(-1)[: len(first)] = torch.tensor(first)
    return found


WRONG = torch.zeros(5, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(torch.zeros(1, 16, 16)), r"takes \(B, 1, (16, 16|24, 24)\)"),
        (lambda m: m.encode(torch.ones(1, 1, m.preset.size, m.preset.size)), r"leave \[-0.5, 0.5\]"),
        (lambda m: m.encode(torch.full((1, 1, m.preset.size, m.preset.size), math.nan)), r"leave \[-0.5, 0.5\]"),
        (lambda m: m.decode(codes(m, 8)), "integers from 0 to 7"),
        (lambda m: m.decode(codes(m, 7, -1)), "integers from 0 to 7"),
        (lambda m: m.decode(WRONG[None]), r"codes have shape .*: give \(B, (4, 4|1, 52)\) int64"),
        (lambda m: m.decode(codes(m).float()), "codes have shape"),
        (lambda m: m.surprise(codes(m, 8)), "integers from 0 to 7"),
        (lambda m: m.surprise(codes(m), level=[1, 2]), "level must be"),
        (lambda m: m.sample(0), "at least 1"),
        (lambda m: m.sample(-1), "at least 1"),
        (lambda m: m.sample(1, seed=-1), "negative"),
        (lambda m: m.sample(1, level=32), "level 32 does not exist"),
        (lambda m: m.sample(2, level=[3, 32]), "level 32 does not exist"),
        (lambda m: m.sample(2, level=[3]), "level must be"),
        (lambda m: m.sample(1, grade=0.7), "grade 0.7 is unknown"),
        (lambda m: m.sample(1, temperature=0), "temperature"),
        (lambda m: m.sample(1, given=codes(m)[0]), "given codes and a mask come together"),
        (lambda m: m.sample(1, mask=codes(m)[0].bool()), "given codes and a mask come together"),
        (lambda m: m.sample(1, given=WRONG, mask=WRONG.bool()), "grid"),
        (lambda m: m.sample(1, given=codes(m)[0], mask=WRONG.bool()), "grid"),
        (lambda m: m.sample(1, given=codes(m)[0], mask=codes(m)[0]), "boolean"),
        (lambda m: m.sample(1, given=codes(m, 8)[0], mask=codes(m)[0].bool()), "from 0 to 7"),
        (lambda m: m.refill(codes(m), WRONG.bool()), "mask"),
        (lambda m: m.refill(codes(m), codes(m)[0]), "boolean"),
        (lambda m: m.refill(codes(m), codes(m)[0].bool(), level=[1, 2]), "2 levels for 1 grids"),
    ],
)
def test_bad_input_is_refused_in_one_line(model: OasisVQ, call, message: str) -> None:
    with pytest.raises(OasisVQError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_the_codes_of_each_stage_have_their_own_codebook(cascade: OasisVQ) -> None:
    most = cascade.preset.join([torch.full((1, *s.grid), s.codebook_size - 1) for s in cascade.preset.stages])
    assert cascade.decode(most).shape == (1, 1, 24, 24)
    everything = torch.ones(1, 52, dtype=torch.bool)
    for place, size in ((15, 8), (16, 6), (51, 6)):
        wrong = most.clone()
        wrong[0, 0, place] = size
        for call in (
            lambda wrong=wrong: cascade.decode(wrong),
            lambda wrong=wrong: cascade.surprise(wrong),
            lambda wrong=wrong: cascade.refill(wrong, everything),
            lambda wrong=wrong: cascade.sample(1, given=wrong[0], mask=everything, on_step=pytest.fail),
        ):
            with pytest.raises(OasisVQError, match=f"integers from 0 to {size - 1}"):
                call()


def test_no_slice_at_all(model: OasisVQ) -> None:
    none = torch.zeros(0, *model.preset.shape, dtype=torch.int64)
    size = model.preset.size
    assert model.decode(none).shape == (0, 1, size, size)
    assert model.refill(none, torch.ones(model.preset.shape, dtype=torch.bool)).indices.shape == none.shape


def test_a_numpy_slice_needs_no_ceremony(model: OasisVQ) -> None:
    picture = np.zeros((model.preset.size, model.preset.size), np.float32)
    assert model.encode(torch.from_numpy(picture)[None, None] - 0.5).shape == (1, *model.preset.shape)


def test_each_process_on_a_machine_takes_a_gpu_of_its_own(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(OasisVQ, "__init__", lambda self, *made, **_: taken.append(made[-1]))
    folder = write_weights(tmp_path / "weights")
    for rank in (None, "0", "3"):
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        if rank:
            monkeypatch.setenv("LOCAL_RANK", rank)
        OasisVQ.from_pretrained(folder)
    assert taken == ["cuda:0", "cuda:0", "cuda:3"]


@pytest.mark.slow
def test_weights_are_loaded_without_torch_s_compiler() -> None:
    """Its import takes longer than all the rest of loading."""
    script = "import sys, oasisvq; oasisvq.OasisVQ.from_pretrained('base'); print('sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
