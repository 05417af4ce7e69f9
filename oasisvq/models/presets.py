"""Every size, seed and schedule in one frozen place: a preset is stored beside the weights it made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from oasisvq.errors import OasisVQError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Preset:
    """The whole recipe of one pair of models. Sizes are in pixels or codes, widths in channels, rates per step."""

    name: str

    # The slice and its codes.
    size: int = 80
    codebook_size: int = 512
    code_dim: int = 32
    # Codes a cell: each after the first refines what those before it say.
    depth: int = 1

    # VQ-VAE: an entry for each halving, the finest first: channels, and residual blocks a side, at that resolution.
    channels: tuple[int, ...] = (64, 128)
    blocks: tuple[int, ...] = (1, 3)

    # VQ-VAE losses and codebook (van den Oord et al. 2017; Razavi et al. 2019 for the moving averages).
    foreground_weight: float = 3.0
    ssim_weight: float = 0.5
    commitment_weight: float = 0.25
    codebook_decay: float = 0.99
    codebook_warmup: int = 200

    # PixelCNN: channels, gated layers, heads of the causal attention after the first and the second third of them (0:
    # no attention, whose cost grows with the square of a grid's codes).
    prior_channels: int = 96
    prior_layers: int = 12
    prior_heads: int = 4
    prior_dropout: float = 0.1

    # What a draw can be conditioned on: the level of the slice and the clinical dementia rating (CDR) of the person.
    levels: int = 32
    grades: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    # How finely the prior is told how bright a slice is among those of its level, and whether it is mirrored (0: it is
    # told neither).
    prior_ranks: int = 8

    # Schedules: one warm-up and cosine cycle each.
    vqvae_epochs: int = 26
    vqvae_batch: int = 32
    vqvae_rate: float = 1e-3
    prior_epochs: int = 10
    prior_batch: int = 16
    prior_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0

    @property
    def side(self) -> int:
        """Cells along a side of the slice. Each halving of the slice is a stride-2 convolution."""
        return self.size >> len(self.channels)

    @property
    def grid(self) -> tuple[int, int]:
        """The index grid of a slice, rows and columns of codes: those of a cell lie side by side."""
        return self.side, self.side * self.depth

    @property
    def codes(self) -> int:
        """Codes of a slice."""
        return math.prod(self.grid)

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """The index grids of a slice in the order in which they are drawn."""
        return (self.grid,)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes that a cell of each part can hold."""
        return (self.codebook_size,)

    def split(self, indices: Tensor) -> list[Tensor]:
        """All codes of B slices, (B, h, w) -> those of each part, (B, *part)."""
        return [indices]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Inverse of `split`."""
        return parts[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preset:
        """Inverse of `to_dict`. Raises OasisVQError when a field is unknown, missing, of another kind or absurd."""
        values = {"prior_ranks": 0, "depth": 1, **values}  # weights from before these existed say nothing of them
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            odd = sorted(set(values) ^ known)
            raise OasisVQError(
                f"preset has unknown or missing fields {odd}: these weights need another oasisvq version"
            )
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        preset = cls(**plain)
        for field in fields(cls):
            if not _plausible(plain[field.name], "" if field.default is MISSING else field.default):
                raise OasisVQError(f"preset has a {field.name} that no model can have: get the weights again")
        largest = sum(preset.blocks) > _MOST_BLOCKS or preset.prior_layers > _MOST_BLOCKS or preset.side > _LARGEST_GRID
        if largest or not 1 <= preset.depth <= _MOST_CODES:
            raise OasisVQError("preset asks for a model far larger than any of ours: get the weights again")
        return preset


# A preset may come from anywhere: it must not ask for models that would never be built, or not fit in memory.
_LARGEST, _MOST_BLOCKS, _LARGEST_GRID, _MOST_CODES = 2**16, 128, 64, 4


def _plausible(value: Any, example: Any) -> bool:
    """Whether a value is of the kind of an example, and of a size that is not absurd."""
    if isinstance(example, tuple):
        return isinstance(value, tuple) and len(value) <= 8 and all(_plausible(one, example[0]) for one in value)
    if isinstance(example, str):
        return isinstance(value, str) and value.isprintable() and len(value) <= 64
    kinds = (int, float) if isinstance(example, float) else int
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value <= _LARGEST


PRESETS: dict[str, Preset] = {
    "base": Preset(name="base"),
    # For eyes rather than for history: a code for every four pixels. Its prior does without attention, whose cost would
    # be sixteen times that of the base preset.
    "clear": Preset(
        name="clear",
        codebook_size=256,
        code_dim=16,
        channels=(96,),
        blocks=(2,),
        prior_channels=64,
        prior_layers=10,
        prior_heads=0,
        prior_ranks=0,  # as its weights were trained, before there were ranks
        vqvae_epochs=11,
        prior_epochs=6,
    ),
    # The sizes of other studies, and of the original slices: 32 x 32 cells, which a prior can still draw.
    "medium": Preset(name="medium", size=128),
    "large": Preset(
        name="large",
        size=256,
        channels=(32, 64, 128),
        blocks=(1, 1, 3),
        prior_channels=64,
        prior_layers=10,
        prior_ranks=0,  # as clear's
        vqvae_epochs=6,
        vqvae_batch=16,
        prior_epochs=6,
    ),
    # For eyes again: two codes a cell, from a codebook four times as large. Narrow where pixels are many, to cost less.
    "large-clear": Preset(
        name="large-clear",
        size=256,
        codebook_size=2048,
        code_dim=16,
        depth=2,
        channels=(16, 32, 96),
        blocks=(1, 1, 2),
        ssim_weight=2.0,
        prior_channels=64,
        prior_layers=10,
        vqvae_epochs=15,
        vqvae_batch=16,
        vqvae_rate=8e-4,
        prior_epochs=8,
    ),
    "smoke": Preset(
        name="smoke",
        channels=(24, 32),
        blocks=(1, 1),
        prior_channels=32,
        prior_layers=4,
        codebook_warmup=20,
        vqvae_epochs=4,
        prior_epochs=3,
    ),
}
