"""Every size, seed and schedule in one place: a preset is frozen, and stored beside the weights it made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from oasisvq.errors import OasisVQError

if TYPE_CHECKING:
    from torch import Tensor

# Codes that can be drawn at a position, unless all are asked for. Of all 512 an unlikely one is drawn now and then, and
# what follows builds on it: the halves of a sampled brain can then differ more than people's. Of too few, samples vary
# less than people. With 150 neither is seen: `benchmark top_k`.
TOP_K = 150


@dataclass(frozen=True)
class Preset:
    """The whole recipe of one pair of models. Sizes are in pixels or codes, widths in channels, rates per step."""

    name: str

    # The slice and its codes.
    size: int = 80
    codebook_size: int = 512
    code_dim: int = 32
    # Codes of a cell: each after the first refines those before it.
    depth: int = 1
    # The coarse stage of a cascade: this preset's models are given its reconstruction, or its sample, as a picture.
    coarse: Preset | None = None

    # VQ-VAE: an entry for each halving, the finest first: channels, and residual blocks a side, at that resolution.
    channels: tuple[int, ...] = (64, 128)
    blocks: tuple[int, ...] = (1, 3)

    # VQ-VAE losses and codebook (van den Oord et al. 2017; Razavi et al. 2019 for the moving averages).
    foreground_weight: float = 3.0
    ssim_weight: float = 0.5
    commitment_weight: float = 0.25
    rate_weight: float = 0.0  # how much a code's bits count against its distance when codes are chosen
    codebook_decay: float = 0.99
    codebook_warmup: int = 200

    # PixelCNN: channels, gated layers, heads of the causal attention after the first and the second third of them (0:
    # no attention, whose cost grows with the square of a grid's codes).
    prior_channels: int = 96
    prior_layers: int = 12
    prior_heads: int = 4
    prior_dropout: float = 0.1

    # Conditions of the prior: the level of the slice and the clinical dementia rating (CDR) of the person.
    levels: int = 32
    grades: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    # Ranks of brightness among the slices of a level: with the orientation, a third condition (0: neither).
    prior_ranks: int = 8
    # Slices of neighbouring levels that the prior can be given, half of them below and half above: 0, 2 or 4.
    prior_neighbours: int = 0

    # Schedules: one warm-up and cosine cycle each.
    vqvae_epochs: int = 26
    vqvae_batch: int = 32
    vqvae_rate: float = 1e-3
    vqvae_crop: int = 0  # pixels a side of the random crops that it learns from; 0: whole slices
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
    def cell(self) -> int:
        """Pixels along a side of a cell."""
        return self.size // self.side

    @property
    def grid(self) -> tuple[int, int]:
        """The index grid of a slice, rows and columns of codes: those of a cell lie side by side."""
        return self.side, self.side * self.depth

    @property
    def stages(self) -> tuple[Preset, ...]:
        """The presets of a cascade, the coarse one first; of any other, itself alone."""
        return (self.coarse, self) if self.coarse else (self,)

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """The index grid of each stage."""
        return tuple(stage.grid for stage in self.stages)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of all codes of a slice: its grid, or, in a cascade, one row with the codes of one stage after the
        other."""
        return (1, self.codes) if self.coarse else self.grid

    @property
    def codes(self) -> int:
        """Codes of a slice, of all stages."""
        return sum(math.prod(grid) for grid in self.parts)

    @property
    def prior_pictures(self) -> int:
        """Pictures that the prior can be given: the coarse stage's of the slice itself, and the neighbouring slices."""
        return (self.coarse is not None) + self.prior_neighbours

    @property
    def near(self) -> tuple[int, ...]:
        """The levels that the prior can be given, counted from the slice's own, the lowest first."""
        reach = self.prior_neighbours // 2
        return tuple(offset for offset in range(-reach, reach + 1) if offset)

    @property
    def plain_bits(self) -> float:
        """Bits of a slice when each code is written with log2 of its codebook's size."""
        return sum(math.prod(stage.grid) * math.log2(stage.codebook_size) for stage in self.stages)

    def split(self, indices: Tensor) -> list[Tensor]:
        """All codes of slices, (B, *shape), as the grids of each stage, (B, h, w)."""
        sizes = [math.prod(grid) for grid in self.parts]
        grids = zip(indices.flatten(1).split(sizes, 1), self.parts, strict=True)
        return [codes.unflatten(1, grid) for codes, grid in grids]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Inverse of `split`."""
        import torch  # takes seconds, and few who read presets need it

        return torch.cat([part.flatten(1) for part in parts], 1).unflatten(1, self.shape)

    def cells(self, region: Tensor) -> Tensor:
        """The codes whose cells have their middle in a region of the slice: bool (S, S) -> bool `shape`."""
        import torch

        parts = []
        for height, width in self.parts:
            rows = ((torch.arange(height) + 0.5) * (self.size / height)).long()
            cells = region[rows][:, rows]  # (h, h): a cell's codes lie side by side
            parts.append(cells.repeat_interleave(width // height, 1)[None])
        return self.join(parts)[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return values | {"coarse": self.coarse.to_dict() if self.coarse else None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preset:
        """Inverse of `to_dict`. Raises OasisVQError when a field is unknown, missing, of another kind or absurd."""
        # Defaults for weights from before these fields existed.
        older = {
            "prior_ranks": 0,
            "prior_neighbours": 0,
            "depth": 1,
            "coarse": None,
            "vqvae_crop": 0,
            "rate_weight": 0.0,
        }
        values = older | values
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            odd = sorted(set(values) ^ known)
            raise OasisVQError(
                f"preset has unknown or missing fields {odd}: these weights need another oasisvq version"
            )
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        if plain["coarse"] is not None:
            if not isinstance(plain["coarse"], dict) or plain["coarse"].get("coarse") is not None:
                raise OasisVQError("preset has a coarse stage that no model can have: get the weights again")
            plain["coarse"] = cls.from_dict(plain["coarse"])
        preset = cls(**plain)
        for field in fields(cls):
            example = "" if field.default is MISSING else field.default
            if field.name != "coarse" and not _plausible(plain[field.name], example):
                raise OasisVQError(f"preset has a {field.name} that no model can have: get the weights again")
        largest = sum(preset.blocks) > _MOST_BLOCKS or preset.prior_layers > _MOST_BLOCKS or preset.side > _LARGEST_GRID
        if largest or not 1 <= preset.depth <= _MOST_CODES:
            raise OasisVQError("preset asks for a model far larger than any of ours: get the weights again")
        if preset.prior_neighbours not in (0, 2, 4):
            raise OasisVQError("preset has neighbours that no slice can have: get the weights again")
        if not preset.side or preset.side << len(preset.channels) != preset.size:
            raise OasisVQError("preset has a size that its halvings do not divide: get the weights again")
        if len({(stage.levels, stage.grades) for stage in preset.stages}) > 1:
            raise OasisVQError("preset has stages that know other levels or grades: get the weights again")
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


_SMOKE = Preset(
    name="smoke",
    channels=(24, 32),
    blocks=(1, 1),
    prior_channels=32,
    prior_layers=4,
    prior_neighbours=4,
    codebook_warmup=20,
    vqvae_epochs=4,
    prior_epochs=3,
)

# The same slices and codes as base, and a prior that can be given neighbouring levels: it draws whole heads. Two on a
# side, since one does not show which way a head goes on.
_HEADS = Preset(name="heads", prior_neighbours=4)

# Slices at their original size: base's reconstruction, and a code in each of 64 x 64 cells for what it lacks. Few
# channels where pixels are many; no attention, since the picture shows what lies far away.
_LARGE = Preset(
    name="large",
    size=256,
    codebook_size=64,
    code_dim=8,
    coarse=Preset(name="base"),
    channels=(32, 96),
    blocks=(0, 3),
    ssim_weight=2.0,
    rate_weight=0.095,
    prior_channels=64,
    prior_layers=8,
    prior_heads=0,
    vqvae_epochs=8,
    vqvae_batch=16,
    vqvae_crop=160,
    prior_epochs=8,
)

PRESETS: dict[str, Preset] = {
    "base": Preset(name="base"),
    "heads": _HEADS,
    "large": _LARGE,
    # The same slices and codes as large, and priors that can be given neighbouring levels. The finer one starts from
    # large's: what it knows of single slices it need not learn again.
    "large-heads": replace(
        _LARGE, name="large-heads", coarse=_HEADS, prior_neighbours=4, prior_epochs=5, prior_rate=6e-4
    ),
    # Small ones, to see that everything works: one stage, and a cascade.
    "smoke": _SMOKE,
    "smoke-large": replace(
        _SMOKE, name="smoke-large", size=160, codebook_size=64, code_dim=8, coarse=_SMOKE, blocks=(0, 1), vqvae_crop=96
    ),
}
