"""The cached sampler against the naive one, and refills against the distribution they are meant to follow."""

import copy
import gc
import itertools
import json
import math
import runpy
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_weights import CASCADE, write_weights
from tiny_weights import TINY as TINY_PRESET
from torch import Tensor, nn

from oasisvq import OasisVQ
from oasisvq.errors import OasisVQError
from oasisvq.models import sampling
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import PRESETS, Preset
from oasisvq.models.sampling import Sampler, refill, sample, surprise
from oasisvq.training.codes import brightness

TINY = replace(PRESETS["smoke"], codebook_size=11, prior_channels=8, prior_layers=6, prior_heads=2, prior_neighbours=0)


def make_prior(
    height: int,
    width: int,
    codes: int = 11,
    strength: float | None = None,
    heads: int = 2,
    depth: int = 1,
    coarse: bool = False,
    neighbours: int = 0,
) -> PixelCNN:
    """A random network whose every part matters, and whose codes depend strongly on one another: `depth` codes a cell,
    height * width cells. With `coarse` it takes a picture, and one more for each of its neighbours."""
    torch.manual_seed(0)
    stage = TINY if coarse else None
    preset = replace(TINY, codebook_size=codes, prior_heads=heads, depth=depth, coarse=stage)
    prior = PixelCNN(replace(preset, prior_neighbours=neighbours))
    for name in ("position_v", "position_h"):
        setattr(prior, name, nn.Parameter(torch.empty(1, TINY.prior_channels, height, width)))
    strength = strength or (0.4 if prior.pictures else 0.5)
    for name, parameter in prior.named_parameters():
        # The mirror adds without a gate that would bound it, and so does the context.
        kind = name.split(".")[0]
        nn.init.normal_(parameter, std=strength * {"mirror": 0.2, "context": 0.6}.get(kind, 1))
    return prior.eval()


def make_picture(prior: PixelCNN, n: int) -> Tensor | None:
    """(n, P, S, S') float64 noise in [-0.5, 0.5], for a prior that takes P pictures."""
    if prior.context is None:
        return None
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n, prior.pictures, *prior.size, dtype=torch.float64, generator=generator) - 0.5


@pytest.fixture(scope="module")
def prior() -> PixelCNN:
    return make_prior(5, 7)


@pytest.fixture(scope="module")
def fine() -> PixelCNN:
    return make_prior(5, 7, coarse=True)


@torch.inference_mode()
def naive(
    prior: PixelCNN,
    n: int,
    seed: int = 0,
    temperature: float = 1.0,
    level: Tensor | None = None,
    grade: Tensor | None = None,
    appearance: Tensor | None = None,
    given: Tensor | None = None,
    mask: Tensor | None = None,
    top_k: int | None = None,
    picture: Tensor | None = None,
    stage: int = 0,
) -> Tensor:
    """A full forward pass a position in double precision; then the first code whose cumulative probability exceeds a
    uniform number. The appearance is the same in each stage of a cascade, the numbers are not."""
    prior = copy.deepcopy(prior).double()
    height, width = prior.grid
    level = torch.full((n,), TINY.levels) if level is None else level
    grade = torch.full((n,), len(TINY.grades)) if grade is None else grade
    if appearance is None and given is None:
        own = [np.random.default_rng((seed, draw, 2)).random() for draw in range(n)]
        appearance = torch.tensor([int(number * TINY.prior_ranks) for number in own])
    indices = torch.zeros(n, height, width, dtype=torch.long) if given is None else given.clone()
    purpose = (3, stage) if stage else ()
    uniforms = [np.random.default_rng((seed, draw, *purpose)).random(height * width) for draw in range(n)]
    for row, column in itertools.product(range(height), range(width)):
        if mask is None or mask[row, column]:
            logits = prior(indices, level, grade, appearance, picture, sampling.APPEARANCE_SCALE)[:, :, row, column]
            logits /= temperature
            if top_k:
                logits[logits < logits.topk(top_k).values[:, -1:]] = -math.inf
            for draw in range(n):
                below = np.cumsum(logits[draw].softmax(0).numpy()) <= uniforms[draw][row * width + column]
                indices[draw, row, column] = int(below.sum())
    return indices


@pytest.mark.parametrize(
    ("height", "width", "heads", "depth", "coarse", "neighbours"),
    [
        (5, 7, 2, 1, False, 0),
        (10, 10, 2, 1, False, 0),
        (20, 20, 2, 1, False, 0),
        (3, 1, 2, 1, False, 0),
        (10, 10, 0, 1, False, 0),
        (2, 6, 0, 1, False, 0),
        (5, 7, 2, 2, False, 0),
        (3, 1, 0, 3, False, 0),
        (5, 7, 2, 1, True, 0),
        (10, 10, 0, 1, True, 0),
        (3, 6, 0, 2, True, 0),
        (5, 7, 2, 1, False, 2),
        (10, 10, 0, 1, True, 2),
    ],
)
@pytest.mark.parametrize("n", [1, 3, 16])
@torch.inference_mode()
def test_logits_are_those_of_the_parallel_view(
    height: int, width: int, heads: int, depth: int, coarse: bool, neighbours: int, n: int
) -> None:
    prior = make_prior(height, width, heads=heads, depth=depth, coarse=coarse, neighbours=neighbours)
    width *= depth
    indices = torch.randint(11, (n, height, width))
    level, grade = torch.arange(n) % (TINY.levels + 1), torch.arange(n) % (len(TINY.grades) + 1)
    picture = make_picture(prior, n)
    condition = level, grade, None, None if picture is None else picture.float()
    expected = prior(indices, *condition)
    assert expected.std() > 0.5
    atol = 2e-5 * float(expected.std())  # a dozen layers of strong random weights add up
    sampler = Sampler(prior, indices, *condition)
    for _, row, column in sampler.walk(0, height * width):
        torch.testing.assert_close(sampler.logits(), expected[:, :, row, column], rtol=1e-5, atol=atol)


@pytest.mark.parametrize(("depth", "coarse"), [(1, False), (2, False), (1, True), (2, True)])
@torch.inference_mode()
def test_skipping_rows_and_exchanging_pasts_leave_the_logits_exact(depth: int, coarse: bool) -> None:
    prior = make_prior(5, 7, depth=depth, coarse=coarse)
    copies, start, width = 3, 2, 7 * depth
    indices = torch.randint(11, (2, 5, width)).repeat_interleave(copies, 0)
    indices[:, start:] = torch.randint(11, indices[:, start:].shape)
    level, grade = torch.tensor([1, 1, 1, 7, 7, 7]), torch.zeros(6, dtype=torch.long)
    picture = make_picture(prior, 2)
    condition = level, grade, None, None if picture is None else picture.float().repeat_interleave(copies, 0)
    sampler = Sampler(prior, indices, *condition)
    sampler.skip_to(start, copies)
    for position, row, column in sampler.walk(start * width, 5 * width):
        expected = prior(indices, *condition)[:, :, row, column]
        atol = 2e-5 * float(expected.std())
        torch.testing.assert_close(sampler.logits(), expected, rtol=1e-5, atol=atol)
        if position == 3 * width - 1:
            draws = torch.tensor([2, 0, 0, 5, 5, 4])
            sampler.select(draws)
            indices.copy_(indices[draws])


@pytest.mark.parametrize(
    ("height", "width", "n", "depth", "stage"),
    [
        (10, 10, 1, 1, 0),
        (5, 7, 3, 1, 0),
        (5, 7, 16, 1, 0),
        pytest.param(20, 20, 3, 1, 0, marks=pytest.mark.slow),
        (5, 7, 3, 2, 0),
        (5, 7, 1, 1, 1),
        (5, 7, 16, 1, 1),
        (5, 7, 3, 2, 1),
    ],
)
def test_draws_are_those_of_the_naive_sampler(height: int, width: int, n: int, depth: int, stage: int) -> None:
    prior = make_prior(height, width, depth=depth, coarse=stage > 0)
    condition = {
        "level": torch.arange(n) % (TINY.levels + 1),
        "grade": torch.arange(n) % (len(TINY.grades) + 1),
        "picture": make_picture(prior, n),
    }
    drawn = sample(prior, n, seed=5, temperature=0.8, stage=stage, **condition)
    assert torch.equal(drawn, naive(prior, n, seed=5, temperature=0.8, stage=stage, **condition))
    assert len(drawn.unique()) > 3


def test_a_finer_stage_has_numbers_of_its_own_and_the_appearance_of_the_coarse_one(
    prior: PixelCNN, fine: PixelCNN
) -> None:
    for made in (prior, fine):
        picture = make_picture(made, 8)
        first, second = (sample(made, 8, seed=3, stage=stage, picture=picture) for stage in (0, 1))
        assert (first != second).flatten(1).any(1).all()
        appearances = [int(np.random.default_rng((3, draw, 2)).random() * TINY.prior_ranks) for draw in range(8)]
        assert len(set(appearances)) > 1
        assert torch.equal(second, sample(made, 8, seed=3, stage=1, picture=picture, appearance=appearances))
        mask = torch.ones(5, 7, dtype=torch.bool)
        fills = [refill(made, first, mask, seed=3, picture=picture, stage=stage) for stage in (0, 1)]
        assert (fills[0] != fills[1]).flatten(1).any(1).all()


def test_a_draw_follows_its_own_picture(fine: PixelCNN) -> None:
    picture = make_picture(fine, 3)
    assert picture is not None
    drawn = sample(fine, 3, seed=2, picture=picture, appearance=3)
    alone = [sample(fine, 1, seed=2, first=i, picture=picture[i, None], appearance=3) for i in range(3)]
    assert torch.equal(drawn, torch.cat(alone))
    assert not torch.equal(drawn[1:], sample(fine, 2, seed=2, first=1, picture=picture[:2], appearance=3))


@pytest.mark.parametrize("kept", ["scattered", "upper half", "lower half", "all but one", "all", "none"])
def test_given_codes_are_kept_and_seen(prior: PixelCNN, kept: str) -> None:
    mask = {
        "scattered": torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) < 0.5,
        "upper half": torch.arange(5)[:, None].expand(5, 7) > 2,
        "lower half": torch.arange(5)[:, None].expand(5, 7) < 2,
        "all but one": torch.arange(35).view(5, 7) == 17,
        "all": torch.zeros(5, 7, dtype=torch.bool),
        "none": torch.ones(5, 7, dtype=torch.bool),
    }[kept]
    given = torch.randint(11, (3, 5, 7), generator=torch.Generator().manual_seed(2))
    drawn = sample(prior, 3, seed=1, given=given, mask=mask)
    assert torch.equal(drawn[:, ~mask], given[:, ~mask])
    assert torch.equal(drawn, naive(prior, 3, seed=1, given=given, mask=mask))


@pytest.mark.parametrize(
    ("n", "temperature", "top_k", "region", "stage"),
    [
        (1, 1.0, None, None, 0),
        (64, 1.0, None, None, 0),
        (3, 0.7, 4, None, 0),
        pytest.param(256, 0.05, None, None, 0, marks=pytest.mark.slow),
        (1, 1.3, 1, None, 0),
        (5, 1.0, None, slice(2, 4), 0),
        (16, 1.0, None, None, 1),
        (5, 0.7, 4, slice(2, 4), 1),
    ],
)
def test_rounding_changes_no_draw(
    prior: PixelCNN,
    fine: PixelCNN,
    monkeypatch: pytest.MonkeyPatch,
    n: int,
    temperature: float,
    top_k: int | None,
    region: slice | None,
    stage: int,
) -> None:
    """Rounding a thousand times coarser, and different at every step, still gives the draws of exact arithmetic."""
    prior = fine if stage else prior
    monkeypatch.setattr(sampling, "ROUNDING", 0.002)
    rounded, calls = Sampler.logits, []

    def noisy(sampler: Sampler) -> Tensor:
        logits = rounded(sampler)
        calls.append(logits)
        # On one side of a border of the likeliest code up, on the other down: that moves the border the most.
        beside = torch.randint(2, (len(logits), 1), generator=torch.Generator().manual_seed(len(calls)))
        noise = (torch.arange(logits.shape[1]) < logits.argmax(1, keepdim=True) + beside).float() - 0.5
        return logits + 0.95 * 0.002 * logits.std(1, keepdim=True) * noise

    monkeypatch.setattr(Sampler, "logits", noisy)
    asked, exactly = [], sampling._Picker._pick_exactly
    monkeypatch.setattr(sampling._Picker, "_pick_exactly", lambda *where: asked.append(where) or exactly(*where))
    mask = torch.ones(5, 7, dtype=torch.bool)
    if region:
        mask[:] = False
        mask[region, 1:6] = True
    given = torch.randint(11, (n, 5, 7), generator=torch.Generator().manual_seed(2))
    settings = {"seed": 8, "temperature": temperature, "top_k": top_k, "given": given, "mask": mask}
    settings |= {"picture": make_picture(prior, n), "stage": stage}
    expected = naive(prior, n, **settings)
    assert torch.equal(sample(prior, n, **settings), expected)
    assert len(calls) == mask.sum()
    assert n < 16 or asked


def test_conditions_in_double_precision_are_made_once_and_go_with_the_draws(
    fine: PixelCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are large: context maps of pictures."""
    monkeypatch.setattr(sampling, "ROUNDING", 0.002)
    made: list[weakref.ref[PixelCNN]] = []
    in_double = sampling.in_double

    def keep(prior: PixelCNN) -> PixelCNN:
        exact = in_double(prior)
        made.append(weakref.ref(exact))
        return exact

    monkeypatch.setattr(sampling, "in_double", keep)
    asked_of, condition = [], PixelCNN.condition
    monkeypatch.setattr(PixelCNN, "condition", lambda *args: asked_of.append(args[0]) or condition(*args))
    sample(fine, 16, seed=8, picture=make_picture(fine, 16))
    asked = sum(prior is made[0]() for prior in asked_of)
    assert 1 < asked <= 16, "more often than once a draw, however many of its codes are in doubt"
    asked_of.clear()
    gc.collect()
    assert made[0]() is None


def test_a_prior_in_double_precision_that_is_at_hand_is_not_made_again(
    prior: PixelCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "ROUNDING", 0.002)
    exact, asked = sampling.in_double(prior), []
    logits = exact.logits
    monkeypatch.setattr(exact, "logits", lambda *args, **kwargs: asked.append(True) or logits(*args, **kwargs))
    monkeypatch.setattr(sampling, "in_double", lambda _: pytest.fail("made again"))
    assert torch.equal(sample(prior, 16, seed=8, exact=exact), naive(prior, 16, seed=8))
    assert asked


@torch.inference_mode()
def test_rounding_is_as_small_as_it_is_taken_for() -> None:
    prior = make_prior(5, 7, strength=0.3)
    indices = torch.randint(11, (16, 5, 7), generator=torch.Generator().manual_seed(0))
    unknown = torch.full((16,), TINY.levels), torch.full((16,), len(TINY.grades))
    exact = copy.deepcopy(prior).double()(indices, *unknown)
    expected = exact.softmax(1).cumsum(1)
    reach = sampling.ROUNDING * exact.std(1, keepdim=True) * expected * (1 - expected)
    for n in (1, 2, 16):
        sampler = Sampler(prior, indices[:n], *(x[:n] for x in unknown))
        for _, row, column in sampler.walk(0, 35):
            moved = sampler.logits().double().softmax(1).cumsum(1) - expected[:n, :, row, column]
            assert (moved.abs() <= reach[:n, :, row, column] + 1e-7).all()


@torch.inference_mode()
@pytest.mark.parametrize("heads", [2, 0])
def test_memory_is_what_is_stated(heads: int) -> None:
    """Floats a draw: (4 L + M) w C and 2 A h w C, and a rest that no grid changes."""
    attentions = 2 if heads else 0
    layers, channels, far = TINY.prior_layers, TINY.prior_channels, 2

    def floats(height: int, width: int) -> int:
        prior = make_prior(height, width, heads=heads)

        def of(n: int) -> int:
            indices = torch.zeros(n, height, width, dtype=torch.long)
            sampler = Sampler(prior, indices, torch.zeros(n).long(), torch.zeros(n).long())
            held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(sampler)}
            return sum(held.values()) // 4 - 2 * indices.numel()

        return of(2) - of(1)

    def tensors(value: object) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                yield from tensors(item)
        elif not isinstance(value, nn.Module) and hasattr(value, "__dict__"):
            yield from tensors(vars(value))

    rests = {
        floats(h, w) - (4 * layers + far) * w * channels - 2 * attentions * h * w * channels
        for h, w in ((5, 7), (5, 28), (20, 7), (20, 20))
    }
    assert len(rests) == 1
    assert rests.pop() < 20 * layers * channels


def test_a_draw_depends_on_seed_and_number_alone(prior: PixelCNN) -> None:
    together = sample(prior, 16, seed=3)
    apart = [sample(prior, n, seed=3, first=first) for first, n in ((0, 1), (1, 4), (5, 11))]
    assert torch.equal(together, torch.cat(apart))
    assert len(together.unique(dim=0)) == 16
    assert not torch.equal(together, sample(prior, 16, seed=4))


def test_the_likeliest_code_by_top_k_or_low_temperature(prior: PixelCNN) -> None:
    drawn = sample(prior, 2, top_k=1, appearance=3)
    condition = torch.full((2,), TINY.levels), torch.full((2,), len(TINY.grades)), torch.full((2,), 3)
    logits = prior(drawn, *condition, appearance_scale=sampling.APPEARANCE_SCALE)
    assert torch.equal(drawn, logits.argmax(1))
    assert torch.equal(drawn, sample(prior, 2, seed=9, temperature=1e-4, appearance=3))


@torch.inference_mode()
def test_draws_are_of_every_brightness_and_never_mirrored(prior: PixelCNN) -> None:
    drawn = sample(prior, 64, seed=7)
    grids = [sample(prior, 64, seed=7, appearance=i) for i in range(2 * TINY.prior_ranks + 1)]
    same = torch.stack([(one == drawn).flatten(1).all(1) for one in grids])  # (appearances, draws)
    assert same.sum(0).eq(1).all()  # the random prior draws something else for each appearance
    of_rank = same.sum(1)
    assert of_rank[: TINY.prior_ranks].min() > 0
    assert of_rank[TINY.prior_ranks :].sum() == 0


@torch.inference_mode()
def test_a_prior_without_ranks_draws_and_takes_no_appearance() -> None:
    torch.manual_seed(0)
    prior = PixelCNN(replace(TINY, prior_ranks=0)).eval()
    assert not any("look" in name for name in prior.state_dict())
    assert len(sample(prior, 2)) == 2
    with pytest.raises(OasisVQError, match="no brightness ranks"):
        sample(prior, 2, appearance=3)


@pytest.mark.slow
def test_brightness_of_samples_varies_as_that_of_training_slices() -> None:
    """What `APPEARANCE_SCALE` is for."""
    model = OasisVQ.from_pretrained("base")
    drawn = model.sample(256, seed=0, level=[i % 32 for i in range(256)]).slices
    within = brightness(drawn).view(8, 32).var(0).mean()
    # Standard deviation of `brightness` among base's 140 training slices of a level, over all levels.
    assert float(within) == pytest.approx(0.0467**2, rel=0.15)


def test_temperature_and_top_k_shape_the_distribution(prior: PixelCNN) -> None:
    entropy: dict[str, list[Tensor]] = {"hot": [], "three": []}
    sample(prior, 4, temperature=1e6, on_step=lambda _i, _codes, bits: entropy["hot"].append(bits))
    sample(prior, 4, temperature=1e6, top_k=3, on_step=lambda _i, _codes, bits: entropy["three"].append(bits))
    torch.testing.assert_close(torch.stack(entropy["hot"]), torch.full((35, 4), math.log2(11), dtype=torch.double))
    torch.testing.assert_close(torch.stack(entropy["three"]), torch.full((35, 4), math.log2(3), dtype=torch.double))


def test_each_step_is_shown_with_its_entropy(prior: PixelCNN) -> None:
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    given = torch.full((5, 7), 4)
    steps: list[tuple[int, Tensor, Tensor]] = []
    drawn = sample(prior, 2, given=given, mask=mask, on_step=lambda i, c, bits: steps.append((i, c.clone(), bits)))
    assert [i for i, _, _ in steps] == mask.flatten().nonzero().flatten().tolist()
    probabilities = prior(drawn, torch.full((2,), TINY.levels), torch.full((2,), len(TINY.grades))).double().softmax(1)
    entropy = -(probabilities * probabilities.log2()).sum(1).flatten(1)
    for i, codes, bits in steps:
        assert torch.equal(codes.flatten(1)[:, : i + 1], drawn.flatten(1)[:, : i + 1])
        torch.testing.assert_close(bits, entropy[:, i], rtol=1e-4, atol=1e-4)


def test_a_step_can_end_the_draw(prior: PixelCNN) -> None:
    class EnoughError(Exception):
        pass

    seen = []

    def stop(position: int, indices: Tensor, entropy_bits: Tensor) -> None:
        seen.append(position)
        if position == 9:
            raise EnoughError

    with pytest.raises(EnoughError):
        sample(prior, 1, on_step=stop)
    assert seen == list(range(10))


@pytest.mark.parametrize("coarse", [False, True])
def test_surprise_is_the_cross_entropy_in_bits(prior: PixelCNN, fine: PixelCNN, coarse: bool) -> None:
    prior = fine if coarse else prior
    indices, picture = torch.randint(11, (3, 5, 7)), make_picture(prior, 3)
    level, grade = torch.tensor([0, 3, TINY.levels]), torch.tensor([2, 2, 2])
    probabilities = sampling.in_double(prior)(indices, level, grade, picture=picture).softmax(1)
    expected = -probabilities.gather(1, indices[:, None])[:, 0].log2()
    torch.testing.assert_close(surprise(prior, indices, level, 2, picture).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("coarse", [False, True])
def test_surprise_is_the_same_however_many_grids_are_held_at_a_time(
    prior: PixelCNN, fine: PixelCNN, monkeypatch: pytest.MonkeyPatch, coarse: bool
) -> None:
    prior = fine if coarse else prior
    indices, level, picture = torch.randint(11, (7, 5, 7)), torch.arange(7), make_picture(prior, 7)
    together = surprise(prior, indices, level, picture=picture)
    monkeypatch.setattr(sampling, "LOGITS", 2 * 11 * 35 + 1)
    shapes: list[int] = []
    handle = prior.register_forward_hook(lambda _m, inputs, _o: shapes.append(len(inputs[0])))
    torch.testing.assert_close(surprise(prior, indices, level, picture=picture), together, rtol=1e-4, atol=1e-4)
    handle.remove()
    assert shapes == [2, 2, 2, 1]


def total_variation(drawn: Tensor, expected: Tensor, codes: int) -> float:
    """Between drawn (n, m) codes and expected (codes ** m,) probabilities."""
    powers = codes ** torch.arange(drawn.shape[1] - 1, -1, -1)
    shares = torch.bincount((drawn * powers).sum(1), minlength=len(expected)) / len(drawn)
    return 0.5 * float((shares - expected).abs().sum())


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "strength", "coarse"), [(1, 0.45, False), (2, 0.35, False), (1, 0.55, True)])
def test_refill_follows_the_distribution_given_all_the_rest(depth: int, strength: float, coarse: bool) -> None:
    codes, n = 3, 3000
    prior = make_prior(3, 4 // depth, codes, strength, depth=depth, coarse=coarse)
    picture = make_picture(prior, 1)

    def pictures(count: int) -> dict[str, Tensor | None]:
        return {"picture": None if picture is None else picture.expand(count, -1, -1, -1)}

    grid = torch.randint(codes, (3, 4), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[0, 2] = mask[1, 1] = mask[1, 2] = mask[2, 0] = True
    fills = torch.tensor(list(itertools.product(range(codes), repeat=4)))
    every = grid.repeat(len(fills), 1, 1)
    every[:, mask] = fills
    expected = torch.softmax(-surprise(prior, every, **pictures(len(every))).sum((1, 2)) * math.log(2), 0)

    grids = grid.repeat(n, 1, 1)
    plain = refill(prior, grids, mask, proposals=1, **pictures(n))
    filtered = refill(prior, grids, mask, proposals=32, **pictures(n))
    exact = fills[torch.multinomial(expected, n, replacement=True, generator=torch.Generator().manual_seed(0))]
    assert total_variation(exact, expected, codes) < 0.05  # what chance alone leaves
    assert total_variation(plain[:, mask], expected, codes) > 0.2  # raster order alone gets it wrong
    assert total_variation(filtered[:, mask], expected, codes) < 0.07


def test_proposals_are_resampled_where_fewer_than_half_of_them_carry_the_weight() -> None:
    carriers = torch.tensor([16, 9, 7, 1])  # of 16 proposals: their effective number
    carry = torch.arange(16) < carriers[:, None]
    weights = torch.zeros(4, 16, dtype=torch.double).masked_fill(~carry, -40.0)
    uniforms = torch.rand(4, 16, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    after, survivors = sampling._resample(weights, uniforms)
    # While half of them carry it, all go on as they are: resampling would lose variety for nothing.
    assert torch.equal(after[:2], weights[:2])
    assert torch.equal(survivors[:2], torch.arange(16).expand(2, 16))
    # Then only those that carry weight go on, from now on with equal weights.
    assert (after[2:] == 0).all()
    assert carry[2:].gather(1, survivors[2:]).all()
    assert len(survivors[2].unique()) > 3


def test_the_likelier_a_proposal_the_more_often_it_goes_on() -> None:
    shares = torch.tensor([0.7, 0.2, 0.1, 0.0])
    weights = (shares.double().log() - 3.0).expand(2000, 4)
    uniforms = torch.rand(2000, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    _, survivors = sampling._resample(weights, uniforms)
    torch.testing.assert_close(torch.bincount(survivors.flatten(), minlength=4) / 8000, shares, rtol=0, atol=0.02)


@pytest.mark.parametrize("coarse", [False, True])
def test_refill_keeps_the_rest_and_suits_it(prior: PixelCNN, fine: PixelCNN, coarse: bool) -> None:
    prior = fine if coarse else prior
    picture = make_picture(prior, 6)
    indices = sample(prior, 6, seed=2, picture=picture)
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[1:4, 2:5] = True
    condition = {"seed": 1, "level": 3, "picture": picture}
    filled = refill(prior, indices, mask, **condition)
    assert torch.equal(filled[:, ~mask], indices[:, ~mask])
    assert not torch.equal(filled, indices)
    apart = []
    for i in (0, 2, 4):
        own = condition | {"picture": None if picture is None else picture[i : i + 2]}
        apart.append(refill(prior, indices[i : i + 2], mask, first=i, **own))
    assert torch.equal(filled, torch.cat(apart))
    raster = refill(prior, indices, mask, proposals=1, **condition)
    unlikely = [surprise(prior, grids, 3, picture=picture)[:, ~mask].sum() for grids in (filled, raster)]
    assert unlikely[0] < unlikely[1]
    assert torch.equal(refill(prior, indices, torch.zeros_like(mask), picture=picture), indices)


@pytest.mark.parametrize("coarse", [False, True])
def test_refill_of_everything_is_a_draw(prior: PixelCNN, fine: PixelCNN, coarse: bool) -> None:
    prior = fine if coarse else prior
    condition = {"top_k": 1, "picture": make_picture(prior, 2)}
    filled = refill(prior, torch.zeros(2, 5, 7, dtype=torch.long), torch.ones(5, 7, dtype=torch.bool), **condition)
    assert torch.equal(filled, sample(prior, 2, appearance=2 * TINY.prior_ranks, **condition))


def test_a_picture_that_is_missing_or_not_asked_for_is_named(prior: PixelCNN, fine: PixelCNN) -> None:
    indices, mask = torch.zeros(1, 5, 7, dtype=torch.long), torch.ones(5, 7, dtype=torch.bool)
    picture = make_picture(fine, 1)
    for made, wrong, message in ((fine, None, "needs a picture"), (prior, picture, "takes 0 pictures")):
        with pytest.raises(OasisVQError, match=message):
            sample(made, 1, picture=wrong)
        with pytest.raises(OasisVQError, match=message):
            refill(made, indices, mask, picture=wrong)
        with pytest.raises(OasisVQError, match=message):
            surprise(made, indices, picture=wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, "at least 1"),
        ({"temperature": 0.0}, "top_k=1"),
        ({"temperature": 1e-40}, "top_k=1"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 12}, "from 1 to 11"),
        ({"seed": -1}, "negative"),
        ({"level": 33}, "level"),
        ({"grade": torch.zeros(3)}, "grade"),
        ({"given": torch.zeros(5, 7, dtype=torch.long)}, "mask"),
        ({"given": torch.zeros(7, 5, dtype=torch.long), "mask": torch.ones(5, 7, dtype=torch.bool)}, r"\(5, 7\)"),
        ({"given": torch.zeros(3, 5, 7, dtype=torch.long), "mask": torch.ones(5, 7, dtype=torch.bool)}, "3 grids"),
        ({"given": torch.full((5, 7), 11), "mask": torch.ones(5, 7, dtype=torch.bool)}, "from 0 to 10"),
    ],
)
def test_wrong_settings_say_what_is_right(prior: PixelCNN, wrong: dict, message: str) -> None:
    with pytest.raises(OasisVQError, match=message):
        sample(prior, **({"n": 2} | wrong))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "sides", "grids"),
    [
        (TINY_PRESET, ["4", "8"], ["4x4", "8x8"]),
        (replace(TINY_PRESET, depth=2), ["4", "8"], ["4x8", "8x16"]),
        (CASCADE, [], ["6x6", "4x4 + 6x6"]),
    ],
    ids=["a code a cell", "two codes a cell", "cascade"],
)
def test_the_benchmark_times_the_trained_prior_and_other_grids(
    preset: Preset, sides: list[str], grids: list[str], tmp_path: Path
) -> None:
    folder = write_weights(tmp_path / "weights", preset=preset)
    benchmark = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "speed" / "sampler.py"))
    timed, measure = [], benchmark["measure"]
    benchmark["main"].__globals__["measure"] = lambda prior, *args: timed.append(prior) or measure(prior, *args)
    threads = str(torch.get_num_threads())  # which the benchmark sets for the whole process
    command = ["--weights", str(folder), "--batch", "2", "--threads", threads, "--repeats", "1"]
    command += ["--grid", *sides] if sides else []
    benchmark["main"]([*command, "--json", str(tmp_path / "rows.json"), "--figure", str(tmp_path / "figure.svg")])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["grid"] for row in rows] == grids
    assert (tmp_path / "figure.svg").read_text().startswith("<svg")
    trained, *others = (prior.embedding.weight for prior in timed)
    assert torch.equal(trained, trained.half().float())  # as weights are stored: not a network made for the occasion
    assert not any(torch.equal(weight, weight.half().float()) for weight in others)


def test_where_rounding_could_let_another_code_into_the_top_k_exact_logits_decide(prior: PixelCNN) -> None:
    exact = torch.zeros(1, 11, dtype=torch.float64)
    exact[0, :3] = torch.tensor([4.0, 3.0 + 1e-6, 3.0])
    rounded = exact.float()
    rounded[0, 1], rounded[0, 2] = 3.0, 3.0 + 1e-6

    class Exact:
        asked = 0

        def condition(self, *_: object) -> tuple[None, None]:
            return None, None

        def logits(self, *_: object, last_row: bool) -> Tensor:
            self.asked += 1
            return exact[:, :, None, None].expand(-1, -1, 1, 7)

    def pick(logits: Tensor, top_k: int) -> tuple[int, int]:
        known, model = torch.zeros(1, dtype=torch.long), Exact()
        grid, uniforms = torch.zeros(1, 5, 7, dtype=torch.long), torch.full((35, 1, 1), 0.9, dtype=torch.float64)
        picker = sampling._Picker(prior, grid, known, known, None, None, uniforms, 1.0, top_k, model)
        return int(picker.pick(0, logits)[0]), model.asked

    assert pick(rounded, top_k=2) == (1, 1)
    rounded[0, 2] = 2.9  # far enough from the last that is let in
    assert pick(rounded, top_k=2) == (1, 0)


def test_exchanging_proposals_row_by_row_suits_a_tall_region_better_than_choosing_at_the_end() -> None:
    """Against importance resampling of as many independent fills: of four, none suits all rows."""
    n, proposals, height = 30, 4, 24
    prior = make_prior(height, 2, 8, heads=0)
    mask = torch.ones(height, 2, dtype=torch.bool)
    grids = refill(prior, torch.zeros(n, height, 2, dtype=torch.long), mask, proposals=1)  # draws
    mask[:, 1] = False

    def bits(filled: Tensor) -> Tensor:
        return surprise(prior, filled)[:, ~mask].sum(1)

    filtered = bits(refill(prior, grids, mask, proposals=proposals))
    alone = bits(refill(prior, grids.repeat_interleave(proposals, 0), mask, proposals=1)).view(n, proposals)
    chosen = torch.multinomial((-alone * math.log(2)).softmax(1), 1, generator=torch.Generator().manual_seed(0))
    gain = alone.gather(1, chosen)[:, 0] - filtered
    assert gain.mean() > 3 * gain.std() / math.sqrt(n)


@pytest.mark.parametrize("of_draws", [sampling.draw_levels, sampling.draw_ranks])
def test_random_conditions_are_even_and_those_of_seed_and_number(of_draws: Callable[..., Tensor]) -> None:
    drawn = of_draws(5, 4000, 3)
    assert drawn.dtype == torch.int64
    counts = drawn.bincount(minlength=5)
    assert len(counts) == 5
    assert counts.min() > 700
    assert torch.equal(of_draws(5, 10, 3, 20), drawn[20:30])
    assert not torch.equal(of_draws(5, 100, 4), drawn[:100])
