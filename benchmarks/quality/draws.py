"""How much draws look like held-out people: anatomy, Fréchet distance, fresh classifiers, copies, membership.

    python -m oasisvq benchmark draws --weights checkpoints/base --data keras_png_slices_data --json draws.json

Draws are made at the levels and grades of the held-out people, those of each slice equally often. The figures are those
of `oasisvq.measure.realism` and of `oasisvq.measure.membership`; temperature and top-k stand beside them. Choose
settings with `--split validate`; report the test people.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from tqdm import tqdm

from benchmarks._parser import new_parser
from oasisvq import OasisVQ
from oasisvq.data.layout import SliceSet, load_for
from oasisvq.data.slices import to_model
from oasisvq.measure import realism
from oasisvq.measure.evaluation import prior_bits, reconstruct
from oasisvq.measure.membership import membership
from oasisvq.measure.record import write_record
from oasisvq.models import sampling
from oasisvq.models.presets import TOP_K

SIZE = 80  # pixels: figures of models of other sizes are taken at this one, so that they can stand side by side
BATCH = 64
COLUMNS, GROUPS = 12, 4
EVERY = 4  # levels between the slices that are scored for the membership test


def draw(
    model: OasisVQ, like: SliceSet, count: int, seed: int, temperature: float, top_k: int | None, untold: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draws (count, S, S) in [0, 1], and for each the slice of `like` whose level and grade it has.

    With `untold`, a level is drawn first, as `OasisVQ.sample` does, the grade is left to the model, and slices are of
    the same level alone.
    """
    rng = np.random.default_rng(seed)
    sources = np.resize(rng.permutation(len(like)), count)
    grades = like.grades
    if untold:
        levels = sampling.draw_levels(model.preset.levels, count, seed).numpy()
        sources = np.array([rng.choice(np.flatnonzero(like.levels == level)) for level in levels])
        grades = np.full_like(grades, len(model.preset.grades))
    pictures = []
    for start in tqdm(range(0, count, BATCH), "drawing", disable=None, leave=False):
        rows = sources[start : start + BATCH]
        indices = model.draw(
            len(rows),
            seed=seed,
            first=start,
            temperature=temperature,
            top_k=top_k,
            level=torch.from_numpy(like.levels[rows]),
            grade=torch.from_numpy(grades[rows]),
        )
        pictures.append(model.decode(indices)[:, 0].numpy() + 0.5)
    return np.concatenate(pictures), sources


def remembered(model: OasisVQ, sets: Sequence[tuple[SliceSet, np.ndarray]], seed: int) -> dict[str, Any]:
    """`oasisvq.measure.membership` of training and held-out people, each with their codes, level and grade given."""
    sides: list[tuple[np.ndarray, list[str]]] = []
    for data, codes in sets:
        rows = np.flatnonzero(data.levels % EVERY == 0)
        some = SliceSet(data.slices[rows], data.about[rows])
        sides.append((prior_bits(model, codes[rows], some).mean((1, 2)), some.cases))
    return {"levels": f"every {EVERY}th", **membership(sides[0], sides[1], seed)}


def contact_sheet(rows: dict[str, np.ndarray]) -> Image.Image:
    """Groups of rows, one row a kind, twice enlarged: GROUPS x COLUMNS pictures (N, S, S) of each kind."""
    margin, gap = 110, 8
    side = 2 * next(iter(rows.values())).shape[1]
    sheet = Image.new("L", (margin + COLUMNS * side, GROUPS * (len(rows) * side + gap)))
    pen = ImageDraw.Draw(sheet)
    for group in range(GROUPS):
        for line, (name, pictures) in enumerate(rows.items()):
            top = group * (len(rows) * side + gap) + line * side
            pen.text((6, top + side // 2), name, fill=255)
            for column, picture in enumerate(pictures[group * COLUMNS : (group + 1) * COLUMNS]):
                image = Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8))
                sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), (margin + column * side, top))
    return sheet


def for_sheet(sources: np.ndarray, levels: np.ndarray, seed: int) -> np.ndarray:
    """Draws to show: a random handful a group, lowest level first."""
    chosen = np.random.default_rng(seed).permutation(len(sources))[: GROUPS * COLUMNS]
    groups = [chosen[i : i + COLUMNS] for i in range(0, len(chosen), COLUMNS)]
    return np.concatenate([group[np.argsort(levels[sources[group]], kind="stable")] for group in groups])


def table(figures: dict[str, Any]) -> str:
    """The figures as lines to read."""

    def ratio(value: float | None) -> str:
        return f"{value:12.2f}" if value is not None else f"{'-':>12}"

    heads = ("draws", "held out", "ratio", "reconstr.", "training")
    lines = [
        f"{figures['count']} draws, temperature {figures['temperature']:g}, top-k {figures['top_k'] or 'all'}, "
        f"seed {figures['seed']}; {figures['slices']} slices of {figures['people']} held-out people",
        "",
        f"{'anatomy':22}" + "".join(f"{head:>12}" for head in heads),
    ]
    for name in realism.MEASURES:
        row = figures["anatomy"][name]
        means = f"{row['draws_mean']:12.4f}{row['held_out_mean']:12.4f}"
        lines.append(
            f"{name:22}{means}" + "".join(ratio(row[f"{k}_ratio"]) for k in ("draws", "reconstructions", "training"))
        )
    lines.append("  (means, then Wasserstein distances to held-out people over that between their halves)")
    frechet, auc, copies, known = (figures[key] for key in ("frechet", "auc", "copies", "membership"))
    lines += ["", "Fréchet distance to held-out people, in thousandths"]
    lines += [
        f"  {label:45}{1000 * frechet[key]:8.3f}"
        for key, label in {
            "draws": "draws",
            "training": "as many training slices",
            "training_reconstructions": "as many training slices, through the VQ-VAE",
            "held_out_halves": "halves of held-out people, half as many",
        }.items()
    ]
    lines += [
        f"  {'draws over training slices':45}{frechet['ratio']:8.2f}",
        "",
        "AUC of fresh classifiers (0.5: they cannot tell), mean of seeds (least to most)",
        *(
            f"  {f'{words}, {kind} at {size}':56}{found[key]:6.3f}  ({min(found[by]):.2f} to {max(found[by]):.2f})"
            for found, rivals in (
                (
                    auc,
                    {"reconstructions": "draws against reconstructions", "held_out": "draws against held-out slices"},
                ),
                (figures.get("auc_full_size"), {"reconstructions": "draws against reconstructions"}),
                (auc["training"], {"held_out": "training slices against held-out slices"}),
            )
            if found
            for rival, words in rivals.items()
            for kind, suffix in (("network", ""), ("linear", "_linear"))
            for key, by, size in [(f"against_{rival}{suffix}", f"against_{rival}{suffix}_by_seed", found["size"])]
        ),
        "",
        "Distance to the nearest training slice, through the VQ-VAE too (least, median)",
        f"  {'draws':45}{copies['draws_least']:8.4f}{copies['draws_median']:8.4f}",
        f"  {'reconstructions of held-out slices':45}{copies['held_out_least']:8.4f}{copies['held_out_median']:8.4f}",
        f"  {'draws closer than the closest 1 % of these':45}{100 * copies['share_closer']:7.2f}%",
        "",
        "Bits per code of training people and of held-out people; AUC of a guess by them who was trained on (95 %)",
        f"  {known['train_bits_per_code']:.3f} and {known['held_out_bits_per_code']:.3f}; "
        + "; ".join(
            f"{what} {known[key]:.2f} ({low:.2f} to {high:.2f})"
            for what, key in (("by person", "auc_people"), ("by slice", "auc_slices"))
            for low, high in [known[f"{key}_ci95"]]
        ),
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights")
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout, with train and test")
    parser.add_argument("--split", choices=("validate", "test"), default="test", help="held-out people (default test)")
    parser.add_argument("--count", type=int, default=640, help="draws (default 640)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=TOP_K, help="0: all codes (default %(default)s)")
    parser.add_argument("--untold", action="store_true", help="give neither level nor grade: a level is drawn first")
    parser.add_argument(
        "--sheet",
        type=Path,
        help="write a contact sheet here: draws, reconstructions and held-out slices at the same levels. "
        "IT SHOWS SLICES OF REAL PEOPLE when the data are real: do not share it, do not commit it",
    )
    args = parser.parse_args(arguments)
    if args.count < 32:
        parser.error("--count: give at least 32 draws")
    figures = run(args)
    print(table(figures))
    if args.json:
        write_record(args.json, figures)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw, measure, and write the sheet where one is asked for."""
    model = OasisVQ.from_pretrained(args.weights)
    preset = model.preset
    splits = args.split, "train"
    held_out, train = (load_for(preset, args.data, s) for s in splits)
    top_k = args.top_k or None
    drawn, sources = draw(model, held_out, args.count, args.seed, args.temperature, top_k, args.untold)
    codes, again = reconstruct(model, held_out)
    if args.sheet:
        shown = for_sheet(sources, held_out.levels, args.seed)
        at = sources[shown]
        contact_sheet({"drawn": drawn[shown], "reconstructed": again[at], "held out": held_out.slices[at] + 0.5}).save(
            args.sheet
        )
    train_codes, train_again = reconstruct(model, train)
    further: dict[str, Any] = {"membership": remembered(model, [(train, train_codes), (held_out, codes)], args.seed)}
    if preset.size != SIZE:
        people = np.array(held_out.cases)
        further["auc_full_size"] = realism.auc_figures(drawn, {"reconstructions": again}, people, args.seed)
        shrunk = (to_model(pictures, SIZE) + np.float32(0.5) for pictures in (drawn, again, train_again))
        drawn, again, train_again = shrunk
        held_out, train = (load_for(preset, args.data, s, SIZE) for s in splits)
    figures = realism.measure(drawn, sources, held_out, again, train, train_again, args.seed) | further
    return {
        "count": args.count,
        "judged_at": SIZE,
        "seed": args.seed,
        "temperature": args.temperature,
        "top_k": top_k,
        "untold": args.untold,
        "split": args.split,
        "people": len(set(held_out.cases)),
        "slices": len(held_out),
        **{name: section | {"temperature": args.temperature, "top_k": top_k} for name, section in figures.items()},
        "weights_sha256": model.weights_sha256,
    }
