"""What each choice of the VQ-VAE is worth: one change at a time, the same number of steps, judged on validation people.

    python -m oasisvq benchmark study --data keras_png_slices_data --out benchmarks/quality/study.json [--steps 200]

Every run has the same seed, order of slices and schedule. Rows are written as they are measured and an interrupted
study goes on where it stopped; the table is beside the JSON, as Markdown. A short run ranks what learns fast, which
need not be what ends best. What the codes of a variant cost is judged by their entropy on brain cells, without a prior.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_msssim import ssim
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks._parser import new_parser
from oasisvq.data.layout import SliceSet, load_for
from oasisvq.data.slices import FOREGROUND
from oasisvq.files import write_atomically
from oasisvq.measure import metrics
from oasisvq.measure.record import circumstances
from oasisvq.models.presets import PRESETS, Preset
from oasisvq.models.vqvae import Quantised
from oasisvq.training.loop import VQVAETask, learning_rate, mixed_precision
from oasisvq.training.reproducibility import MEASURED

# Every third slice of the validation people: all people, all parts of the head.
STRIDE = 3


class Library(nn.Module):
    """A quantiser of vector-quantize-pytorch where ours would stand."""

    def __init__(self, quantiser: nn.Module) -> None:
        super().__init__()
        self.quantiser = quantiser

    def forward(self, z: Tensor) -> Quantised:
        with torch.autocast(z.device.type, enabled=False):
            codes, indices, *loss = self.quantiser(z.float())
        return Quantised(codes, indices, loss[0].sum() if loss else z.new_zeros(()))


def vector_quantiser(preset: Preset, **options: Any) -> nn.Module:
    from vector_quantize_pytorch import VectorQuantize

    shape = {"dim": preset.code_dim, "codebook_size": preset.codebook_size, "decay": preset.codebook_decay}
    return Library(
        VectorQuantize(
            **shape,
            accept_image_fmap=True,
            commitment_weight=1.0,
            threshold_ema_dead_code=1,
            kmeans_init=True,
            **options,
        )
    )


def finite_scalars(preset: Preset) -> nn.Module:
    from vector_quantize_pytorch import FSQ

    return Library(FSQ(levels=[8, 8, 8], dim=preset.code_dim, channel_first=True))  # 512 codes


class Variant(NamedTuple):
    """One change of the base preset: its fields, its quantiser, or its loss."""

    group: str
    name: str
    changes: Mapping[str, Any] = {}
    quantiser: Callable[[Preset], nn.Module] | None = None
    squared: bool = False
    augmented: bool = True


VARIANTS = (
    Variant("as shipped", "base preset"),
    Variant("loss", "L1 alone, no SSIM", {"ssim_weight": 0.0}),
    Variant("loss", "SSIM twice as much", {"ssim_weight": 1.0}),
    Variant("loss", "L2 (times 10) for L1", squared=True),
    Variant("loss", "brain counts as background", {"foreground_weight": 1.0}),
    Variant("codebook", "K = 256", {"codebook_size": 256}),
    Variant("codebook", "K = 1024", {"codebook_size": 1024}),
    Variant("codebook", "D = 8", {"code_dim": 8}),
    Variant("codebook", "D = 64", {"code_dim": 64}),
    # Straight through where nothing else is said: the library's own default is the rotation trick.
    Variant("quantiser", "vector-quantize-pytorch, EMA", quantiser=lambda p: vector_quantiser(p, rotation_trick=False)),
    Variant(
        "quantiser",
        "l2-normalised codes",
        quantiser=lambda p: vector_quantiser(p, use_cosine_sim=True, rotation_trick=False),
    ),
    Variant("quantiser", "rotation trick", quantiser=lambda p: vector_quantiser(p, rotation_trick=True)),
    Variant("quantiser", "FSQ, 8 x 8 x 8", quantiser=finite_scalars),
    Variant("capacity", "1 coarse block, not 3", {"blocks": (1, 1)}),
    Variant("capacity", "half the channels", {"channels": (32, 64)}),
    Variant("schedule", "half the rate", {"vqvae_rate": 5e-4}),
    Variant("augmentation", "none", augmented=False),
)


class Squared(VQVAETask):
    """Squared differences for absolute ones, ten times, which makes both about as large."""

    def reconstruction_loss(self, slices: Tensor, output: Tensor) -> Tensor:
        weight = 1 + (self.preset.foreground_weight - 1) * (slices > FOREGROUND - 0.5)
        l2 = ((output - slices).square() * weight).sum() / weight.sum()
        similarity = ssim(output.clamp(-0.5, 0.5) + 0.5, slices + 0.5, data_range=1.0, win_sigma=1.5)
        return 10 * l2 + self.preset.ssim_weight * (1 - similarity)


def train(variant: Variant, train: SliceSet, steps: int) -> nn.Module:
    """A VQ-VAE after that many steps."""
    preset = replace(PRESETS["base"], codebook_warmup=max(1, steps // 8), **variant.changes)
    torch.manual_seed(preset.seed)
    task = (Squared if variant.squared else VQVAETask)(preset)
    if variant.quantiser:
        task.model.quantiser = variant.quantiser(preset)
    model = task.model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), preset.vqvae_rate, weight_decay=preset.weight_decay)
    half = mixed_precision("auto") == "bf16"
    order = torch.Generator().manual_seed(preset.seed)
    batches: Any = iter(())
    for step in tqdm(range(steps), variant.name, disable=None, leave=False):
        batch = next(batches, None)
        if batch is None:
            batches = iter(DataLoader(train, preset.vqvae_batch, shuffle=True, drop_last=True, generator=order))
            batch = next(batches)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, preset.vqvae_rate)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if variant.augmented:
                loss = task.loss(model, batch, order)
            else:
                output, quantised = model(batch["slice"])
                loss = task.reconstruction_loss(batch["slice"], output.float())
                loss = loss + preset.commitment_weight * quantised.commitment
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@torch.inference_mode()
def measure(model: nn.Module, held_out: SliceSet, codes: int) -> dict[str, float]:
    """Means over people of the usual figures, and what the codes on brain cells would cost without a prior."""
    rows = np.arange(0, len(held_out), STRIDE)
    slices = torch.stack([held_out[int(i)]["slice"] for i in rows])
    parts = [model(part) for part in slices.split(64)]
    pictures = torch.cat([output for output, _ in parts])[:, 0].numpy().clip(-0.5, 0.5) + 0.5
    indices = torch.cat([quantised.indices.long() for _, quantised in parts]).numpy()
    originals = slices[:, 0].numpy() + 0.5
    people = [person.decode() for person in held_out.about["person"][rows]]
    kinds = {
        "ssim": metrics.ssim,
        "ssim_brain": metrics.foreground_ssim,
        "sharpness": metrics.sharpness,
        "psnr": metrics.psnr,
    }
    figures = {
        name: float(metrics.by_person([score(o, r) for o, r in zip(originals, pictures, strict=True)], people).mean())
        for name, score in kinds.items()
    }
    brain = metrics.brain_cells(originals, indices.shape[1:])
    shares = np.bincount(indices[brain], minlength=codes) / brain.sum()
    return figures | {
        "utilisation": float((np.bincount(indices.ravel(), minlength=codes) > 0).mean()),
        "entropy_bits_brain": float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum()),
    }


def table(figures: dict[str, Any]) -> str:
    """The rows as Markdown."""
    heads = ("SSIM", "brain only", "sharpness", "PSNR (dB)", "utilisation", "bits a brain code, histogram")
    lines = [
        f"One change of the base preset at a time, {figures['steps']} steps of 32 slices, seed 0, judged on a third "
        f"of the slices of {figures['people']} validation people.",
        "",
        "```",
        f"python -m oasisvq benchmark study --data {figures['data']} --out benchmarks/quality/study.json "
        f"--steps {figures['steps']}",
        "```",
        "",
        f"| | change | {' | '.join(heads)} |",
        "|---|---|" + "---|" * len(heads),
    ]
    for row in figures["rows"]:
        cells = (
            *(row["group"], row["name"], f"{row['ssim']:.4f}", f"{row['ssim_brain']:.4f}", f"{row['sharpness']:.2f}"),
            *(f"{row['psnr']:.2f}", f"{row['utilisation']:.0%}", f"{row['entropy_bits_brain']:.2f}"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__name__, __doc__, None)
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout, with train and validate")
    parser.add_argument("--out", type=Path, required=True, help="figures, JSON; the table goes beside it as .md")
    parser.add_argument("--steps", type=int, default=200, help="steps a variant (default 200)")
    parser.add_argument("--only", nargs="*", help="names of variants (default: all)")
    args = parser.parse_args(arguments)
    preset = PRESETS["base"]
    sets = [load_for(preset, args.data, s) for s in ("train", "validate")]
    figures = {"steps": args.steps, "people": len(set(sets[1].cases)), "data": args.data.name, "rows": []}
    if args.out.is_file():
        old = json.loads(args.out.read_text())
        if any(old.get(key) != figures[key] for key in ("steps", "people", "data")):
            parser.exit(2, f"error: {args.out} belongs to a study of other data or steps: choose another --out\n")
        figures = old
    done = {row["name"] for row in figures["rows"]}
    for variant in VARIANTS:
        if variant.name in done or (args.only and variant.name not in args.only):
            continue
        started = time.monotonic()
        model = train(variant, sets[0], args.steps)
        seconds = time.monotonic() - started
        codes = replace(preset, **variant.changes).codebook_size
        row = {"group": variant.group, "name": variant.name, **measure(model, sets[1], codes), "seconds": seconds}
        row[MEASURED] = circumstances()
        figures["rows"].append(row)
        figures["rows"].sort(key=lambda row: [variant.name for variant in VARIANTS].index(row["name"]))
        write_atomically(args.out, (json.dumps(figures, indent=2) + "\n").encode())
        write_atomically(args.out.with_suffix(".md"), table(figures).encode())
        print(
            f"{variant.name}: SSIM {row['ssim']:.4f}, brain only {row['ssim_brain']:.4f}, {seconds:.0f} s", flush=True
        )
