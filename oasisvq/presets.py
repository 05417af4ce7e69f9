"""Every size, seed and schedule in one frozen place: a preset is stored beside the weights it made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from oasisvq.errors import OasisVQError


@dataclass(frozen=True)
class Preset:
    """The whole recipe of one pair of models. Sizes are in pixels or codes, widths in channels, rates per step."""

    name: str

    # The slice and its grid: two stride-2 convolutions, so a grid is a quarter of the slice.
    size: int = 80
    codebook_size: int = 512
    code_dim: int = 32

    # VQ-VAE: channels at half and at quarter resolution, residual blocks there a side.
    channels_fine: int = 64
    channels_coarse: int = 128
    blocks_fine: int = 1
    blocks_coarse: int = 3

    # VQ-VAE losses and codebook (van den Oord et al. 2017; Razavi et al. 2019 for the moving averages).
    foreground_weight: float = 3.0
    ssim_weight: float = 0.5
    commitment_weight: float = 0.25
    codebook_decay: float = 0.99
    codebook_warmup: int = 200

    # PixelCNN: channels, gated layers, heads of the causal attention after the first and the second third of them.
    prior_channels: int = 96
    prior_layers: int = 12
    prior_heads: int = 4
    prior_dropout: float = 0.1

    # What a draw can be conditioned on: the level of the slice and the clinical dementia rating (CDR) of the person.
    levels: int = 32
    grades: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)

    # Schedules: one warm-up and cosine cycle each.
    batch: int = 32
    vqvae_epochs: int = 26
    vqvae_rate: float = 1e-3
    prior_epochs: int = 16
    prior_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0

    @property
    def grid(self) -> int:
        """Side of the index grid: (grid, grid) codes a slice."""
        return self.size // 4

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"grades": list(self.grades)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preset:
        """Inverse of `to_dict`. Raises OasisVQError when a field is unknown or missing."""
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            odd = sorted(set(values) ^ known)
            raise OasisVQError(
                f"preset has unknown or missing fields {odd}: these weights need another oasisvq version"
            )
        return cls(**(values | {"grades": tuple(values["grades"])}))


PRESETS: dict[str, Preset] = {
    "base": Preset(name="base"),
    "smoke": Preset(
        name="smoke",
        channels_fine=24,
        channels_coarse=32,
        blocks_coarse=1,
        prior_channels=32,
        prior_layers=4,
        codebook_warmup=20,
        vqvae_epochs=4,
        prior_epochs=3,
    ),
}
