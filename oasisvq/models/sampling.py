"""Sampling from the prior one code at a time, each activation computed once.

Naive sampling runs the whole network for every position. Here every layer caches what later positions need
(Ramachandran et al. 2017, arXiv:1704.06001): the vertical stack works a row at a time, from the codes of the rows
above; the horizontal stack a position at a time, from the column before; attention keeps its keys and values. The
logits are those of `PixelCNN.forward` to float32 rounding, at every position.

Rounding differs between batch sizes, numbers of threads and devices, and a uniform number close to the border of two
codes could fall on either side. There, and only there, the prior runs again in double precision, so that a draw depends
on its seed and number alone.

Memory beside the weights, in floats a draw, for h x w cells, C channels, L layers, A attentions and M mirrors:
(4 L + M) w C, 2 A h w C for the keys and values, and some 14 L C that no grid changes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oasisvq.errors import OasisVQError
from oasisvq.models.pixelcnn import CausalAttention, GatedLayer, Mirror, PixelCNN

# How far float32 rounding moves a cumulative probability c, over c (1 - c) and over the standard deviation of the
# logits. On the trained prior it is under 2 millionths wherever more than a few codes are likely.
ROUNDING = 2**-19
# Of logits: larger ones are taken for as large. In the shipped prior they are 3 to 9.
LARGEST_DEVIATION = 32.0
# Of all uniform numbers: below the sum of probabilities, which rounding may leave under 1.
LARGEST = 1 - 2**-40

# Logits over it must stay finite, or no code would be drawn at all.
LEAST_TEMPERATURE = 1e-4

# Logits held at a time when grids are scored: 128 MiB.
LOGITS = 2**25

# Samples follow an appearance less than the training slices that it was learned from: at strength 1 the brightness of
# base's samples has two thirds of the variance of training slices, at 1.3 nearly as much: `benchmark strength`.
APPEARANCE_SCALE = 1.3

M = TypeVar("M", bound=nn.Module)
OnStep = Callable[[int, Tensor, Tensor], None]
Condition = int | Sequence[int] | Tensor | None


def in_double(model: M) -> M:
    """The same model in double precision, on the CPU: not every accelerator has it."""
    return copy.deepcopy(model).cpu().double()


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


class _Layer:
    """A `GatedLayer` for n draws: a row of the vertical stack, a position of the horizontal stack.

    tanh(x) is 2 sigmoid(2x) - 1, so with values doubled beforehand one sigmoid, several times faster than tanh, serves
    value and door, and door - 2 value door is the gate's negative. Factors and sign move into the weights without loss.
    """

    def __init__(self, layer: GatedLayer, condition: Tensor, above: Tensor, beside: Tensor) -> None:
        n, channels = condition.shape
        width = above.shape[2] - 2
        # The stack's input in the row before and in this row, zeros at both ends: (n, C, 2, w + 2), channels last.
        self.above = above.permute(0, 3, 1, 2)
        self.this_row = above[:, 1, 1:-1]  # (n, w, C)
        self.beside = beside  # (n, 2C): the stack's input in the column before and in this column
        self.here = beside[:, channels:]

        vertical = layer.vertical.weight.clone(memory_format=torch.channels_last)
        vertical_bias = _bias(layer.vertical).clone()
        across = layer.across.weight.clone(memory_format=torch.channels_last)
        horizontal = layer.horizontal.weight.permute(3, 2, 1, 0).reshape(2 * channels, 2 * channels)
        bias_v, bias_h = layer.condition(condition).chunk(2, dim=1)
        bias_h = bias_h + _bias(layer.across) + _bias(layer.horizontal)
        across[:, :channels] /= 2
        for values in (vertical, vertical_bias, across, horizontal.T, bias_v.T, bias_h.T):
            values[:channels] *= 2
        self.vertical, self.vertical_bias, self.across, self.horizontal = vertical, vertical_bias, across, horizontal
        self.bias_v, self.bias_h = bias_v[:, None], bias_h[:, None]  # (n, 1, 2C)
        # The last input of `out` is a constant one: its weights are the bias.
        self.out = torch.cat([-layer.out.weight[:, :, 0, 0].T, _bias(layer.out)[None]])

        self.from_above = condition.new_empty(n, width, 2 * channels)  # what this row's columns get from the rows above
        self.from_above_at = self.from_above.unbind(1)
        self.gates = condition.new_empty(n, 2 * channels)
        self.value, self.door = self.gates.chunk(2, dim=1)
        self.gated = condition.new_ones(n, channels + 1)
        self.gated_here = self.gated[:, :channels]

    def row(self, out: Tensor | None) -> None:
        """One row of the vertical stack: (n, w, C) into `out`, the next layer's input. The last layer has none."""
        rows = torch.conv2d(self.above, self.vertical, self.vertical_bias)  # (n, 2C, 1, w)
        torch.add(torch.conv2d(rows, self.across)[:, :, 0].mT, self.bias_h, out=self.from_above)
        if out is not None:
            value, door = (rows[:, :, 0].mT + self.bias_v).sigmoid_().chunk(2, dim=2)
            torch.sub(self.this_row, torch.addcmul(door, value, door, value=-2), out=out)

    def position(self, column: int, out: Tensor) -> None:
        """One position of the horizontal stack: (n, C) into `out`, the next layer's input."""
        torch.addmm(self.from_above_at[column], self.beside, self.horizontal, out=self.gates)
        self.gates.sigmoid_()
        torch.addcmul(self.door, self.value, self.door, value=-2, out=self.gated_here)
        torch.addmm(self.here, self.gated, self.out, out=out)


class _Attention:
    """A `CausalAttention` for n draws, with a cache of the keys and values of all positions so far."""

    def __init__(self, attention: CausalAttention, n: int, positions: int) -> None:
        channels = attention.norm.normalized_shape[0]
        depth = channels // attention.heads
        self.n, self.heads, self.channels, self.eps = n, attention.heads, (channels,), attention.norm.eps
        # The norm's weight and bias, and the scale of the queries, move into the matrices.
        norm, qkv = attention.norm.weight, attention.qkv.weight
        scale = norm.new_tensor([depth**-0.5, 1, 1])[:, None, None]
        bias = attention.qkv.bias + qkv @ attention.norm.bias
        self.qkv = ((qkv * norm).view(3, channels, channels).mT * scale).contiguous()
        self.qkv_bias = bias.view(3, 1, channels) * scale
        self.out, self.out_bias = attention.out.weight.T.contiguous(), attention.out.bias

        self.projected = qkv.new_empty(3, n, channels)
        self.query, self.key, self.value = self.projected.view(3, n * self.heads, depth)
        self.query = self.query[:, None]
        self.keys = qkv.new_empty(n * self.heads, depth, positions)
        self.values = qkv.new_empty(n * self.heads, positions, depth)
        self.keys_at, self.values_at = self.keys.unbind(2), self.values.unbind(1)

    def position(self, i: int, h: Tensor) -> None:
        """Adds to h (n, C), position i of the horizontal stack, its attention to positions 0 to i."""
        normal = torch.layer_norm(h, self.channels, eps=self.eps)
        torch.baddbmm(self.qkv_bias, normal.expand(3, -1, -1), self.qkv, out=self.projected)
        self.keys_at[i].copy_(self.key)
        self.values_at[i].copy_(self.value)
        weights = torch.bmm(self.query, self.keys.narrow(2, 0, i + 1)).softmax(2)
        seen = torch.bmm(weights, self.values.narrow(1, 0, i + 1)).view(h.shape)
        h.addmm_(seen, self.out).add_(self.out_bias)

    def fill_cache(self, attention: CausalAttention, h: Tensor, copies: int) -> None:
        """Keys and values of h (n / copies, C, rows, w), the first rows of the horizontal stack."""
        _, keys, values = attention.qkv(attention.norm(h.flatten(2).mT)).chunk(3, dim=2)  # (n / copies, positions, C)
        keys, values = (x.unflatten(2, (self.heads, -1)).repeat_interleave(copies, 0) for x in (keys, values))
        seen = keys.shape[1]
        self.keys[:, :, :seen] = keys.permute(0, 2, 3, 1).flatten(0, 1)
        self.values[:, :seen] = values.transpose(1, 2).flatten(0, 1)

    def select(self, draws: Tensor) -> None:
        """Draw d goes on from the cache of draw draws[d]."""
        for cache in (self.keys, self.values):
            by_draw = cache.view(self.n, -1)
            by_draw.copy_(by_draw[draws])


class _Mirror:
    """A `Mirror` for n draws, with the row so far."""

    def __init__(self, mirror: Mirror, n: int, width: int) -> None:
        self.bias = _bias(mirror.conv)
        channels = len(self.bias)
        self.start = mirror.start(width)
        # The parallel view reads the row backwards.
        self.weight = mirror.conv.weight[:, :, 0].flip(2).permute(2, 1, 0).reshape(3 * channels, channels)
        row = self.bias.new_empty(n, width, channels)
        self.row_at = row.unbind(1)
        self.images = {c: row[:, width - 1 - c : width + 2 - c].flatten(1) for c in range(self.start, width)}  # (n, 3C)

    def position(self, column: int, h: Tensor) -> None:
        """Adds to h (n, C), this column of the horizontal stack, what follows from its mirror image."""
        self.row_at[column].copy_(h)
        if column >= self.start:
            h.addmm_(self.images[column], self.weight).add_(self.bias)


class _Picker:
    """Picks codes by inverting the cumulative distribution at given uniform numbers.

    From float32 logits where no rounding could change the pick; elsewhere from the prior in double precision, on the
    CPU, run for that draw alone.
    """

    def __init__(
        self,
        prior: PixelCNN,
        indices: Tensor,
        level: Tensor,
        grade: Tensor,
        appearance: Tensor | None,
        picture: Tensor | None,
        uniforms: Tensor,
        temperature: float,
        top_k: int | None,
        exact: PixelCNN | None,
    ) -> None:
        if exact is not None:
            self.exact = exact
        self.prior, self.indices, self.uniforms = prior, indices, uniforms
        self.level, self.grade, self.appearance, self.picture = level, grade, appearance, picture
        self.conditions: dict[int, tuple[Tensor, Tensor | None]] = {}  # in double precision, of draws that needed it
        self.temperature = temperature
        self.top_k = None if top_k == prior.codebook_size else top_k
        self.slack = ROUNDING / temperature * uniforms * (1 - uniforms)
        self.ends = self._ends(uniforms, LARGEST_DEVIATION * self.slack).to(indices.device)

    @staticmethod
    def _ends(uniforms: Tensor, reach: Tensor) -> Tensor:
        return torch.cat([uniforms - reach, uniforms + reach], dim=-1).clamp_(max=LARGEST)

    @cached_property
    def exact(self) -> PixelCNN:
        return in_double(self.prior)

    def pick(self, position: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(n, K) logits at a position, the codes before it drawn -> codes (n,) and the probabilities drawn from."""
        probabilities = _probabilities(logits, self.temperature, self.top_k)
        codes, others = _pick(probabilities, self.ends[position]).unbind(1)
        if self.top_k or not torch.equal(codes, others):
            codes = self._pick_with_care(position, logits, probabilities)
        return codes, probabilities

    def _pick_with_care(self, position: int, logits: Tensor, probabilities: Tensor) -> Tensor:
        deviation = logits.std(1, keepdim=True)
        uniforms, slack = (x[position].to(logits.device) for x in (self.uniforms, self.slack))
        codes, others = _pick(probabilities, self._ends(uniforms, slack * deviation)).unbind(1)
        doubtful = codes != others
        if self.top_k:
            last, left_out = logits.topk(self.top_k + 1, dim=1).values[:, -2:].unbind(1)
            doubtful |= last - left_out < 2 * ROUNDING * deviation[:, 0]
        codes = codes.clone()
        for draw in doubtful.nonzero().flatten().tolist():
            codes[draw] = self._pick_exactly(draw, position)
        return codes

    def _pick_exactly(self, draw: int, position: int) -> Tensor:
        row, column = divmod(position, self.indices.shape[2])
        if draw not in self.conditions:
            self.conditions[draw] = self._condition_exactly(draw)
        condition, context = self.conditions[draw]
        codes = self.indices[draw, None, : row + 1].cpu()
        logits = self.exact.logits(codes, condition, context, last_row=True)[:, :, 0, column]
        return _pick(_probabilities(logits, self.temperature, self.top_k), self.uniforms[position, draw, None])[0, 0]

    def _condition_exactly(self, draw: int) -> tuple[Tensor, Tensor | None]:
        def own(values: Tensor) -> Tensor:
            return values[draw, None].cpu()

        appearance = None if self.appearance is None else own(self.appearance)
        picture = None if self.picture is None else own(self.picture).double()
        return self.exact.condition(own(self.level), own(self.grade), appearance, picture, APPEARANCE_SCALE)


class Sampler:
    """The prior, position by position, for n draws at once. Use under `torch.inference_mode`.

    `walk` goes over positions; `logits()` are those of the position reached. The caller writes a position's code to
    `indices` before walking on. Weights are copied: make a new sampler when they change.

    Args:
        prior: on any device, in eval mode.
        indices: (n, h, w * L) int64, read and never written here.
        level, grade, appearance, picture: (n,) int64, and (n, P, S, S), as in `PixelCNN.forward`, the appearance with
            strength `APPEARANCE_SCALE`.
    """

    def __init__(
        self,
        prior: PixelCNN,
        indices: Tensor,
        level: Tensor,
        grade: Tensor,
        appearance: Tensor | None = None,
        picture: Tensor | None = None,
    ) -> None:
        n, height = indices.shape[:2]
        channels, depth = prior.embedding.embedding_dim, len(prior.layers)
        self.prior, self.indices, self.codes = prior, indices, indices.flatten(1).unbind(1)
        self.cell = prior.depth  # codes a cell
        self.width = width = indices.shape[2] // self.cell
        self.embeddings = prior.embedding.weight.split(prior.codebook_size)
        self.within = () if prior.within is None else prior.within.weight.split(prior.codebook_size)
        # (n, C), (n, 2C, h, w)
        self.condition, self.context = prior.condition(level, grade, appearance, picture, APPEARANCE_SCALE)
        # The inputs of the stacks before codes are added: (1, C, h, w), or (n, C, h, w) with a picture.
        start_v: Tensor = prior.position_v
        start_h: Tensor = prior.position_h
        if self.context is not None:
            context_v, context_h = self.context.chunk(2, dim=1)
            start_v, start_h = start_v + context_v, start_h + context_h
        self.start_v = start_v.permute(2, 0, 3, 1).contiguous().unbind(0)  # (n or 1, w, C) of each row
        self.start_h = start_h.permute(2, 3, 0, 1).flatten(0, 1).contiguous().unbind(0)  # (n or 1, C) of each position

        # The inputs of all layers in one piece each, so that moving on by a row or a column is one copy.
        self.above = self.condition.new_zeros(depth, n, 2, width + 2, channels)
        self.beside = self.condition.new_zeros(depth + 1, n, 2 * channels)
        self.before, self.here = self.beside.chunk(2, dim=2)
        self.rows = list(self.above[:, :, 1, 1:-1])
        self.columns = list(self.here)
        layers = cast(Sequence[GatedLayer], prior.layers)
        self.layers = [
            _Layer(layer, self.condition, above, beside)
            for layer, above, beside in zip(layers, self.above, self.beside[:-1], strict=True)
        ]
        attention = cast(Mapping[str, CausalAttention], prior.attention)
        self.attention = {
            i: _Attention(attention[str(i)], n, height * width) for i in range(depth) if str(i) in attention
        }
        mirror = cast(Mapping[str, Mirror], prior.mirror)
        self.mirror = {i: _Mirror(mirror[str(i)], n, width) for i in range(depth) if str(i) in mirror}
        _, hidden, _, last = cast(Sequence[nn.Conv2d], prior.head)
        self.hidden = _bias(hidden), hidden.weight[:, :, 0, 0].T.contiguous()
        ends = (x.split(prior.codebook_size) for x in (_bias(last), last.weight[:, :, 0, 0]))
        self.ends = [(bias, weight.T.contiguous()) for bias, weight in zip(*ends, strict=True)]
        self.end, self.features = self.ends[0], self.columns[-1]

    def walk(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Positions start to end - 1 in raster order, as (position, row, column), each ready for `logits`.

        `start` begins a row: the first one, or the one that `skip_to` was called with.
        """
        for position in range(start, end):
            row, column = divmod(position, self.width * self.cell)
            cell, earlier = divmod(column, self.cell)
            if column == 0:
                self._begin_row(row)
            if earlier:
                self.features = self.features + torch.embedding(self.within[earlier - 1], self.codes[position - 1])
            else:
                self._advance(row, cell)
                self.features = self.columns[-1]
            self.end = self.ends[earlier]
            yield position, row, column

    def logits(self) -> Tensor:
        """(n, K) at the position last walked to."""
        x = self.features
        for bias, weight in (self.hidden, self.end):
            x = torch.addmm(bias, F.silu(x), weight)
        return x

    def skip_to(self, row: int, copies: int) -> None:
        """Takes all rows before `row` in one parallel pass. In them, every `copies` draws in succession are alike."""
        if row == 0:
            return
        prior = self.prior
        v, h = prior.inputs(self.indices[::copies, :row], None if self.context is None else self.context[::copies])
        for i, layer in enumerate(prior.layers):
            self.rows[i].copy_(v[:, :, -1].mT.repeat_interleave(copies, 0))
            v, h = layer(v, h, self.condition[::copies])
            if i in self.attention:
                attention = cast(CausalAttention, prior.attention[str(i)])
                self.attention[i].fill_cache(attention, h, copies)
                h = attention(h)
            if i in self.mirror:
                h = prior.mirror[str(i)](h)

    def select(self, draws: Tensor) -> None:
        """At a row's end: draw d goes on from the state of draw draws[d], (n,) int64. The caller moves `indices`."""
        self.above.copy_(self.above[:, draws])
        for attention in self.attention.values():
            attention.select(draws)

    def _begin_row(self, row: int) -> None:
        """The vertical stack's row, for all columns and layers."""
        self.above[:, :, 0] = self.above[:, :, 1]
        self.rows[0].copy_(self.start_v[row])
        if row:
            for i, table in enumerate(self.embeddings):
                self.rows[0].add_(torch.embedding(table, self.indices[:, row - 1, i :: self.cell]))
        for layer, out in zip(self.layers, [*self.rows[1:], None], strict=True):
            layer.row(out)
        self.here.zero_()

    def _advance(self, row: int, column: int) -> None:
        """The horizontal stack's position, for all layers."""
        position = row * self.width + column
        self.before.copy_(self.here)
        if column:
            first, *others = self.embeddings
            here = (position - 1) * self.cell  # the first code of the cell before
            torch.add(torch.embedding(first, self.codes[here]), self.start_h[position], out=self.columns[0])
            for i, table in enumerate(others, here + 1):
                self.columns[0].add_(torch.embedding(table, self.codes[i]))
        else:
            self.columns[0].copy_(self.start_h[position])
        for i, layer in enumerate(self.layers):
            out = self.columns[i + 1]
            layer.position(column, out)
            if i in self.attention:
                self.attention[i].position(position, out)
            if i in self.mirror:
                self.mirror[i].position(column, out)


def sample(
    prior: PixelCNN,
    n: int,
    *,
    seed: int | Sequence[int] = 0,
    first: int | Sequence[int] = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    level: Condition = None,
    grade: Condition = None,
    appearance: Condition = None,
    picture: Tensor | None = None,
    stage: int = 0,
    sweep: int = 0,
    given: Tensor | None = None,
    mask: Tensor | None = None,
    on_step: OnStep | None = None,
    exact: PixelCNN | None = None,
) -> Tensor:
    """Samples n grids of codes.

    Draw i has its own stream of random numbers, made from (seed, first + i): it stays the same however draws are split
    into batches.

    Args:
        prior: in eval mode; its grid is the draws' grid.
        n: draws in this batch.
        seed, first: not negative. Either may be given for each draw; with a seed for each, all have the number `first`.
        temperature: above 0. Below 1 likely codes get likelier.
        top_k: only the k likeliest codes at each position can be drawn.
        level, grade: for all draws or (n,), as in `PixelCNN.forward`. None: unknown.
        appearance: as level and grade, for a prior with brightness ranks. None: oriented as training slices, with a
            random brightness rank; with `given`, unknown.
        picture: (n, P, S, S) in [-0.5, 0.5], as in `PixelCNN.forward`. In double precision, it is made the same
            whatever the batch.
        stage, sweep: number of the prior in a cascade, and how often this was drawn before: each has random numbers of
            its own.
        given: (h, w) or (n, h, w) codes, kept exactly where `mask` is False.
        mask: (h, w) bool, True is drawn. None: everything.
        on_step: called as on_step(position, indices, entropy_bits) after each drawn position, in raster order.
            `indices`, (n, h, w), is still being written; entropy_bits, (n,), is that of the distribution drawn from.
            What it raises ends the draw.
        exact: `in_double(prior)`, from whoever draws often. None: it is made when it is needed.

    Returns:
        (n, h, w) int64.

    Raises:
        OasisVQError: a setting is out of range, or a shape does not fit.
    """
    if n < 1:
        raise OasisVQError(f"the number of draws must be at least 1, not {n}")
    if (given is None) != (mask is None):
        raise OasisVQError(
            "given codes and a mask come together: True in the mask is drawn, False keeps the given code"
        )
    _check_settings(prior, temperature, top_k)
    height, width = prior.grid
    levels, grades = _condition(level, prior.level, n, "level"), _condition(grade, prior.grade, n, "grade")
    appearances = None
    if prior.look is not None:
        if appearance is None and given is None:
            appearance = draw_ranks(prior.ranks, n, seed, first)
        appearances = _condition(appearance, prior.look, n, "appearance")
    elif appearance is not None:
        raise OasisVQError("this prior has no brightness ranks: leave out the appearance")
    if given is None or mask is None:
        given = torch.zeros(height, width, dtype=torch.long)
        mask = torch.ones(height, width, dtype=torch.bool)
    given, mask = _check_grids(prior, given, mask)
    if given.shape not in [(height, width), (n, height, width)]:
        raise OasisVQError(f"given codes are for {len(given)} grids, but {n} are to be drawn: pass one grid or {n}")
    indices = given.expand(n, height, width).clone()
    uniforms = _uniforms(_keys(seed, first, n), (height * width, 1), *_stream(stage, sweep))
    drawn = set(_positions(mask))

    with torch.inference_mode():
        sampler = Sampler(prior, indices, levels, grades, appearances, _on(prior, picture))
        picker = _Picker(prior, indices, levels, grades, appearances, picture, uniforms, temperature, top_k, exact)
        for position, _, _ in sampler.walk(0, max(drawn, default=-1) + 1):
            if position not in drawn:
                continue
            codes, probabilities = picker.pick(position, sampler.logits())
            sampler.codes[position].copy_(codes)
            if on_step:
                on_step(position, indices, torch.special.entr(probabilities).sum(1) / math.log(2))
    return indices


def surprise(
    prior: PixelCNN,
    indices: Tensor,
    level: Condition = None,
    grade: Condition = None,
    picture: Tensor | None = None,
) -> Tensor:
    """-log2 p of every code given those before it, by parallel passes.

    Args:
        prior: in eval mode.
        indices: (B, h, w).
        level, grade: for all grids or (B,), as in `PixelCNN.forward`. None: unknown.
        picture: (B, P, S, S), as in `PixelCNN.forward`.

    Returns:
        (B, h, w) float32 bits, not negative.

    Raises:
        OasisVQError: shape or range of an argument is wrong.
    """
    indices, _ = _check_grids(prior, indices, torch.ones(prior.grid, dtype=torch.bool))
    levels = _condition(level, prior.level, len(indices), "level")
    grades = _condition(grade, prior.grade, len(indices), "grade")
    picture = _on(prior, picture)
    with torch.inference_mode():
        nats = [
            F.cross_entropy(
                prior(
                    indices[some],
                    levels[some],
                    grades[some],
                    picture=None if picture is None else picture[some],
                ),
                indices[some],
                reduction="none",
            )
            for some in batches(len(indices), grids_at_a_time(prior))
        ]
    return torch.cat(nats) / math.log(2)


def batches(count: int, size: int) -> list[slice]:
    """0 to count - 1 in pieces of `size`."""
    return [slice(start, start + size) for start in range(0, count, size)]


def grids_at_a_time(prior: PixelCNN) -> int:
    """How many grids to score together, so that their logits fit in memory."""
    return max(1, LOGITS // (prior.codebook_size * math.prod(prior.grid)))


def refill(
    prior: PixelCNN,
    indices: Tensor,
    mask: Tensor,
    *,
    seed: int = 0,
    first: int = 0,
    proposals: int = 16,
    temperature: float = 1.0,
    top_k: int | None = None,
    level: Condition = None,
    grade: Condition = None,
    picture: Tensor | None = None,
    stage: int = 0,
) -> Tensor:
    """Samples a region again so that it fits all codes that are kept, those to its right and below too.

    Sampled in raster order alone, a region ignores what comes after it and leaves seams. Therefore a particle filter:
    several proposals are sampled together, each weighted by the likelihood of the kept codes after it, resampled by
    weight at the end of a row where few carry the weight, and one is chosen by weight in the end. The more proposals,
    the closer the result is to a sample of p(region | rest).

    Args:
        prior: in eval mode.
        indices: (B, h, w). For several fills of one grid, repeat it: each has its own stream of random numbers, made
            from (seed, first + its number).
        mask: (h, w) bool, True is drawn again, the rest is kept exactly.
        seed, first: not negative.
        proposals: at least 1, which is plain raster drawing.
        temperature, top_k: of the proposals, as in `sample`.
        level, grade: for all grids or (B,), as in `PixelCNN.forward`. None: unknown.
        picture: (B, P, S, S), as in `PixelCNN.forward`.
        stage: as in `sample`.

    Returns:
        (B, h, w) int64.

    Raises:
        OasisVQError: shape or range of an argument is wrong.
    """
    if proposals < 1:
        raise OasisVQError(f"refill needs at least 1 proposal, not {proposals}")
    _check_settings(prior, temperature, top_k)
    indices, mask = _check_grids(prior, indices, mask)
    n, height, width = indices.shape
    levels, grades = _condition(level, prior.level, n, "level"), _condition(grade, prior.grade, n, "grade")
    shape = (height * width + height + 1, proposals)  # for each position, each row's end, and the choice at last
    distribution = partial(_probabilities, temperature=temperature, top_k=top_k)
    if not mask.any():
        return indices.clone()
    # A stream of its own: a refill must not repeat the numbers of the draw with the same seed.
    uniforms = _uniforms(_keys(seed, first, n), shape, 1, *_stream(stage)).to(indices.device)
    return _redraw(prior, indices, mask, uniforms, levels, grades, _on(prior, picture), distribution)


@torch.inference_mode()
def _redraw(
    prior: PixelCNN,
    filled: Tensor,
    region: Tensor,
    uniforms: Tensor,
    levels: Tensor,
    grades: Tensor,
    picture: Tensor | None,
    distribution: Callable[[Tensor], Tensor],
) -> Tensor:
    """One particle filter over a region of (n, h, w) grids.

    uniforms is (positions + rows + 1, n, proposals); distribution takes logits to probabilities.
    """
    n, height, width = filled.shape
    proposals = uniforms.shape[2]
    drawn = set(_positions(region))
    start, end = min(drawn) // width * width, max(drawn) + 1
    grids = filled.repeat_interleave(proposals, 0)
    levels, grades = levels.repeat_interleave(proposals), grades.repeat_interleave(proposals)
    pictures = None if picture is None else picture.repeat_interleave(proposals, 0)
    groups = torch.arange(0, n * proposals, proposals, device=filled.device)[:, None]  # where a grid's proposals begin
    weights = uniforms.new_zeros(n, proposals)  # logarithms

    sampler = Sampler(prior, grids, levels, grades, picture=pictures)
    sampler.skip_to(start // width, proposals)
    for position, row, column in sampler.walk(start, end):
        here = grids[:, row, column]
        if position in drawn:
            here.copy_(_pick(distribution(sampler.logits()), uniforms[position].view(-1, 1))[:, 0])
        elif position > min(drawn):
            likelihood = sampler.logits().double().log_softmax(1).gather(1, here[:, None])
            weights += likelihood.view(n, proposals)
        if column == width - 1:
            weights, survivors = _resample(weights, uniforms[height * width + row])
            draws = (groups + survivors).flatten()
            grids.copy_(grids[draws])
            sampler.select(draws)
    after = surprise(prior, grids, levels, grades, pictures).flatten(1)[:, end:].double().sum(1)
    weights -= after.view(n, proposals) * math.log(2)
    chosen = groups + _pick(weights.softmax(1), uniforms[-1, :, :1].contiguous())
    return grids[chosen[:, 0]]


def _resample(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The resampling step of a particle filter, for each of n grids.

    Only where the effective sample size (Kong, Liu and Wong 1994, doi:10.1080/01621459.1994.10476469) is under half the
    number of proposals: resampling costs variety.

    Args:
        weights: (n, proposals) float64, logarithms.
        uniforms: (n, proposals) float64 in [0, 1).

    Returns:
        The new weights, and the proposal, (n, proposals) int64, that goes on in the place of each.
    """
    proposals = weights.shape[1]
    shares = weights.softmax(1)
    few = 1 / shares.square().sum(1, keepdim=True) < proposals / 2
    stay = torch.arange(proposals, device=weights.device)
    return weights.masked_fill(few, 0), torch.where(few, _pick(shares, uniforms), stay)


def _probabilities(logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
    """(n, K) float32 logits -> (n, K) float64 probabilities, sharpened and cut to the top_k likeliest codes."""
    if top_k is not None:
        worst = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < worst, -math.inf)
    if temperature != 1:
        logits = logits / temperature
    return torch.softmax(logits, dim=1, dtype=torch.float64)


def _pick(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """m draws from each of n distributions by the inverse of the cumulative one.

    (n, K) float64 and (n, m) float64 in [0, 1) -> (n, m) int64.
    """
    return torch.searchsorted(probabilities.cumsum(1), uniforms, right=True)


def draw_ranks(ranks: int, n: int, seed: int | Sequence[int], first: int | Sequence[int] = 0) -> Tensor:
    """A random brightness rank for each of n draws, (n,) int64 in [0, ranks), from the seed and the draw's number."""
    return (_uniforms(_keys(seed, first, n), (1,), 2)[0] * ranks).long()


def draw_levels(levels: int, n: int, seed: int | Sequence[int], first: int = 0) -> Tensor:
    """A random level for each of n draws, (n,) int64 in [0, levels), from the seed and the draw's number alone."""
    return (_uniforms(_keys(seed, first, n), (1,), 4)[0] * levels).long()


def _keys(seed: int | Sequence[int], first: int | Sequence[int], n: int) -> list[tuple[int, int]]:
    """The seed and the number of each of n draws."""
    if isinstance(seed, int | np.integer) and isinstance(first, int | np.integer):
        return [(seed, first + i) for i in range(n)]
    seeds, numbers = ([one] * n if isinstance(one, int | np.integer) else one for one in (seed, first))
    if not len(seeds) == len(numbers) == n:
        raise OasisVQError(f"{n} draws need one seed, or {n} of them, and as many numbers")
    return list(zip(seeds, numbers, strict=True))


def _stream(stage: int, sweep: int = 0) -> tuple[int, ...]:
    """The key of a stage's and a sweep's own random numbers, for `_uniforms`."""
    if sweep:
        return 5, stage, sweep
    return (3, stage) if stage else ()


def _uniforms(keys: Sequence[tuple[int, int]], shape: tuple[int, ...], *stream: int) -> Tensor:
    """float64 in [0, 1), (shape[0], len(keys), *shape[1:]); a draw's follow from its key and the stream."""
    for seed, first in keys:
        if min(seed, first) < 0:
            raise OasisVQError(f"seed {seed} and first {first} must not be negative")
    streams = np.stack([np.random.default_rng((*key, *stream)).random(shape) for key in keys], axis=1)
    return torch.from_numpy(np.minimum(streams, LARGEST))


def _on(prior: PixelCNN, picture: Tensor | None) -> Tensor | None:
    """Pictures as the prior takes them, on its device and in its precision, after a check that it takes so many."""
    needed, shown = prior.pictures - len(prior.near), 0 if picture is None else picture.shape[1]
    if shown < needed:
        raise OasisVQError("this prior has a coarse stage: it needs a picture of each slice")
    if shown > prior.pictures:
        raise OasisVQError(f"this prior takes {prior.pictures} pictures of each slice, not {shown}")
    return None if picture is None else picture.to(prior.position_v)


def _positions(mask: Tensor) -> list[int]:
    """Raster positions where a mask is True, in order."""
    return mask.flatten().nonzero().flatten().tolist()


def _condition(value: Condition, table: nn.Embedding, n: int, name: str) -> Tensor:
    """(n,) int64 from one value for all draws, one for each, or None, which is unknown: the table's last row."""
    unknown = table.num_embeddings - 1
    values = torch.as_tensor(unknown if value is None else value, device=table.weight.device).long()
    if values.shape not in [(), (n,)] or ((values < 0) | (values > unknown)).any():
        raise OasisVQError(f"{name} must be a number from 0 to {unknown} ({unknown}: unknown), or {n} of them")
    return values.expand(n)


def _check_grids(prior: PixelCNN, indices: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (..., h, w) int64 and mask (h, w) on the prior's device, after checks of shape and range."""
    device, grid, codes = prior.position_v.device, prior.grid, prior.codebook_size
    indices, mask = torch.as_tensor(indices, device=device), torch.as_tensor(mask, device=device)
    if indices.shape[-2:] != grid or mask.shape != grid or mask.dtype != torch.bool:
        raise OasisVQError(f"codes must end in {grid} and the mask be boolean {grid}, as the prior's grid")
    if indices.is_floating_point() or ((indices < 0) | (indices >= codes)).any():
        raise OasisVQError(f"codes must be whole numbers from 0 to {codes - 1}")
    return indices.long(), mask


def _check_settings(prior: PixelCNN, temperature: float, top_k: int | None) -> None:
    if not LEAST_TEMPERATURE <= temperature < math.inf:
        raise OasisVQError(
            f"temperature {temperature} must be {LEAST_TEMPERATURE} or more; for the likeliest codes alone use top_k=1"
        )
    if top_k is not None and not 1 <= top_k <= prior.codebook_size:
        raise OasisVQError(f"top_k {top_k} must be from 1 to {prior.codebook_size}")
