"""Speed of the cached sampler beside one parallel forward pass (the floor: every product once) and naive drawing.

    python -m oasisvq benchmark sampler --batch 1 16 --grid 20 --threads 2 --json sampler.json

Ratios come from one process: forward pass, draw and naive step take turns, and medians are compared. Weights are
random: speed does not depend on them. A naive draw repeats the same step, a full forward pass and one pick, once a
position; its time is extrapolated from the median step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from oasisvq.pixelcnn import PixelCNN
from oasisvq.presets import PRESETS, Preset
from oasisvq.sampling import sample


def measure(
    preset: Preset, grid: int, batch: int, threads: int, device: str = "cpu", repeats: int = 7
) -> dict[str, Any]:
    """One row: seconds for a forward pass, a cached draw and a naive draw of `batch` grids of grid x grid codes."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    prior = PixelCNN(replace(preset, size=4 * grid)).to(device).eval()
    indices = torch.randint(preset.codebook_size, (batch, grid, grid), device=device)
    level = torch.zeros(batch, dtype=torch.long, device=device)

    @torch.inference_mode()
    def forward() -> None:
        prior(indices, level, level)

    @torch.inference_mode()
    def naive_step() -> None:
        torch.multinomial(prior(indices, level, level)[:, :, 0, 0].softmax(1), 1)

    forward_s, cached_s, step_s = medians(
        [forward, lambda: sample(prior, batch, level=0, grade=0), naive_step], repeats
    )
    naive_s = step_s * grid * grid
    return {
        "grid": f"{grid}x{grid}",
        "batch": batch,
        "threads": threads,
        "device": device,
        "network": f"{preset.prior_layers} layers x {preset.prior_channels} channels, {preset.codebook_size} codes",
        "forward_s": forward_s,
        "cached_s": cached_s,
        "naive_s": naive_s,
        "cached_over_forward": cached_s / forward_s,
        "naive_over_cached": naive_s / cached_s,
        "cached_us_per_code": cached_s / (batch * grid * grid) * 1e6,
        "repeats": repeats,
    }


def medians(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each function, taken in turns after a warm-up."""
    for function in functions:
        function()
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, seconds, strict=True):
            synchronize()
            start = time.perf_counter()
            function()
            synchronize()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def synchronize() -> None:
    """Waits for a GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> None:
    """Prints a row for every grid, batch and number of threads asked for."""
    parser = argparse.ArgumentParser(
        "python -m oasisvq benchmark sampler",
        description="Speed of the cached sampler beside one forward pass and naive drawing.",
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="base")
    parser.add_argument("--grid", type=int, nargs="+", default=[20], help="sides of the grid, in codes")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)

    print(f"{'grid':>7} {'batch':>5} {'threads':>7} {'forward':>10} {'cached':>10} {'naive':>10}  ratios")
    rows = []
    for grid in options.grid:
        for batch in options.batch:
            for threads in options.threads:
                row = measure(PRESETS[options.preset], grid, batch, threads, options.device, options.repeats)
                rows.append(row)
                print(
                    f"{row['grid']:>7} {batch:>5} {threads:>7} {row['forward_s']:>8.4f} s {row['cached_s']:>8.4f} s "
                    f"{row['naive_s']:>8.1f} s  cached / forward {row['cached_over_forward']:.2f}, "
                    f"naive / cached {row['naive_over_cached']:.0f}, {row['cached_us_per_code']:.0f} us a code",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
