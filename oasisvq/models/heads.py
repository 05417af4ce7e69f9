"""Whole heads: the slices of neighbouring levels, each drawn, or written, given those next to it.

A head begins in the middle and grows both ways, so that what each step gets wrong has half the way to pile up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.sampling import draw_ranks, sample

# How often levels between two given ones are drawn again.
SWEEPS = 2
# Levels that are drawn together where none needs another: changes memory and speed alone.
TOGETHER = 8

# Codes, (B, h, w), and coarse pictures, (B, 1, S, S), if any, to slices, (B, 1, S, S).
Decode = Callable[[Tensor, Tensor | None], Tensor]
OnLevel = Callable[[int, Tensor], None]


def outward(levels: Sequence[int], known: Collection[int] = (), reach: int = 1) -> list[list[int]]:
    """The levels that are not known, in steps; those of a step are no neighbours of one another.

    Args:
        levels: whole numbers in succession.
        known: those of them that are there already. None: the middle comes first, alone.
        reach: how far apart neighbours are at most.

    Returns:
        A list of steps. Each level of a step is next to one of an earlier step or to a known one.
    """
    done, steps = set(known), []
    while missing := [level for level in levels if level not in done]:
        step: list[int] = []
        for level in missing if done else [levels[len(levels) // 2]]:
            if (not step or level - step[-1] > reach) and (not done or {level - 1, level + 1} & done):
                step.append(level)
        steps.append(step)
        done.update(step)
    return steps


def between(levels: Sequence[int], known: Collection[int], reach: int = 1) -> list[list[int]]:
    """The levels that are not known but have known ones on both sides, in steps as of `outward`."""
    inside = [level for level in levels if level not in known and known and min(known) < level < max(known)]
    return [step for turn in range(reach + 1) if (step := [level for level in inside if level % (reach + 1) == turn])]


def steps(prior: PixelCNN, levels: Sequence[int], known: Collection[int] = ()) -> list[list[int]]:
    """The steps in which a prior takes the levels that are not known: `outward`, if it is given neighbours."""
    if prior.near:
        return outward(levels, known, max(prior.near))
    missing = [level for level in levels if level not in known]
    return [missing[i : i + TOGETHER] for i in range(0, len(missing), TOGETHER)]


def neighbours(slices: Tensor, near: Sequence[int]) -> Tensor:
    """What each of the slices of levels in succession is given of the others, an unknown one all 0.

    Args:
        slices: (B, 1, S, S), the lowest level first.
        near: levels, counted from the slice's own.

    Returns:
        (B, len(near), S, S).
    """
    reach = max(near)
    padded = F.pad(slices, (0, 0, 0, 0, 0, 0, reach, reach))
    return torch.cat([padded[reach + offset :][: len(slices)] for offset in near], 1)


class Stack:
    """Slices of n heads, as far as they are known, and what a prior is given of them.

    Args:
        prior: of the stage.
        decode: in double precision, so that nothing depends on what else is decoded.
        coarse: (n, L, 1, S, S), for a prior with a coarse stage.
    """

    def __init__(self, prior: PixelCNN, n: int, levels: int, decode: Decode, coarse: Tensor | None = None) -> None:
        self.prior, self.decode, self.coarse = prior, decode, coarse
        # An unknown slice is an even grey, as no slice is.
        self.slices = torch.zeros(n, levels, 1, *prior.size, dtype=torch.float64)

    def put(self, step: Sequence[int], codes: Tensor) -> None:
        """Show the levels of a step, (n, len(step), h, w) codes, to those that come later."""
        if self.prior.near:
            coarse = None if self.coarse is None else self.coarse[:, step].flatten(0, 1)
            self.slices[:, step] = self.decode(codes.flatten(0, 1), coarse).double().unflatten(0, codes.shape[:2])

    def pictures(self, step: Sequence[int]) -> Tensor:
        """Pictures for the levels of a step, as `PixelCNN.forward` takes them: (n * len(step), P, S, S)."""
        pictures = [] if self.coarse is None else [self.coarse[:, step]]
        if self.prior.near:
            pictures += [self._at([level + offset for level in step]) for offset in self.prior.near]
        return torch.cat(pictures, 2).flatten(0, 1)

    def _at(self, levels: Sequence[int]) -> Tensor:
        inside = torch.tensor([0 <= level < self.slices.shape[1] for level in levels])
        found = self.slices[:, [max(0, min(level, self.slices.shape[1] - 1)) for level in levels]]
        return found * inside[:, None, None, None]


def sample_heads(
    prior: PixelCNN,
    n: int,
    decode: Decode,
    *,
    seed: int = 0,
    first: int = 0,
    given: Mapping[int, Tensor] | None = None,
    coarse: Tensor | None = None,
    grade: int | None = None,
    on_level: OnLevel | None = None,
    **settings: Any,
) -> Tensor:
    """Draws n heads, level by level, each slice given those next to it.

    Levels between two given ones first grow from both sides, and are then drawn again given the slices on either side
    (Gibbs sampling, Geman and Geman 1984, doi:10.1109/TPAMI.1984.4767596): what grew from one side alone need not
    meet what grew from the other.

    Args:
        prior: in eval mode. One that is not given neighbours draws each level by itself.
        n: heads in this batch. Head i has its own streams of random numbers, made from (seed, first + i).
        decode: see `Stack`.
        given: codes of some levels, (h, w) each, of all heads.
        coarse: (n, L, 1, S, S), for a prior with a coarse stage.
        grade: of all heads.
        on_level: called as on_level(level, codes), (n, h, w), after each level. What it raises ends the draw.
        settings: temperature, top_k, stage and exact, as in `oasisvq.models.sampling.sample`.

    Returns:
        (n, L, h, w) int64.
    """
    given = dict(sorted((given or {}).items()))
    levels = range(prior.level.num_embeddings - 1)
    codes = torch.zeros(n, len(levels), *prior.grid, dtype=torch.int64)
    stack = Stack(prior, n, len(levels), decode, coarse)
    if given:
        codes[:, list(given)] = torch.stack(list(given.values()))
        stack.put(list(given), codes[:, list(given)])
    plan = [(step, 0) for step in steps(prior, levels, given)]
    if prior.near:
        plan += [(step, sweep) for sweep in range(1, SWEEPS + 1) for step in between(levels, given, max(prior.near))]
    # The slices of a head are about as bright as one another, for their levels; how bright given ones are, they show.
    rank = draw_ranks(prior.ranks, n, seed, first)
    appearance = torch.full_like(rank, 2 * prior.ranks) if given else rank
    for step, sweep in plan:
        drawn = sample(
            prior,
            n * len(step),
            seed=seed,
            first=[(first + i) * len(levels) + level for i in range(n) for level in step],
            sweep=sweep,
            level=step * n,
            grade=grade,
            appearance=appearance.repeat_interleave(len(step)),
            picture=stack.pictures(step),
            **settings,
        )
        codes[:, step] = drawn.cpu().unflatten(0, (n, len(step)))
        stack.put(step, codes[:, step])
        for level in step:
            if on_level:
                on_level(level, codes[:, level])
    return codes
