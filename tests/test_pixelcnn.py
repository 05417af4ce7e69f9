"""Causality of the prior, by gradient at every position, and its conditions."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from oasisvq.data.examples import examples
from oasisvq.data.slices import to_model
from oasisvq.hub import sources
from oasisvq.hub.manifest import MODELS, read_manifest, read_records
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import PRESETS, Preset
from oasisvq.models.vqvae import VQVAE

TINY = replace(PRESETS["smoke"], size=24, codebook_size=11, prior_channels=8, prior_layers=6, prior_heads=2)
DEEP = replace(TINY, size=16, depth=3)
FINE = replace(TINY, coarse=TINY)


def make(preset: Preset) -> PixelCNN:
    torch.manual_seed(0)
    model = PixelCNN(preset).double().eval()
    for parameter in model.parameters():  # no zero weight may hide a path
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def prior() -> PixelCNN:
    return make(TINY)


@pytest.fixture(scope="module")
def deep() -> PixelCNN:
    return make(DEEP)


@pytest.fixture(scope="module")
def fine() -> PixelCNN:
    return make(FINE)


def influence(prior: PixelCNN, position: int, picture: torch.Tensor | None = None) -> torch.Tensor:
    """(h * w,): how much the logits at one position depend on the embedding of the code at each."""
    height, width = prior.grid
    indices = torch.arange(height * width).view(1, height, width) % TINY.codebook_size
    seen: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    embeddings = [prior.embedding] + ([] if prior.within is None else [prior.within])
    handles = [module.register_forward_hook(keep) for module in embeddings]
    logits = prior(indices, torch.tensor([3]), torch.tensor([1]), picture=picture)
    for handle in handles:
        handle.remove()
    logits.flatten(2)[0, :, position].square().sum().backward()
    cells, *within = [0 if x.grad is None else x.grad[0].abs().sum(-1) for x in seen]
    total = cells.clone()  # (h, w, L)
    for i, earlier in enumerate(within):
        total[:, :, i] += earlier
    return total.flatten()


@pytest.mark.parametrize("position", range(TINY.codes))
def test_each_position_sees_all_before_it_and_nothing_else(prior: PixelCNN, position: int) -> None:
    seen = influence(prior, position)
    assert (seen[position:] == 0).all(), "looks at itself or ahead"
    assert (seen[:position] > 0).all(), "blind spot"


@pytest.mark.parametrize("position", range(DEEP.codes))
def test_with_several_codes_a_cell_each_sees_those_before_it_in_its_cell_too(deep: PixelCNN, position: int) -> None:
    seen = influence(deep, position)
    assert (seen[position:] == 0).all(), "looks at itself or ahead"
    assert (seen[:position] > 0).all(), "blind spot"


@pytest.mark.parametrize("position", range(FINE.codes - TINY.codes))
def test_each_position_sees_the_whole_picture_and_no_code_more_for_it(fine: PixelCNN, position: int) -> None:
    picture = (torch.rand(1, 1, FINE.size, FINE.size, dtype=torch.float64) - 0.5).requires_grad_()
    seen = influence(fine, position, picture)
    assert (seen[position:] == 0).all(), "looks at itself or ahead"
    assert (seen[:position] > 0).all(), "blind spot"
    assert picture.grad is not None
    assert (picture.grad != 0).all(), "does not see all of the picture, what lies below and to the right too"


@pytest.mark.parametrize(
    "preset", [TINY, DEEP, replace(TINY, prior_heads=0), FINE, replace(FINE, size=48, prior_heads=0)]
)
def test_the_last_row_alone_is_the_last_row(preset: Preset) -> None:
    prior = make(preset)
    indices = torch.randint(preset.codebook_size, (2, *preset.grid), generator=torch.Generator().manual_seed(0))
    picture = torch.rand(2, 1, preset.size, preset.size).double() - 0.5 if preset.coarse else None
    condition = torch.tensor([3, 1]), torch.tensor([1, 2]), torch.tensor([5, 0]), picture
    whole = prior(indices, *condition)
    for rows in range(1, preset.side + 1):
        alone = prior.logits(indices[:, :rows], *prior.condition(*condition), last_row=True)
        torch.testing.assert_close(alone, whole[:, :, rows - 1 : rows], rtol=1e-12, atol=1e-12)


def test_level_and_grade_matter_and_unknown_is_allowed(prior: PixelCNN) -> None:
    indices = torch.zeros(4, *TINY.grid, dtype=torch.int64)
    level = torch.tensor([0, 5, TINY.levels, 0])
    grade = torch.tensor([0, 0, 0, len(TINY.grades)])
    logits = prior(indices, level, grade)
    assert logits.shape == (4, TINY.codebook_size, *TINY.grid)
    for other in (1, 2, 3):
        assert not torch.allclose(logits[0], logits[other])


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.3])
def test_the_scale_moves_appearance_away_from_unknown_in_training_as_in_eval_mode(
    prior: PixelCNN, scale: float
) -> None:
    prior = copy.deepcopy(prior)
    assert prior.look is not None
    zero, appearance = torch.zeros(17, dtype=torch.long), torch.arange(17)  # 8 ranks, 8 mirrored ranks, unknown
    (plain, _), (unknown, _) = prior.condition(zero, zero, appearance), prior.condition(zero, zero)
    (scaled, _), (again, _) = (
        model.condition(zero, zero, appearance, appearance_scale=scale) for model in (prior.eval(), prior.train())
    )
    assert torch.equal(scaled, again)
    torch.testing.assert_close(scaled[-1], unknown[-1])
    torch.testing.assert_close(unknown, F.silu(prior.level(zero) + prior.grade(zero) + prior.look(zero + 16)))
    assert not torch.allclose(scaled, plain)
    table = prior.look.weight
    table.copy_(table[-1] + scale * (table - table[-1]))
    torch.testing.assert_close(prior.condition(zero, zero, appearance)[0], scaled)


@torch.inference_mode()
def test_weights_that_ship_still_expect_what_they_expected() -> None:
    """Of another man than those of the record, so some bits are allowed for."""
    folder = sources.BUNDLED / "base"
    manifest = read_manifest(folder)
    preset = Preset.from_dict(manifest["preset"])
    models = VQVAE(preset).eval(), PixelCNN(preset).eval()
    for model, file in zip(models, MODELS, strict=True):
        model.load_state_dict({key: x.float() for key, x in load_file(folder / file).items()})
    slices = torch.from_numpy(to_model(examples()["Colin 27, level 12"][None], preset.size))[:, None]
    indices = models[0].encode(slices)
    logits = models[1](indices, torch.tensor([12]), torch.tensor([len(preset.grades)]))
    bits = float(F.cross_entropy(logits, indices)) / math.log(2)
    assert bits < 1.3 * read_records(folder, manifest)["results"]["nll_bits_per_code"]


def test_size_and_grid_are_those_of_the_preset(deep: PixelCNN) -> None:
    tall = PixelCNN(replace(DEEP, size=32))
    assert (deep.grid, deep.size) == ((4, 12), (16, 16))
    assert (tall.grid, tall.size) == ((8, 24), (32, 32))


def test_before_training_grade_and_appearance_make_no_difference_and_places_hardly_any() -> None:
    torch.manual_seed(0)
    prior = PixelCNN(replace(TINY, size=80))
    assert not prior.grade.weight.any()
    assert prior.look is not None
    assert not prior.look.weight.any()
    for position in (prior.position_v, prior.position_h):
        assert float(position.detach().std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(("layers", "ends"), [(3, ["0", "1"]), (6, ["1", "3"]), (15, ["4", "9"]), (8, ["1", "4"])])
def test_attention_and_mirror_follow_the_first_and_the_second_third(layers: int, ends: list[str]) -> None:
    prior = PixelCNN(replace(TINY, prior_layers=layers))
    assert list(prior.attention) == list(prior.mirror) == ends
