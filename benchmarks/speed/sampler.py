"""Speed of the cached sampler beside one parallel forward pass (the floor: every product once) and naive drawing.

    python -m oasisvq benchmark sampler --weights base --batch 1 16 --threads 2 --json sampler.json
    python -m oasisvq benchmark sampler --batch 1 --grid 10 20 40 64 --threads 2 --figure sampler.svg --json grid.json

Ratios come from one process: forward pass, draw and naive step take turns, and medians are compared. A naive draw
repeats the same step, a full forward pass and one pick, once a position; its time is extrapolated from the median step.

The trained prior of --weights is timed on its own grid, since what is likely decides how often a pick is close enough
to a border to be made again in double precision (see `oasisvq.models.sampling`). Other grids get a network of the
same sizes with random weights.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch

from benchmarks._export import export
from oasisvq import OasisVQ
from oasisvq.measure.record import write_record
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import PRESETS, Preset
from oasisvq.models.sampling import in_double, sample


def build(preset: Preset, grid: int) -> PixelCNN:
    """The prior of a preset on grid x grid cells, with random weights."""
    torch.manual_seed(0)
    return PixelCNN(replace(preset, size=grid << len(preset.channels))).eval()


def measure(
    prior: PixelCNN, preset: Preset, batch: int, threads: int, device: str = "cpu", repeats: int = 7
) -> dict[str, Any]:
    """One row: seconds for a forward pass, a cached draw and a naive draw of `batch` grids of codes."""
    torch.set_num_threads(threads)
    prior = prior.to(device)
    height, width = prior.grid
    indices = torch.randint(preset.codebook_size, (batch, height, width), device=device)
    level = torch.zeros(batch, dtype=torch.long, device=device)
    size = height * preset.cell
    picture = torch.zeros(batch, 1, size, size, device=device) if preset.coarse else None

    @torch.inference_mode()
    def forward() -> None:
        prior(indices, level, level, picture=picture)

    @torch.inference_mode()
    def naive_step() -> None:
        torch.multinomial(prior(indices, level, level, picture=picture)[:, :, 0, 0].softmax(1), 1)

    seeds = itertools.count()
    exact = in_double(prior)  # as `OasisVQ` keeps it

    def cached() -> None:
        sample(prior, batch, seed=next(seeds), level=preset.levels // 2, grade=0, picture=picture, exact=exact)

    forward_s, cached_s, step_s = medians([forward, cached, naive_step], repeats)
    naive_s = step_s * height * width
    return {
        "grid": f"{height}x{width}",
        "batch": batch,
        "threads": threads,
        "device": device,
        "network": f"{preset.prior_layers} layers x {preset.prior_channels} channels, {preset.codebook_size} codes",
        "forward_s": forward_s,
        "cached_s": cached_s,
        "naive_s": naive_s,
        "cached_over_forward": cached_s / forward_s,
        "naive_over_cached": naive_s / cached_s,
        "cached_us_per_code": cached_s / (batch * height * width) * 1e6,
        "repeats": repeats,
    }


def measure_whole(model: OasisVQ, batch: int, threads: int, repeats: int = 7) -> dict[str, Any]:
    """Seconds for `batch` slices from the first code to the picture, and for one forward pass of all that is run."""
    torch.set_num_threads(threads)
    preset, seeds = model.preset, itertools.count()
    codes = model.sample(batch, level=preset.levels // 2, grade=0.0).indices

    def forward() -> None:
        model.surprise(codes, preset.levels // 2, 0.0)
        model.decode(codes)

    def draw() -> None:
        model.sample(batch, seed=next(seeds), level=preset.levels // 2, grade=0.0)

    forward_s, draw_s = medians([forward, draw], repeats)
    return {
        "grid": " + ".join(f"{height}x{width}" for height, width in preset.parts),
        "batch": batch,
        "threads": threads,
        "forward_s": forward_s,
        "draw_s": draw_s,
        "draw_over_forward": draw_s / forward_s,
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
    parser.add_argument("--weights", metavar="DIR|REPO", help="time this trained prior on its grid")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="base", help="without --weights")
    parser.add_argument("--grid", type=int, nargs="+", help="sides of the grid, in cells (default: the preset's)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--figure", type=Path, help="draw the cost of a code against the grid here, SVG or PNG")
    options = parser.parse_args(arguments)
    model = OasisVQ.from_pretrained(options.weights, device="cpu") if options.weights else None
    rows = run(options, model)
    if options.figure:
        export(growth(rows), options.figure, width=760)
    if options.json:
        files = model.info["files"] if model else {}
        write_record(options.json, {"rows": rows, "weights_sha256": {name: files[name]["sha256"] for name in files}})


def run(options: argparse.Namespace, model: OasisVQ | None) -> list[dict[str, Any]]:
    """Measures and prints every row asked for."""
    preset = model.preset if model else PRESETS[options.preset]

    print(f"{'grid':>7} {'batch':>5} {'threads':>7} {'forward':>10} {'cached':>10} {'naive':>10}  ratios")
    rows = []
    for side in options.grid or [preset.side]:
        prior = model.prior if model and side == preset.side else build(preset, side)
        for batch in options.batch:
            for threads in options.threads:
                row = measure(prior, preset, batch, threads, options.device, options.repeats)
                rows.append(row)
                print(
                    f"{row['grid']:>7} {batch:>5} {threads:>7} {row['forward_s']:>8.4f} s {row['cached_s']:>8.4f} s "
                    f"{row['naive_s']:>8.1f} s  cached / forward {row['cached_over_forward']:.2f}, "
                    f"naive / cached {row['naive_over_cached']:.0f}, {row['cached_us_per_code']:.0f} us a code",
                    flush=True,
                )
    if model is None or options.grid:
        return rows
    for batch in options.batch:
        for threads in options.threads:
            row = measure_whole(model, batch, threads, options.repeats)
            rows.append(row)
            print(
                f"whole slices, {row['grid']}, batch {batch}, {threads} threads: {row['draw_s']:.3f} s, "
                f"{row['draw_over_forward']:.2f} times one forward pass of all that is run ({row['forward_s']:.3f} s)",
                flush=True,
            )
    return rows


def growth(rows: list[dict[str, Any]]) -> go.Figure:
    """Microseconds a code against the number of codes in the grid: cached, naive, and the floor of one forward pass."""
    figure = go.Figure()
    kinds = {
        "naive": ("naive_s", "#7a8794"),
        "cached": ("cached_s", "#d55e00"),
        "one forward pass": ("forward_s", "#0f7d74"),
    }
    rows = [row for row in rows if "naive_s" in row]
    for batch in sorted({row["batch"] for row in rows}):
        chosen = [row for row in rows if row["batch"] == batch]
        codes = [math.prod(map(int, row["grid"].split("x"))) for row in chosen]
        for name, (key, colour) in kinds.items():
            figure.add_scatter(
                x=codes,
                y=[row[key] / (batch * n) * 1e6 for row, n in zip(chosen, codes, strict=True)],
                name=f"{name}, batch {batch}",
                mode="lines+markers",
                line={"color": colour, "dash": "solid" if batch == 1 else "dash"},
            )
    figure.update_xaxes(type="log", title="codes in the grid", tickvals=codes, ticktext=[r["grid"] for r in chosen])
    figure.update_yaxes(type="log", title="microseconds a code")
    figure.update_layout(margin={"l": 0, "r": 0, "t": 8, "b": 0})
    return figure
