"""Causality of the prior, by gradient at every position, and what it is told."""

import copy
from dataclasses import replace

import pytest
import torch

from oasisvq.pixelcnn import LEAN, PixelCNN
from oasisvq.presets import PRESETS

TINY = replace(PRESETS["smoke"], size=24, codebook_size=11, prior_channels=8, prior_layers=6, prior_heads=2)


@pytest.fixture(scope="module")
def prior() -> PixelCNN:
    torch.manual_seed(0)
    model = PixelCNN(TINY).double().eval()
    for parameter in model.parameters():  # no zero weight may hide a path
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def influence(prior: PixelCNN, row: int, column: int) -> torch.Tensor:
    """(h, w): how much the logits at one position depend on the embedding of every position."""
    side = TINY.grid
    indices = torch.arange(side * side).view(1, side, side) % TINY.codebook_size
    seen: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = prior.embedding.register_forward_hook(keep)
    logits = prior(indices, torch.tensor([3]), torch.tensor([1]))
    handle.remove()
    logits[0, :, row, column].square().sum().backward()
    assert seen[0].grad is not None
    return seen[0].grad[0].abs().sum(-1)


@pytest.mark.parametrize("position", range(TINY.grid**2))
def test_each_position_sees_all_before_it_and_nothing_else(prior: PixelCNN, position: int) -> None:
    seen = influence(prior, *divmod(position, TINY.grid)).flatten()
    assert (seen[position:] == 0).all(), "looks at itself or ahead"
    assert (seen[:position] > 0).all(), "blind spot"


def test_level_and_grade_matter_and_unknown_is_allowed(prior: PixelCNN) -> None:
    indices = torch.zeros(4, TINY.grid, TINY.grid, dtype=torch.int64)
    level = torch.tensor([0, 5, TINY.levels, 0])
    grade = torch.tensor([0, 0, 0, len(TINY.grades)])
    logits = prior(indices, level, grade)
    assert logits.shape == (4, TINY.codebook_size, TINY.grid, TINY.grid)
    for other in (1, 2, 3):
        assert not torch.allclose(logits[0], logits[other])


@torch.no_grad()
def test_a_finished_prior_is_told_a_look_more_strongly_and_unknown_as_ever(prior: PixelCNN) -> None:
    prior = copy.deepcopy(prior)
    assert prior.look is not None
    torch.nn.init.normal_(prior.look.weight)
    zero, looks = torch.zeros(17, dtype=torch.long), torch.arange(17)  # 8 as they lie, 8 mirrored, unknown
    finished, unknown = prior.eval().condition(zero, zero, looks), prior.condition(zero, zero)
    table = prior.look.weight
    table.copy_(table[-1] + LEAN * (table - table[-1]))
    torch.testing.assert_close(prior.train().condition(zero, zero, looks), finished)
    torch.testing.assert_close(prior.condition(zero, zero), unknown)
    torch.testing.assert_close(finished[-1], unknown[-1])
    assert not torch.allclose(finished[0], finished[8])
