"""How much drawn heads hang together like people's, and what the neighbours save: bits, bytes, steps, cuts, copies.

    python -m oasisvq benchmark heads --weights checkpoints/heads --data keras_png_slices_data --json heads.json

As many heads are drawn as people are held out, of their grades. The figures are those of `oasisvq.measure.heads`, taken
at 80 x 80 for every model, and against reconstructions.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks._parser import new_parser
from benchmarks.quality import _video as video
from oasisvq import OasisVQ, OasisVQError
from oasisvq.compress import compress, compress_head, decompress_head
from oasisvq.data.layout import SliceSet, load_for
from oasisvq.data.slices import to_model
from oasisvq.measure import heads, metrics
from oasisvq.measure.record import write_record

SIZE = 80
BATCH = 32


def stacks(data: SliceSet, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole heads of a split, (N, L, S, S) in [-0.5, 0.5], and the grade of each. People without all levels are left
    out."""
    cases = np.array(data.cases)
    starts = [i for i in range(len(data) - levels + 1) if data.levels[i] == 0]
    whole = [
        i
        for i in starts
        if (data.levels[i : i + levels] == np.arange(levels)).all() and len(set(cases[i : i + levels])) == 1
    ]
    if not whole:
        raise OasisVQError(f"no one has all {levels} levels: heads need people with a slice of each")
    return np.stack([data.slices[i : i + levels] for i in whole]), data.grades[whole]


def encode(model: OasisVQ, people: np.ndarray, name: str) -> torch.Tensor:
    """(N, L, S, S) in [-0.5, 0.5] -> codes (N, L, h, w)."""
    return torch.stack(
        [
            torch.cat([model.encode(part) for part in torch.from_numpy(head)[:, None].split(BATCH)])
            for head in tqdm(people, f"encoding {name}", disable=None, leave=False)
        ]
    )


def decode(model: OasisVQ, codes: torch.Tensor) -> np.ndarray:
    """Codes (N, L, h, w) -> pictures (N, L, S, S) in [0, 1]."""
    return np.stack([torch.cat([model.decode(part)[:, 0] for part in head.split(BATCH)]) for head in codes]) + 0.5


def small(heads: np.ndarray) -> np.ndarray:
    """Pictures (N, L, S, S) in [0, 1] -> (N, L, SIZE, SIZE)."""
    return np.stack([to_model(head, SIZE) for head in heads]) + 0.5


def savings(model: OasisVQ, codes: torch.Tensor, grades: np.ndarray) -> dict[str, Any]:
    """Bytes of whole files: a file a slice, and a file a head, which is read back."""
    levels, alone, together = range(codes.shape[1]), [], []
    for head, grade in zip(tqdm(codes, "writing heads", disable=None, leave=False), grades.tolist(), strict=True):
        alone.append(sum(map(len, compress(model, head, levels, [grade] * len(head)))) / len(head))
        together.append(len(compress_head(model, head, grade=grade)) / len(head))
    began = time.perf_counter()
    found, _ = decompress_head(model, "head", compress_head(model, codes[0], grade=int(grades[0])))
    seconds = time.perf_counter() - began
    figures: dict[str, Any] = {"exact": bool(torch.equal(found, codes[0])), "seconds_there_and_back": seconds}
    for name, sizes in (("bytes_a_slice_alone", alone), ("bytes_a_slice_of_a_head", together)):
        figures |= {name: float(np.mean(sizes)), f"{name}_ci95": list(metrics.bootstrap_ci95(np.array(sizes)))}
    return figures


def videos(people: np.ndarray, shown: np.ndarray, own_bytes: float) -> dict[str, Any]:
    """The heads as videos, (N, L, S, S) in [0, 1], against files of them that show `shown` in `own_bytes` a slice.

    Between two qualities of a codec, SSIM is taken as linear in the logarithm of the bytes.
    """
    pairs = zip(people.reshape(-1, *people.shape[2:]), shown.reshape(-1, *people.shape[2:]), strict=True)
    ssim, brain = np.mean([metrics.similarity(*pair)[:2] for pair in pairs], axis=0).tolist()
    figures: dict[str, Any] = {"ssim": ssim, "ssim_foreground": brain, "codecs": {}}
    for name in video.SETTINGS:
        points = sorted(video.curve(people, name), key=lambda point: point.bytes)
        sizes, values = np.log([p.bytes for p in points]), [p.ssim for p in points]
        figures["codecs"][name] = {
            "points": [point._asdict() for point in points],
            "ssim_in_as_many_bytes": float(np.interp(np.log(own_bytes), sizes, values)),
            "bytes_at_this_ssim": float(np.exp(np.interp(ssim, values, sizes))),
        }
    return figures


def bits(model: OasisVQ, codes: torch.Tensor) -> dict[str, float]:
    """Bits a code, level given: with no neighbour known, and with both."""
    levels = list(range(codes.shape[1]))
    kinds = {"alone": False, "both_neighbours": True}
    return {
        name: float(np.mean([float(model.surprise(head, levels, stack=stack).mean()) for head in codes]))
        for name, stack in kinds.items()
    }


def draw(model: OasisVQ, grades: np.ndarray, seed: int) -> tuple[torch.Tensor, float]:
    """A head of each grade, (N, L, h, w), and the seconds of one."""
    drawn, began = [], time.perf_counter()
    for i, grade in enumerate(tqdm(grades.tolist(), "drawing heads", disable=None, leave=False)):
        known = model.preset.grades[grade] if grade < len(model.preset.grades) else None
        drawn.append(model.sample_head(1, seed=seed, first=i, grade=known).indices[0])
    return torch.stack(drawn), (time.perf_counter() - began) / len(drawn)


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights")
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout, with train and test")
    parser.add_argument("--split", choices=("validate", "test"), default="test", help="held-out people (default test)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    figures = run(args)
    show(figures)
    if args.json:
        write_record(args.json, figures)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw as many heads as people are held out, measure them, and weigh the files of the people's."""
    model = OasisVQ.from_pretrained(args.weights)
    preset = model.preset
    splits = (load_for(preset, args.data, s) for s in (args.split, "train"))
    (people, grades), (train, _) = (stacks(split, preset.levels) for split in splits)
    drawn, seconds = draw(model, grades, args.seed)
    codes, train_codes = encode(model, people, args.split), encode(model, train, "train")
    files = savings(model, codes, grades)
    shown, drawn_shown = decode(model, codes), decode(model, drawn)
    # One by one: all training people at full size would take gigabytes.
    train_small = np.concatenate([small(decode(model, head[None])) for head in train_codes])
    return {
        "split": args.split,
        "seed": args.seed,
        "judged_at": SIZE,
        "seconds_a_head": seconds,
        "bits_a_code": bits(model, codes),
        "files": files,
        "step_ratio_full_size": float(heads.steps(drawn_shown).mean() / heads.steps(shown).mean()),
        "videos": videos(people + 0.5, shown, files["bytes_a_slice_of_a_head"]),
        **heads.measure(small(drawn_shown), small(shown), train_small, args.seed),
        "weights_sha256": model.weights_sha256,
    }


def show(figures: dict[str, Any]) -> None:
    """The figures as lines to read."""
    files, auc, copies = figures["files"], figures["auc"], figures["copies"]
    print(f"{figures['heads']} drawn heads, {figures['people']} held-out people ({figures['split']})")
    print(f"  bits a code alone, with both neighbours   {figures['bits_a_code']['alone']:.3f}", end="")
    print(f"  {figures['bits_a_code']['both_neighbours']:.3f}")
    print(f"  bytes a slice, a file each                {files['bytes_a_slice_alone']:.1f}")
    print(f"  bytes a slice, a file a head              {files['bytes_a_slice_of_a_head']:.1f}")
    for name, row in figures["videos"]["codecs"].items():
        print(f"  {name}: SSIM {row['ssim_in_as_many_bytes']:.3f} in as many bytes, ours ", end="")
        print(f"{figures['videos']['ssim']:.3f}; as clear in {row['bytes_at_this_ssim']:.1f} bytes")
    least, most = figures["step_ratio_least"], figures["step_ratio_most"]
    print(
        f"  steps between levels, draws over people   {figures['step_ratio']:.3f}  ({least:.2f} to {most:.2f})", end=""
    )
    print(f"; at full size {figures['step_ratio_full_size']:.3f}")
    for name in ("coronal", "sagittal", "single levels"):
        by = auc[f"{name} by seed"]
        print(f"  AUC, {name:36} {auc[name]:.3f}  ({min(by):.2f} to {max(by):.2f})")
    for name, row in figures["anatomy"].items():
        print(f"  {name:41} {row['drawn_mean']:.4f}  people {row['people_mean']:.4f}  ratio {row['ratio']:.2f}")
    print(f"  nearest training head, draws, people      {copies['drawn_median']:.4f}  {copies['people_median']:.4f}")
    print(f"  seconds a head                            {figures['seconds_a_head']:.1f}")
