"""Two processes on two halves of a batch learn what one learns on the whole, through Accelerate as users launch it."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_weights import TINY
from torch.nn.parallel import DistributedDataParallel

from oasisvq.vqvae import VQVAE

BATCH, STEPS = 64, 12
# So few steps for a code to be used in that some die and are restarted while the test looks.
PRESET = replace(TINY, size=32, codebook_size=32, codebook_decay=0.6, codebook_warmup=4)


def batches() -> torch.Tensor:
    """(STEPS, BATCH, 1, S, S): blobs on black, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(*[torch.arange(PRESET.size) - PRESET.size / 2] * 2, indexing="ij")
    wide, tall, grey = (torch.rand(STEPS, BATCH, 1, 1, 1, generator=generator) for _ in range(3))
    inside = (rows / (6 + 8 * tall)) ** 2 + (columns / (6 + 8 * wide)) ** 2 < 1
    return torch.where(inside, grey * (1 + 0.1 * torch.rand(inside.shape, generator=generator)), 0.0).clamp(0, 1) - 0.5


def learn(rank: int, world: int, port: int, out: Path) -> None:
    """Train for STEPS on the share of `rank`; write its state and how often a code was restarted."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if world > 1:
        dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.manual_seed(0)
    raw = VQVAE(PRESET)
    model = DistributedDataParallel(raw) if world > 1 else raw
    optimiser = torch.optim.AdamW(raw.parameters(), 1e-3)
    restarts = 0
    for whole in batches():
        share = whole.chunk(world)[rank]
        restarts += int((raw.quantiser.counts < raw.quantiser.DEAD).sum())
        output, quantised = model(share)
        ((output - share).square().mean() + 0.25 * quantised.commitment).backward()
        optimiser.step()
        optimiser.zero_grad()
    torch.save({"state": raw.state_dict(), "restarts": restarts}, out / f"{world}_{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_of_32_learn_the_codebook_of_one_of_64(tmp_path: Path) -> None:
    learn(0, 1, 0, tmp_path)
    mp.start_processes(learn, (2, free_port(), tmp_path), nprocs=2, start_method="spawn")
    one, first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("1_0.pt", "2_0.pt", "2_1.pt"))
    assert one["restarts"] > PRESET.codebook_size, "codes died after the first step too"
    assert one["restarts"] == first["restarts"] == second["restarts"]
    for name, tensor in one["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), f"{name} differs between the two"
        torch.testing.assert_close(first["state"][name], tensor, rtol=1e-3, atol=1e-4, msg=f"{name} differs from one")
    codebook = one["state"]["quantiser.codebook"]
    torch.testing.assert_close(first["state"]["quantiser.codebook"], codebook, rtol=1e-4, atol=1e-5)
