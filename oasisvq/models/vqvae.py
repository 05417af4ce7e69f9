"""The VQ-VAE: a slice becomes a small grid of codebook indices, and back.

Top to bottom: one residual block, the encoder, the vector quantiser, the decoder, the whole model. The design is van
den Oord et al. 2017 (arXiv:1711.00937) with a codebook learned by exponential moving averages (Razavi et al. 2019,
arXiv:1906.00446). Two choices are ours:

* every convolution pads by replication. Zero is mid-grey for a slice in [-0.5, 0.5], so zero padding would draw a
  bright frame round the black background and the codebook would spend codes on it;
* a dead code restarts at an encoder output drawn with probability proportional to its squared distance from the
  codebook (as k-means++ seeds its centres, Arthur and Vassilvitskii 2007), so that freed codes go to the brain and not
  to the background, which is two thirds of the grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oasisvq.models.presets import Preset


def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size (or halves it, at stride 2) and pads by replication."""
    padding = (kernel - 1) // 2
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, padding_mode="replicate")


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each position: (B, C, h, w), same out.

    Unlike group normalisation it mixes no positions, so an edited code changes the picture near it and nowhere else,
    and a black background is the same to the encoder in every slice.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """x + two convolutions, each after norm and SiLU; the last starts at zero, so that depth costs nothing at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = conv(channels, channels, 3)
        nn.init.zeros_(last.weight)
        self.branch = nn.Sequential(
            ChannelNorm(channels),
            nn.SiLU(),
            conv(channels, channels, 3),
            ChannelNorm(channels),
            nn.SiLU(),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Context(nn.Sequential):
    """Features of pictures in each cell: (B, P, S, S) -> (B, C, h, w).

    Whole pictures are known before the first code, so nothing here is causal.
    """

    def __init__(self, cell: int, channels: int, blocks: int, pictures: int = 1) -> None:
        super().__init__(
            nn.PixelUnshuffle(cell),  # (B, P * cell * cell, h, w)
            conv(pictures * cell * cell, channels, 3),
            *(ResidualBlock(channels) for _ in range(blocks)),
        )


class Encoder(nn.Sequential):
    """(B, 1, S, S) -> (B, D, h, w), halved once for each entry of the preset's channels.

    With a coarse stage the input has a second channel, the coarse picture.
    """

    def __init__(self, preset: Preset) -> None:
        layers: list[nn.Module] = []
        before = 2 if preset.coarse else 1
        for channels, blocks in zip(preset.channels, preset.blocks, strict=True):
            layers += [
                conv(before, channels, 4, stride=2),  # (B, channels, half, half)
                *(ResidualBlock(channels) for _ in range(blocks)),
                ChannelNorm(channels),
                nn.SiLU(),
            ]
            before = channels
        super().__init__(*layers, nn.Conv2d(before, preset.code_dim, 1))


class Decoder(nn.Module):
    """(B, D, h, w) -> (B, 1, S, S). Pixel shuffle (Shi et al. 2016) doubles the size without checkerboards.

    With a coarse stage it takes the coarse picture too, and its output is what to add to it.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(preset.code_dim, preset.channels[-1], 3)]
        finer = [preset.channels[0] // 4, *preset.channels]
        for channels, blocks, after in reversed(list(zip(preset.channels, preset.blocks, finer, strict=False))):
            layers += [
                *(ResidualBlock(channels) for _ in range(blocks)),
                ChannelNorm(channels),
                nn.SiLU(),
                conv(channels, 4 * after, 3),
                nn.PixelShuffle(2),  # (B, after, double, double)
            ]
        self.trunk = nn.Sequential(*layers, nn.SiLU())
        self.last = conv(finer[0], 1, 3)
        self.context = Context(preset.cell, preset.channels[-1], 0) if preset.coarse else None

    def forward(self, codes: Tensor, picture: Tensor | None = None) -> Tensor:
        features = self.trunk[0](codes)
        if self.context is not None:
            features = features + self.context(picture)
        features = self.trunk[1:](features)
        # In full precision even in a half-precision pass: bfloat16 is too coarse near -0.5 to draw black as black.
        with torch.autocast(features.device.type, enabled=False):
            output = self.last(features.to(self.last.weight.dtype))
            return output if picture is None else output + picture


class Quantised(NamedTuple):
    """What the quantiser returns: `codes` (B, D, h, w), `indices` (B, h, w * L), `commitment` the loss, a scalar."""

    codes: Tensor
    indices: Tensor
    commitment: Tensor


class VectorQuantiser(nn.Module):
    """Nearest codebook entry, straight-through gradient, moving-average codebook, restart of dead codes.

    With L codes a cell, each after the first quantises the residual of those before it, all from one codebook (residual
    quantisation, Lee et al. 2022, arXiv:2203.01941). A cell's codes lie side by side in its row.

    Statistics are summed over processes: together they learn the codebook that one would learn from the joint batch.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    steps: Tensor

    DEAD = 0.5  # moving average of uses per step under which a code restarts

    def __init__(self, size: int, dim: int, depth: int, decay: float, warmup: int, rate_weight: float = 0.0) -> None:
        super().__init__()
        self.depth = depth
        self.rate_weight = rate_weight
        self.decay = decay
        # Steps over which quantisation is blended in: at first no moving average keeps up with the encoder.
        self.warmup = warmup
        self.register_buffer("codebook", torch.zeros(size, dim))  # (K, D)
        # All counts start dead: the first training step seeds the codebook from its own data.
        self.register_buffer("counts", torch.zeros(size))  # (K,)
        self.register_buffer("sums", torch.zeros(size, dim))  # (K, D)
        self.register_buffer("steps", torch.zeros(()))

    def nearest(self, z: Tensor) -> Tensor:
        """(N, D) vectors -> (N,) index of the nearest code, the lowest one among equals.

        With a rate weight, distance is traded for bits: rarer codes count as farther (entropy-constrained vector
        quantisation, Chou, Lookabaugh and Gray 1989, doi:10.1109/29.17498).
        """
        # |z - c|^2 less the term |z|^2, which is the same for every code.
        distances = torch.addmm(self.codebook.square().sum(1) + self.rate(), z, self.codebook.t(), alpha=-2)  # (N, K)
        return distances.argmin(1)

    def rate(self) -> Tensor:
        """The penalty for a code's bits, (K,), added to its squared distance: the weight times the spacing of codes,
        for each bit."""
        if not self.rate_weight:
            return torch.zeros_like(self.counts)
        size = len(self.codebook)
        apart = torch.cdist(self.codebook, self.codebook).square()
        spacing = apart.topk(2, largest=False).values[:, 1].mean()  # to the nearest other code
        # A restarted code has hardly been used: with the penalty for all its bits it never would be.
        share = (self.counts / self.counts.sum().clamp_min(1e-5)).clamp_min(0.25 / size)
        return self.rate_weight * (self.steps / self.warmup).clamp(max=1.0) * spacing * -share.log2()

    def assign(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) vectors -> what each of the L codes quantises, (L, N, D), and its index, (L, N)."""
        targets, indices = [z], [self.nearest(z)]
        for _ in range(self.depth - 1):
            targets.append(targets[-1] - F.embedding(indices[-1], self.codebook))
            indices.append(self.nearest(targets[-1]))
        return torch.stack(targets), torch.stack(indices)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w * L) indices -> (B, D, h, w), each cell the sum of its codes."""
        return F.embedding(indices, self.codebook).unflatten(2, (-1, self.depth)).sum(3).permute(0, 3, 1, 2)

    def forward(self, z: Tensor) -> Quantised:
        b, d, h, w = z.shape
        flat = z.float().permute(0, 2, 3, 1).reshape(-1, d)  # (N, D), N = B*h*w
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            if self.training:
                self._restart_dead(flat)
            targets, indices = self.assign(flat)
        chosen = F.embedding(indices, self.codebook).cumsum(0)  # (L, N, D): the sums of the codes up to each
        commitment = F.mse_loss(flat.expand_as(chosen), chosen)
        strength: Tensor | float = 1.0
        if self.training:
            with torch.no_grad():
                self._update(targets.flatten(0, 1), indices.flatten())
            strength = (self.steps / self.warmup).clamp(max=1.0)
        codes = flat + strength * (chosen[-1] - flat).detach()
        return Quantised(codes.view(b, h, w, d).permute(0, 3, 1, 2), _side_by_side(indices, b, h, w), commitment)

    def _update(self, targets: Tensor, indices: Tensor) -> None:
        counts = torch.bincount(indices, minlength=len(self.counts)).to(targets.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, indices, targets)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self.codebook.copy_(self.sums / self.counts.clamp_min(1e-5)[:, None])
        self.steps += 1

    def _restart_dead(self, flat: Tensor) -> None:
        dead = self.counts < self.DEAD
        missing = int(dead.sum())
        if not missing:
            return
        if torch.distributed.is_initialized():  # the same candidates and the same choice everywhere
            everyone = [torch.empty_like(flat) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(everyone, flat.contiguous())
            flat = torch.cat(everyone)
        targets, indices = self.assign(flat)
        candidates = targets.flatten(0, 1)
        distance = (candidates - F.embedding(indices.flatten(), self.codebook)).square().sum(1)
        generator = torch.Generator(flat.device).manual_seed(missing)
        rows = torch.multinomial(distance + 1e-12, missing, replacement=True, generator=generator)
        self.codebook[dead] = candidates[rows]
        # As if the code had had an average share of one step: long enough to find its place.
        self.counts[dead] = 1.0
        self.sums[dead] = candidates[rows]


def _side_by_side(values: Tensor, b: int, h: int, w: int) -> Tensor:
    """(L, B*h*w, ...) -> (B, h, w * L, ...)."""
    return values.unflatten(1, (b, h, w)).movedim(0, 3).flatten(2, 3)


class VQVAE(nn.Module):
    """Encoder, quantiser and decoder. Slices are (B, 1, S, S) in [-0.5, 0.5]; indices (B, h, w * L) in [0, K).

    With a coarse stage every method also takes that stage's picture of the slices: (B, 1, S, S) in [-0.5, 0.5].
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.encoder = Encoder(preset)
        self.quantiser = VectorQuantiser(
            preset.codebook_size,
            preset.code_dim,
            preset.depth,
            preset.codebook_decay,
            preset.codebook_warmup,
            preset.rate_weight,
        )
        self.decoder = Decoder(preset)

    @property
    def codebook(self) -> Tensor:
        """(K, D)."""
        return self.quantiser.codebook

    def forward(self, slices: Tensor, picture: Tensor | None = None) -> tuple[Tensor, Quantised]:
        """(B, 1, S, S) -> the reconstruction, not clipped, and the quantiser's output. For training."""
        quantised = self.quantiser(self._encode(slices, picture))
        return self.decoder(quantised.codes, picture), quantised

    def encode(self, slices: Tensor, picture: Tensor | None = None) -> Tensor:
        """(B, 1, S, S) in [-0.5, 0.5] -> (B, h, w * L) int64 in [0, K)."""
        return self.assign(slices, picture)[1]

    def assign(self, slices: Tensor, picture: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, 1, S, S) in [-0.5, 0.5] -> what each code quantises, (B, h, w * L, D), and its index, (B, h, w * L)."""
        z = self._encode(slices, picture).float()  # (B, D, h, w)
        b, d, h, w = z.shape
        targets, indices = self.quantiser.assign(z.permute(0, 2, 3, 1).reshape(-1, d))
        return _side_by_side(targets, b, h, w), _side_by_side(indices, b, h, w)

    def decode(self, indices: Tensor, picture: Tensor | None = None) -> Tensor:
        """(B, h, w * L) int64 in [0, K) -> (B, 1, S, S) in [-0.5, 0.5]."""
        return self.decoder(self.quantiser.lookup(indices), picture).clamp(-0.5, 0.5)

    def _encode(self, slices: Tensor, picture: Tensor | None) -> Tensor:
        return self.encoder(slices if picture is None else torch.cat([slices, picture], 1))
