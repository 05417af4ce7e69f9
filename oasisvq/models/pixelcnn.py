"""The prior: a gated PixelCNN over index grids, in its parallel view (all positions at once, for training and scoring).

Two stacks after van den Oord et al. 2016 (arXiv:1606.05328): the vertical one sees the rows above, the horizontal one
the codes to the left, and together they have no blind spot. Instead of masking kernels, the inputs are shifted by one
row and one column once (as PixelCNN++ does, Salimans et al. 2017, arXiv:1701.05517), after which every layer may use
its own position. Causal self-attention over the raster order (PixelSNAIL, Chen et al. 2018, arXiv:1712.09763) reaches
what convolutions reach late, such as the outline far above. A head is nearly its own mirror image, so right of the
middle a position also sees the mirrored columns of its row. A learned map tells positions apart. The gates of every
layer have a bias from the condition: level, dementia grade, and appearance.

Positions are cells. Where a cell has several codes, their embeddings are summed on the way in, and the head predicts
them one by one, each given those before it in the cell (as the depth transformer of Lee et al. 2022, arXiv:2203.01941).

The prior can also be given pictures, as a context map: in a cascade the coarse stage's reconstruction, and the slices
of the levels below and above, where they are known. Whole pictures are known before the first code, so the map needs no
causality: it is added to the inputs of both stacks.

The appearance of a slice is its orientation (as training slices lie, or mirrored) and the rank of its brightness among
slices of its level. Brightness belongs to the whole slice: sampled code by code without this condition, it drifts to
the mean. Mirrored slices double the training data, but heads are not symmetric: knowing the orientation, the prior
learns from both and samples either (distribution augmentation, Jun et al. 2020,
proceedings.mlr.press/v119/jun20a.html).

`oasisvq.models.sampling` computes the same layers one position at a time, with weights rearranged for that: change
both together. `tests/test_sampling.py` holds the logits of the one against those of the other.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oasisvq.models.presets import Preset
from oasisvq.models.vqvae import Context

# Residual blocks on the pictures: each position sees seven cells to every side.
CONTEXT_BLOCKS = 3


def shift_down(x: Tensor) -> Tensor:
    """(B, C, h, w) moved one row down: row r holds what row r - 1 held, row 0 holds zeros."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


def shift_right(x: Tensor) -> Tensor:
    """(B, C, h, w) moved one column right: column c holds what column c - 1 held, column 0 holds zeros."""
    return F.pad(x, (1, 0, 0, 0))[:, :, :, :-1]


def gate(x: Tensor) -> Tensor:
    """(B, 2C, ...) -> (B, C, ...): tanh of the first half, let through by the sigmoid of the second."""
    value, door = x.chunk(2, dim=1)
    return torch.tanh(value) * torch.sigmoid(door)


class GatedLayer(nn.Module):
    """One step of both stacks. The vertical stack feeds the horizontal one, never the other way round."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.vertical = nn.Conv2d(channels, 2 * channels, (2, 3))
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, 2))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.condition = nn.Linear(channels, 4 * channels)
        self.out = nn.Conv2d(channels, channels, 1)
        self.dropout = nn.Dropout2d(dropout)  # whole channels: few random numbers to draw

    def forward(self, v: Tensor, h: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        bias_v, bias_h = self.condition(condition)[:, :, None, None].chunk(2, dim=1)  # (B, 2C, 1, 1) each
        rows = self.vertical(F.pad(v, (1, 1, 1, 0)))  # (B, 2C, h, w): row r from rows r - 1 and r
        columns = self.horizontal(F.pad(h, (1, 0, 0, 0)))  # (B, 2C, h, w): column c from columns c - 1 and c
        across = self.across(rows[:, :, -h.shape[2] :])  # h may have the last rows alone
        h = h + self.out(self.dropout(gate(columns + across + bias_h)))
        v = v + gate(rows + bias_v)
        return v, h


class CausalAttention(nn.Module):
    """Self-attention over the raster order: position i attends to positions j <= i of the horizontal stack."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)

    def forward(self, h: Tensor) -> Tensor:
        b, c, height, width = h.shape
        tokens = h.flatten(2).transpose(1, 2)  # (B, N, C), N = height * width
        q, k, v = self.qkv(self.norm(tokens)).view(b, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, heads, N, C/heads)
        seen = self.out(seen.transpose(1, 2).reshape(b, -1, c))
        return h + seen.transpose(1, 2).view(b, c, height, width)


class Mirror(nn.Module):
    """Right of the middle, position (r, c) adds its mirror image: columns w - 1 - c to w + 1 - c of row r.

    The last two of these have seen the mirrored code itself, and all lie at or left of c.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (1, 3))
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    @staticmethod
    def start(width: int) -> int:
        """The first column with a mirror image."""
        return width // 2 + 1

    def forward(self, h: Tensor) -> Tensor:
        start = self.start(h.shape[3])
        if start >= h.shape[3]:
            return h
        seen = self.conv(h.flip(3)[:, :, :, start - 2 :])  # (B, C, h, w - start)
        return torch.cat([h[:, :, :, :start], h[:, :, :, start:] + seen], dim=3)


class PixelCNN(nn.Module):
    """log p(indices | level, grade, appearance, picture): logits of each code given those before it in raster order."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        c, side = preset.prior_channels, preset.side
        self.codebook_size, self.depth = preset.codebook_size, preset.depth
        # A table for each of a cell's codes, one after the other.
        self.embedding = nn.Embedding(self.depth * self.codebook_size, c)
        # The last row of each table stands for "unknown".
        self.level = nn.Embedding(preset.levels + 1, c)
        self.grade = nn.Embedding(len(preset.grades) + 1, c)
        nn.init.zeros_(self.grade.weight)  # a grade that few people have begins as no difference
        self.ranks = preset.prior_ranks
        # Of appearance, `look` in weight files: the ranks from dark to bright, the ranks mirrored, unknown.
        self.look = nn.Embedding(2 * self.ranks + 1, c) if self.ranks else None
        if self.look is not None:
            nn.init.zeros_(self.look.weight)
        # By `nn.init`, which loading skips: see `oasisvq.hub.verification`.
        self.position_v = nn.Parameter(nn.init.normal_(torch.empty(1, c, side, side), std=0.02))
        self.position_h = nn.Parameter(nn.init.normal_(torch.empty(1, c, side, side), std=0.02))
        self.layers = nn.ModuleList(GatedLayer(c, preset.prior_dropout) for _ in range(preset.prior_layers))
        # Attention and mirror follow the layers that end the first and the second third.
        after = [str(i) for i in sorted({preset.prior_layers // 3 - 1, 2 * preset.prior_layers // 3 - 1})]
        self.attention = nn.ModuleDict({i: CausalAttention(c, preset.prior_heads) for i in after if preset.prior_heads})
        self.mirror = nn.ModuleDict({i: Mirror(c) for i in after})
        self.head = nn.Sequential(
            nn.SiLU(), nn.Conv2d(c, 2 * c, 1), nn.SiLU(), nn.Conv2d(2 * c, self.depth * self.codebook_size, 1)
        )
        # The pictures as features of each cell, for the vertical and for the horizontal stack.
        self.cell, self.pictures, self.near = preset.cell, preset.prior_pictures, preset.near
        self.context = (
            nn.Sequential(Context(preset.cell, c, CONTEXT_BLOCKS, self.pictures), nn.SiLU(), nn.Conv2d(c, 2 * c, 1))
            if self.pictures
            else None
        )
        # Embeddings of a cell's earlier codes, for predicting its later ones; zero at first.
        self.within = nn.Embedding((self.depth - 1) * self.codebook_size, c) if self.depth > 1 else None
        if self.within is not None:
            nn.init.zeros_(self.within.weight)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes."""
        height, width = self.position_h.shape[2:]
        return height, width * self.depth

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of a slice, from top to bottom and from side to side."""
        height, width = self.position_h.shape[2:]
        return height * self.cell, width * self.cell

    def condition(
        self,
        level: Tensor,
        grade: Tensor,
        appearance: Tensor | None = None,
        picture: Tensor | None = None,
        appearance_scale: float = 1.0,
    ) -> tuple[Tensor, Tensor | None]:
        """The condition of every layer, (B, C), and the context map, (B or 1, 2C, h, w); arguments as for `forward`."""
        condition = self.level(level) + self.grade(grade)
        if self.look is not None:
            unknown = self.look.weight[-1]
            condition = condition + unknown
            if appearance is not None:
                condition = condition + appearance_scale * (self.look(appearance) - unknown)
        if self.context is None:
            return F.silu(condition), None
        if picture is None:
            picture = self.position_v.new_zeros(1, 0, *self.size)
        # An unknown neighbour is an even grey, as no slice is.
        return F.silu(condition), self.context(F.pad(picture, (0, 0, 0, 0, 0, self.pictures - picture.shape[1])))

    def forward(
        self,
        indices: Tensor,
        level: Tensor,
        grade: Tensor,
        appearance: Tensor | None = None,
        picture: Tensor | None = None,
        appearance_scale: float = 1.0,
    ) -> Tensor:
        """Logits of every code given the codes before it.

        Args:
            indices: (B, h, w * L) int64 in [0, K), a cell's L codes side by side; the first rows of a grid will do.
            level: (B,) int64 in [0, levels]; `levels` means unknown.
            grade: (B,) int64 in [0, len(grades)]; `len(grades)` means unknown.
            appearance: (B,) int64 in [0, 2 ranks]: r is brightness rank r as training slices lie, ranks + r is its
                mirror image, 2 ranks, like None, means unknown. Without effect on a prior without ranks.
            picture: (B, P, S, S) in [-0.5, 0.5]: the coarse stage's reconstruction, if there is a coarse stage; then,
                for a prior that can be given neighbours, the slices of the levels `near`, an unknown one all 0.
                Pictures missing at the end, or None, are unknown.
            appearance_scale: strength of this condition: scales the difference of its embedding from that of unknown.

        Returns:
            (B, K, h, w * L). Position (r, c) depends on rows above r and on columns left of c in row r alone.
        """
        return self.logits(indices, *self.condition(level, grade, appearance, picture, appearance_scale))

    def logits(
        self, indices: Tensor, condition: Tensor, context: Tensor | None = None, last_row: bool = False
    ) -> Tensor:
        """`forward` with condition, (B, C), and context map, (B, 2C, h, w), from `condition`.

        With `last_row` only the logits of the last row, (B, K, 1, w * L), which cost less.
        """
        v, h = self.inputs(indices, context)
        near = max(map(int, self.attention), default=-1) + 1  # the first layer after which there is no attention
        for i, layer in enumerate(self.layers):
            if last_row and i == near:  # each layer left sees one row up
                v, h = v[:, :, i - len(self.layers) - 1 :], h[:, :, -1:]
            v, h = layer(v, h, condition)
            if str(i) in self.attention:
                h = self.attention[str(i)](h)
            if str(i) in self.mirror:
                h = self.mirror[str(i)](h)
        return self._predict(h, indices[:, -h.shape[2] :])

    def inputs(self, indices: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the vertical and the horizontal stack begin with, (B, C, h, w) each; arguments as for `logits`."""
        e = self.embed(indices)
        rows = indices.shape[1]
        v = shift_down(e) + self.position_v[:, :, :rows]
        h = shift_right(e) + self.position_h[:, :, :rows]
        if context is not None:
            context_v, context_h = context[:, :, :rows].chunk(2, dim=1)
            v, h = v + context_v, h + context_h
        return v, h

    def embed(self, indices: Tensor) -> Tensor:
        """The embeddings of codes, summed over each cell: (B, h, w * L) -> (B, C, h, w)."""
        tables = torch.arange(self.depth, device=indices.device) * self.codebook_size
        codes = indices.unflatten(2, (-1, self.depth)) + tables  # (B, h, w, L)
        return self.embedding(codes).sum(3).permute(0, 3, 1, 2)

    def _predict(self, h: Tensor, indices: Tensor) -> Tensor:
        """Features of cells, (B, C, h, w), and the codes in them -> logits (B, K, h, w * L)."""
        last = cast(nn.Conv2d, self.head[-1])
        ends = zip(*(x.split(self.codebook_size) for x in (last.weight, cast(Tensor, last.bias))), strict=True)
        logits = []
        for i, (weight, bias) in enumerate(ends):
            if self.within is not None and i:
                earlier = indices[:, :, i - 1 :: self.depth] + (i - 1) * self.codebook_size
                h = h + self.within(earlier).permute(0, 3, 1, 2)
            logits.append(F.conv2d(self.head[:-1](h), weight, bias))
        return torch.stack(logits, 4).flatten(3)
