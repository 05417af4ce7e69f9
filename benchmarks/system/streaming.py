"""Memory and speed of the loader as a set grows, without so many pictures.

    python -m oasisvq benchmark streaming [--slices 10000 100000 1000000] [--json FILE]

The set is hard links to a few small pictures, so that it has all the names and none of the weight; its slices are
decoded to `--size` pixels, into a file, whatever their number. Memory is that of a fresh process for each number,
beyond its imports: after the set is opened, at its peak while decoding, and while a shuffled loader takes batches.
Beside it the loader at the size of the base preset, from a file that the system does not hold in memory, against
training steps of the VQ-VAE in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._parser import new_parser

LEVELS = 32
MEBI = 2**20


def write_links(root: Path, slices: int, pixels: int) -> None:
    """A training split of `slices` names for LEVELS pictures."""
    folder = root / "keras_png_slices_train"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for level in range(LEVELS):
        picture = np.zeros((pixels, pixels), np.uint8)
        inner = slice(pixels // 4, -pixels // 4)
        picture[inner, inner] = rng.integers(60, 250, picture[inner, inner].shape, np.uint8)
        Image.fromarray(picture).save(root / f"{level}.png")
    for i in range(slices):
        person, level = divmod(i, LEVELS)
        # A file has at most 65,000 names on the usual file systems.
        os.link(root / f"{level}.png", folder / f"case_{person:06d}_slice_{level}.nii.png")


def held() -> float:
    """Memory of this process now, in MiB."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEBI


def peak() -> float:
    """The most that it ever was."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def batches(data: Any, count: int) -> Iterator[Any]:
    """Shuffled batches of 32, epoch after epoch."""
    from torch.utils.data import DataLoader

    from oasisvq.training.loop import Shuffle

    loader = DataLoader(data, 32, sampler=Shuffle(len(data), seed=0), drop_last=True)
    while True:
        for batch in loader:
            yield batch
            count -= 1
            if not count:
                return


def measure(root: Path, size: int) -> dict[str, Any]:
    """Open, decode and load: run in a fresh process."""
    from oasisvq.data import layout
    from oasisvq.training import loop  # noqa: F401 - its imports are those of a training

    layout.IN_MEMORY = 0
    before = held()
    started = time.perf_counter()
    data = layout.load_split(root, "train", size)
    decoded = time.perf_counter() - started
    opened, highest = held() - before, peak() - before
    del data
    started = time.perf_counter()
    data = layout.load_split(root, "train", size)
    again = time.perf_counter() - started
    for _ in batches(data, 1000):
        pass
    return {
        "slices": len(data),
        "decode_seconds": decoded,
        "reopen_seconds": again,
        "imports_mib": before,
        "opened_mib": opened,
        "decoding_peak_mib": highest,
        "loading_peak_mib": peak() - before,
        "in_memory_would_be_mib": len(data) * size**2 * 4 / MEBI,
    }


def race(root: Path) -> dict[str, Any]:
    """Slices a second of decoding, of the loader on a cold file, and of training, at the size of the base preset."""
    import torch

    from oasisvq.data import layout
    from oasisvq.models.presets import PRESETS
    from oasisvq.models.vqvae import VQVAE

    preset = PRESETS["base"]
    layout.IN_MEMORY = 0
    started = time.perf_counter()
    data = layout.load_split(root, "train", preset.size)
    figures = {"decoding": len(data) / (time.perf_counter() - started)}
    with open(str(data.slices.filename), "rb") as file:  # type: ignore[attr-defined]
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    started = time.perf_counter()
    taken = sum(len(batch["slice"]) for batch in batches(data, len(data) // 32))
    figures["loading"] = taken / (time.perf_counter() - started)

    model = VQVAE(preset).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
    times = []
    for batch in batches(data, 8):
        started = time.perf_counter()
        output, quantised = model(batch["slice"])
        ((output - batch["slice"]).abs().mean() + quantised.commitment).backward()
        optimiser.step()
        optimiser.zero_grad()
        times.append(time.perf_counter() - started)
    figures["training"] = 32 / statistics.median(times[2:])
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each number of slices, and the race."""
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--slices", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--race", type=int, default=3200, help="slices that speed is measured on (default 3200)")
    parser.add_argument("--size", type=int, default=16, help="pixels that slices are decoded to")
    parser.add_argument("--folder", type=Path, help="where to make the sets (default: the system's temporary folder)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure:
        print(json.dumps(measure(args.measure, args.size)))
        return
    rows = []
    for count in args.slices:
        with tempfile.TemporaryDirectory(dir=args.folder) as root:
            write_links(Path(root), count, pixels=16)
            command = [sys.executable, "-m", "oasisvq", "benchmark", "streaming"]
            command += ["--measure", root, "--size", str(args.size)]
            rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print("  ".join(f"{key} {value:,.0f}" for key, value in rows[-1].items()), flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as root:
        write_links(Path(root), args.race, pixels=256)
        speeds = race(Path(root))
    print("slices a second: " + "  ".join(f"{key} {value:,.0f}" for key, value in speeds.items()))
    if args.json:
        from oasisvq.measure.record import write_record

        write_record(args.json, {"size": args.size, "rows": rows, "slices_per_second": speeds})
