"""Training speed: slices a second beside MONAI's VQ-VAE of about equal arithmetic.

    python -m oasisvq benchmark training [--batch 32] [--rounds 5] [--json FILE]

All take the same steps (forward, L1 and commitment loss, backward, AdamW) on the same random slices in one process and
by turns, so that a noisy machine slows all. Ours runs channels-last, as in training; MONAI's in either memory format,
and the faster of the two counts. Arithmetic is counted by PyTorch's own counter. A training does more in each step
(augmentation, SSIM in the loss, loading): what it reaches stands in its log, and docs/training.md has it. Needs MONAI.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._parser import new_parser
from oasisvq.measure.record import write_record
from oasisvq.models.presets import PRESETS
from oasisvq.models.vqvae import VQVAE


class Peer(nn.Module):
    """MONAI's VQ-VAE with two stride-2 stages, the same codebook, and widths that give about the same arithmetic."""

    def __init__(self, width: int) -> None:
        super().__init__()
        from monai.networks.nets import VQVAE as MonaiVQVAE

        preset = PRESETS["base"]
        self.model = MonaiVQVAE(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(width, width),
            num_res_layers=2,
            num_res_channels=(width, width),
            downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
            upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
            num_embeddings=preset.codebook_size,
            embedding_dim=preset.code_dim,
        )

    def loss(self, slices: Tensor) -> Tensor:
        output, commitment = self.model(slices)
        return (output - slices).abs().mean() + commitment


class Ours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = VQVAE(PRESETS["base"])

    def loss(self, slices: Tensor) -> Tensor:
        output, quantised = self.model(slices)
        return (output - slices).abs().mean() + 0.25 * quantised.commitment


def flops(model: Ours | Peer, slices: Tensor) -> float:
    """Multiplications and additions of one forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        model.loss(slices).backward()
    return float(counter.get_total_flops())


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def stepper(model: Ours | Peer, slices: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        with torch.autocast(slices.device.type, dtype, enabled=dtype != torch.float32):
            loss = model.loss(slices)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        loss.item()  # waits for a GPU

    return step


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each precision."""
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    slices = (torch.rand(args.batch, 1, 80, 80) - 0.5).to(device)
    torch.manual_seed(0)
    ours = Ours().to(device).train()
    wanted = flops(ours, slices)
    peers = [Peer(width).to(device).train() for width in range(64, 129, 8)]
    peer = min(peers, key=lambda peer: abs(flops(peer, slices) - wanted))
    last: Any = {"memory_format": torch.channels_last}
    models: dict[str, Ours | Peer] = {
        "ours": ours.to(**last),
        "monai": peer,
        "monai_channels_last": copy.deepcopy(peer).to(**last),
    }
    rows = []
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        steps = {key: stepper(model, slices, dtype) for key, model in models.items()}
        for step in steps.values():  # warm-up
            step()
        times: dict[str, list[float]] = {key: [] for key in steps}
        for _ in range(args.rounds):
            for key, step in steps.items():
                times[key].append(seconds(step))
        row: dict[str, Any] = {"precision": name}
        for key, model in models.items():
            row |= {
                f"{key}_slices_per_second": args.batch / statistics.median(times[key]),
                f"{key}_gflop_per_slice": flops(model, slices) / args.batch / 1e9,
            }
        theirs = max(row[f"{key}_slices_per_second"] for key in models if key != "ours")
        row["ours_over_monai"] = row["ours_slices_per_second"] / theirs
        rows.append(row)
    figures = {"device": str(device), "batch": args.batch, "rows": rows}
    print(f"{device}, {torch.get_num_threads()} threads, batch {args.batch}, medians of {args.rounds} steps")
    for row in rows:
        print("  ".join(f"{key} {value:.3g}" if isinstance(value, float) else value for key, value in row.items()))
    if args.json:
        write_record(args.json, figures)
