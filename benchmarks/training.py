"""Training speed: slices a second beside MONAI's VQ-VAE of about equal arithmetic, and the share of the machine's peak.

    pip install monai && python -m oasisvq benchmark training [--batch 32] [--rounds 5] [--json FILE]

Both take the same steps (forward, loss, backward, AdamW) on the same random slices in one process and by turns, so that
a noisy machine slows both. The peak is the best of several large matrix products in the same precision. Arithmetic is
counted by PyTorch's own counter. Without MONAI only our own figures are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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
        self.model = VQVAE(PRESETS["base"]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

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


def peak(dtype: torch.dtype, device: torch.device) -> float:
    """The best of ten matrix products, in floating-point operations a second."""
    side = 2048
    a = torch.randn(side, side, device=device).to(dtype)

    def product() -> float:
        return float((a @ a)[0, 0])

    product()
    return 2 * side**3 / min(seconds(product) for _ in range(10))


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each precision."""
    parser = argparse.ArgumentParser(
        "python -m oasisvq benchmark training", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    slices = (torch.rand(args.batch, 1, 80, 80) - 0.5).to(device)
    torch.manual_seed(0)
    models: dict[str, Ours | Peer] = {"ours": Ours().to(device).train()}
    try:
        wanted = flops(models["ours"], slices)
        peers = {width: Peer(width).to(device).train() for width in range(64, 129, 8)}
        models["monai"] = min(peers.values(), key=lambda peer: abs(flops(peer, slices) - wanted))
    except ImportError:
        print("MONAI is not installed: pip install monai, for the comparison")
    rows = []
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        top = peak(dtype, device)
        steps = {key: stepper(model, slices, dtype) for key, model in models.items()}
        for step in steps.values():  # warm-up
            step()
        times: dict[str, list[float]] = {key: [] for key in steps}
        for _ in range(args.rounds):
            for key, step in steps.items():
                times[key].append(seconds(step))
        row: dict[str, Any] = {"precision": name, "peak_gflops": top / 1e9}
        for key, model in models.items():
            middle = statistics.median(times[key])
            work = flops(model, slices)
            row |= {
                f"{key}_slices_per_second": args.batch / middle,
                f"{key}_gflop_per_slice": work / args.batch / 1e9,
                f"{key}_share_of_peak": work / middle / top,
            }
        if "monai" in models:
            row["ours_over_monai"] = row["ours_slices_per_second"] / row["monai_slices_per_second"]
        rows.append(row)
    figures = {"device": str(device), "threads": torch.get_num_threads(), "batch": args.batch, "rows": rows}
    print(f"{device}, {figures['threads']} threads, batch {args.batch}, medians of {args.rounds} steps")
    for row in rows:
        print("  ".join(f"{key} {value:.3g}" if isinstance(value, float) else value for key, value in row.items()))
    if args.json:
        write_record(args.json, figures)


if __name__ == "__main__":
    main()
