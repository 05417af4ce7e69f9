"""What test_processes.py launches: `accelerate launch --multi_gpu --num_processes 2 two_processes.py DATA OUT`."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState
from tiny_weights import TINY
from torch.nn.parallel import DistributedDataParallel

from oasisvq.models.vqvae import VQVAE
from oasisvq.training.loop import train_prior, train_vqvae

BATCH, STEPS = 64, 12
# A codebook so quick to forget that codes die, and are restarted, while the test looks.
PRESET = replace(TINY, size=32, codebook_size=32, codebook_decay=0.6, codebook_warmup=4)
SHORT = replace(PRESET, levels=8, vqvae_epochs=2, prior_epochs=2, vqvae_batch=16, prior_batch=16)


def batches() -> torch.Tensor:
    """(STEPS, BATCH, 1, S, S): ellipses on black, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(*[torch.arange(PRESET.size) - PRESET.size / 2] * 2, indexing="ij")
    wide, tall, grey = (torch.rand(STEPS, BATCH, 1, 1, 1, generator=generator) for _ in range(3))
    inside = (rows / (6 + 8 * tall)) ** 2 + (columns / (6 + 8 * wide)) ** 2 < 1
    return torch.where(inside, grey * (1 + 0.1 * torch.rand(inside.shape, generator=generator)), 0.0).clamp(0, 1) - 0.5


def learn(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Train for STEPS on the share of `rank`: the state afterwards, and how many codes were dead in all."""
    torch.manual_seed(0)
    raw = VQVAE(PRESET)
    model = DistributedDataParallel(raw) if world > 1 else raw
    optimiser = torch.optim.AdamW(raw.parameters(), 1e-3)
    dead = 0
    for whole in batches():
        share = whole.chunk(world)[rank]
        dead += int((raw.quantiser.counts < raw.quantiser.DEAD).sum())
        output, quantised = model(share)
        ((output - share).square().mean() + 0.25 * quantised.commitment).backward()
        optimiser.step()
        optimiser.zero_grad()
    return {**raw.state_dict(), "dead": torch.tensor(dead)}


if __name__ == "__main__":
    data, out = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    PartialState(cpu=True)
    torch.save(learn(dist.get_rank(), dist.get_world_size()), out / f"{dist.get_rank()}.pt")
    for train in (train_vqvae, train_prior):
        train(SHORT, data, out, "fp32")
