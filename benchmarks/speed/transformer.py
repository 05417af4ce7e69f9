"""The prior beside MONAI's `DecoderOnlyTransformer` of as many parameters: bits per code after equal time, and draws.

    python -m oasisvq benchmark transformer --weights checkpoints/base --data DIR --minutes 60

Both learn the same codes (those that the VQ-VAE of --weights gives to the training people and to their mirror images)
for --minutes each, from new weights, with AdamW, the same batch, warm-up and cosine, the level and grade told, in one
process and by turns of a few seconds, so that a noisy machine slows both. The transformer reads level and grade as its
first two tokens; neither is given the appearance. What counts is bits per code on validation and test people, as the
weights stand when time is up.

Draws (--minutes 0 for these alone): images a second of MONAI's own `VQVAETransformerInferer.sample` and of
`oasisvq.models.sampling.sample`, both with our decoder at the end, medians of three; speed does not depend on the
weights. MONAI's runs its whole network again for every code: it keeps nothing of the codes before. Ours does.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._parser import new_parser
from oasisvq import OasisVQ
from oasisvq.data.layout import load_for
from oasisvq.measure.record import write_record
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import Preset
from oasisvq.models.sampling import sample

DEPTH, HEADS = 8, 4
UNKNOWN = 0.1  # share of slices whose level, or grade, is hidden in training, as our own training does
TURN = 5.0  # seconds


def transformer(preset: Preset, parameters: int, tokens: int, length: int) -> nn.Module:
    """MONAI's transformer, DEPTH blocks wide enough to have about `parameters` parameters."""
    from monai.networks.nets import DecoderOnlyTransformer

    def build(width: int) -> nn.Module:
        return DecoderOnlyTransformer(
            num_tokens=tokens,
            max_seq_len=length,
            attn_layers_dim=width,
            attn_layers_depth=DEPTH,
            attn_layers_heads=HEADS,
            embedding_dropout_rate=preset.prior_dropout,
            use_flash_attention=True,
        )

    widths = range(4 * HEADS, 1024, HEADS)
    with torch.device("meta"):
        width = min(widths, key=lambda width: abs(count(build(width)) - parameters))
    return build(width)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


class Peer(nn.Module):
    """MONAI's transformer behind the signature of `PixelCNN.forward`."""

    def __init__(self, preset: Preset, parameters: int) -> None:
        super().__init__()
        self.codes, self.levels = preset.codebook_size, preset.levels + 1
        tokens = self.codes + self.levels + len(preset.grades) + 1
        self.model = transformer(preset, parameters, tokens, preset.codes + 1)

    def forward(self, indices: Tensor, level: Tensor, grade: Tensor) -> Tensor:
        told = torch.stack([self.codes + self.levels + grade, self.codes + level], dim=1)
        logits = self.model(torch.cat([told, indices.flatten(1)[:, :-1]], dim=1))[:, 1:, : self.codes]
        return logits.mT.unflatten(2, indices.shape[1:])


class Codes(NamedTuple):
    """Codes (N, h, w), levels and grades (N,)."""

    indices: Tensor
    level: Tensor
    grade: Tensor


def encode(model: OasisVQ, data: Path, split: str, mirrored: bool) -> Codes:
    preset = model.preset
    slices = load_for(preset, data, split)
    shown, level, grade = (torch.from_numpy(x) for x in (slices.slices, slices.levels, slices.grades))
    sides = [shown, shown.flip(2)] if mirrored else [shown]
    indices = torch.cat([model.encode(part[:, None]) for side in sides for part in side.split(64)])
    return Codes(indices, level.long().repeat(len(sides)), grade.long().repeat(len(sides)))


class Run:
    """One model in training, and the time that it has had."""

    def __init__(self, name: str, model: nn.Module, rate: float) -> None:
        self.name, self.model, self.rate = name, model, rate
        self.spent, self.steps = 0.0, 0
        self.optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-2)


def train(run: Run, codes: Codes, seconds: float, budget: float, preset: Preset, half: bool) -> None:
    """Goes on for about `seconds` of the whole `budget`. The rate follows the share of the budget that is spent."""
    generator = torch.Generator().manual_seed(run.steps)
    run.model.train()
    end = min(run.spent + seconds, budget)
    while run.spent < end:
        started = time.perf_counter()
        share = run.spent / budget
        for group in run.optimiser.param_groups:
            group["lr"] = run.rate * min(1.0, share * 20 + 1e-2) * 0.5 * (1 + math.cos(math.pi * share))
        rows = torch.randint(len(codes.indices), (preset.prior_batch,), generator=generator)
        hidden = torch.rand(2, len(rows), generator=generator) < UNKNOWN
        level = codes.level[rows].masked_fill(hidden[0], preset.levels)
        grade = codes.grade[rows].masked_fill(hidden[1], len(preset.grades))
        indices = codes.indices[rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = F.cross_entropy(run.model(indices, level, grade).float(), indices)
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimiser.step()
        run.optimiser.zero_grad()
        run.steps += 1
        run.spent += time.perf_counter() - started


@torch.inference_mode()
def bits(model: nn.Module, codes: Codes) -> float:
    """Mean over slices, level and grade told as far as they are known."""
    model.eval()
    parts = zip(*(x.split(32) for x in (codes.indices, codes.level, codes.grade)), strict=True)
    total = sum(F.cross_entropy(model(i, at, g), i).item() * len(i) for i, at, g in parts)
    return total / len(codes.indices) / math.log(2)


def compare_bits(model: OasisVQ, data: Path, minutes: float, rate: float, peer_rate: float) -> list[dict[str, Any]]:
    """Trains both and returns a row for each."""
    preset = model.preset
    half = torch.cpu.get_capabilities().get("avx512_bf16", False)
    learnt, validation, test = (encode(model, data, s, s == "train") for s in ("train", "validate", "test"))
    torch.manual_seed(preset.seed)
    ours = PixelCNN(preset).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    runs = [Run("PixelCNN", ours, rate), Run("MONAI DecoderOnlyTransformer", Peer(preset, count(ours)), peer_rate)]
    budget, told = 60 * minutes, 0.0
    while any(run.spent < budget for run in runs):
        for run in runs:
            train(run, learnt, TURN, budget, preset, half)
        if runs[0].spent >= told:
            shown = "  ".join(f"{r.name}: {r.steps} steps, {bits(r.model, validation):.3f} bits" for r in runs)
            print(f"{runs[0].spent / 60:6.1f} min  {shown}", flush=True)
            told += max(60.0, budget / 20)
    return [
        {
            "name": run.name,
            "parameters": count(run.model),
            "minutes": run.spent / 60,
            "steps": run.steps,
            "rate": run.rate,
            "precision": "bf16" if half else "fp32",
            "validation_bits_per_code": bits(run.model, validation),
            "test_bits_per_code": bits(run.model, test),
        }
        for run in runs
    ]


class Decoder:
    """What MONAI's inferer asks of a VQ-VAE: ours."""

    def __init__(self, model: OasisVQ) -> None:
        self.model, self.num_embeddings = model, model.preset.codebook_size

    def decode_samples(self, indices: Tensor) -> Tensor:
        return self.model.decode(indices)


def compare_draws(model: OasisVQ, batch: int, repeats: int) -> dict[str, Any]:
    """Seconds and images a second of both, `batch` images at a time."""
    from monai.inferers import VQVAETransformerInferer
    from monai.utils.ordering import Ordering

    preset = model.preset
    grid = preset.grid
    peer = transformer(preset, count(model.prior), preset.codebook_size + 1, preset.codes).eval()
    start = torch.full((batch, 1), preset.codebook_size)
    order = Ordering("raster_scan", 2, (1, *grid))
    inferer = VQVAETransformerInferer()

    def theirs() -> None:
        inferer.sample(grid, start, Decoder(model), peer, order, verbose=False)

    def ours() -> None:
        model.decode(sample(model.prior, batch, level=0, grade=0))

    ours()
    before = [seconds(ours) for _ in range(repeats)]
    theirs_s = statistics.median(seconds(theirs) for _ in range(repeats))
    ours_s = statistics.median([*before, *(seconds(ours) for _ in range(repeats))])
    return {
        "batch": batch,
        "repeats": repeats,
        "parameters": count(model.prior),
        "monai_parameters": count(peer),
        "ours_s": ours_s,
        "monai_s": theirs_s,
        "ours_images_a_second": batch / ours_s,
        "monai_images_a_second": batch / theirs_s,
        "ratio": theirs_s / ours_s,
    }


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> None:
    """Trains both, draws from both, prints and writes the figures."""
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--weights", metavar="DIR|REPO", help="whose VQ-VAE, sizes and prior")
    parser.add_argument("--data", type=Path, help="slices in the PNG layout, with train, validate and test")
    parser.add_argument("--minutes", type=float, default=60, help="of training for each model; 0: none (default 60)")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate of ours")
    parser.add_argument("--peer-rate", type=float, default=1e-3, help="highest learning rate of the transformer")
    parser.add_argument("--repeats", type=int, default=3, help="of each draw (default 3)")
    parser.add_argument("--batch", type=int, nargs="*", default=[1], help="images at a time; none: no draws")
    args = parser.parse_args(arguments)
    if args.minutes and not args.data:
        parser.error("training needs --data (or --minutes 0 for draws alone)")
    figures: dict[str, Any] = {"training": [], "draws": []}
    model = OasisVQ.from_pretrained(args.weights, device="cpu")
    for batch in args.batch:
        row = compare_draws(model, batch, args.repeats)
        figures["draws"].append(row)
        print(
            f"batch {batch}, {torch.get_num_threads()} threads: ours {row['ours_images_a_second']:.2f} images/s, "
            f"MONAI {row['monai_images_a_second']:.3f} images/s, {row['ratio']:.0f} times as many",
            flush=True,
        )
    if args.minutes:
        figures["training"] = compare_bits(model, args.data, args.minutes, args.rate, args.peer_rate)
    for row in figures["training"]:
        print(
            f"{row['name']:30} {row['parameters']:>10,} parameters, {row['steps']:>6,} steps in {row['minutes']:.1f} "
            f"min: validation {row['validation_bits_per_code']:.3f}, test {row['test_bits_per_code']:.3f} bits a code"
        )
    if args.json:
        write_record(args.json, figures)
