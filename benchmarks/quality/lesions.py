"""How well surprise finds lesions painted into slices of held-out people: areas under the ROC curve by kind and size.

    python -m oasisvq benchmark lesions --weights checkpoints/base --data DIR --json checkpoints/base/lesions.json

Lesions are discs with an edge of one pixel, wholly inside the brain: bright, dark, displaced (tissue of another place
in the same slice), missing (black). Each changes its pixels by at least LEAST of the grey range on average: fainter
ones nobody would call a lesion. Two maps are judged: plain bits per code (`OasisVQ.surprise`) and
`oasisvq.measure.atypical`. Where the prior knows neighbouring levels, a third: bits per code given those, into which
the lesion reaches as a ball does.

Per slice: the largest value of the map in a slice with a lesion against that in every untouched slice of the split.
Per pixel: the map, spread over pixels by cubic splines, inside against outside the lesion, over the brain of the slices
with a lesion. The level is given, the grade is not. Settings were chosen on validation people (--split validate).
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata
from tqdm import tqdm

from benchmarks._parser import new_parser
from oasisvq import OasisVQ
from oasisvq.data.layout import SliceSet, load_for
from oasisvq.data.slices import CANVAS, foreground
from oasisvq.measure.atypical import unusual
from oasisvq.measure.record import write_record

KINDS = ("bright", "dark", "displaced", "missing")
SIZES = (3, 4, 6, 9, 12)  # pixels across, of a slice of 80
BRIGHTNESS = {"bright": 1.0, "dark": 0.3, "missing": 0.0}  # white matter is about 0.9, grey 0.6, water 0.2
LEAST = 0.15  # mean change inside the disc
CONTRASTS = (0.15, 0.25, 0.4, 1.0)
BATCH = 32

Picture = NDArray[np.floating]


class Lesion(NamedTuple):
    """A ball of one of KINDS: where its middle is, and how many pixels it has across. Where tissue is displaced, the
    whole picture is moved by `shift` (rows, columns) and seen through the ball."""

    kind: str
    row: float
    column: float
    across: float
    shift: tuple[int, int] = (0, 0)

    def into(self, picture: Picture, levels_away: int = 0) -> tuple[Picture, Picture]:
        """The picture with the section through this ball so many levels from its middle, and how much of each pixel
        that covers."""
        away = levels_away * len(picture) / CANVAS  # pixels: of the canvas they have 1 mm, as levels do
        radius_squared = (self.across / 2) ** 2 - away**2
        if radius_squared <= 0:
            return picture.astype(np.float32), np.zeros_like(picture)
        share = disc(len(picture), self.row, self.column, 2 * radius_squared**0.5)
        new: Picture
        if self.kind == "displaced":
            new = np.roll(picture, self.shift, (0, 1))
        else:
            new = np.full_like(picture, BRIGHTNESS[self.kind])
        return (picture + share * (new - picture)).astype(np.float32), share


def disc(size: int, row: float, column: float, across: float) -> Picture:
    """How much of each pixel of a (size, size) picture a disc covers, about: 1 inside, 0 outside, 0.5 on its edge."""
    y, x = np.ogrid[:size, :size]
    return np.clip(across / 2 - np.hypot(y - row, x - column) + 0.5, 0, 1)


def place(picture: Picture, kind: str, across: float, rng: np.random.Generator, tries: int = 200) -> Lesion | None:
    """A lesion at a random place; None when none was found where a disc of this size lies in the brain and shows."""
    brain = foreground(picture)
    depth = ndimage.distance_transform_edt(np.pad(brain, 1))[1:-1, 1:-1]
    places = np.argwhere(depth >= across / 2)
    for _ in range(tries if len(places) else 0):
        row, column = places[rng.integers(len(places))]
        shift = (0, 0)
        if kind == "displaced":
            source = places[rng.integers(len(places))]
            if np.hypot(*(source - (row, column))) < across:
                continue
            shift = (row - source[0], column - source[1])
        lesion = Lesion(kind, row, column, across, shift)
        if change(lesion, picture) >= LEAST:
            return lesion
    return None


def change(lesion: Lesion, picture: Picture) -> float:
    """By how much a lesion changes the pixels of a picture, on average."""
    painted, share = lesion.into(picture)
    return float(np.abs(painted - picture).sum() / share.sum())


def auroc(positive: NDArray[np.floating], negative: NDArray[np.floating]) -> float:
    """Chance that a positive value is larger than a negative one, ties counted half."""
    ranks = rankdata(np.concatenate([positive, negative]))
    n = len(positive)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


def maps(model: OasisVQ, slices: Picture, levels: NDArray[np.integer], name: str) -> dict[str, Picture]:
    """Both maps, (N, h, w) each, of slices (N, S, S) in [0, 1]."""
    rows: dict[str, list[Picture]] = {"bits": [], "unusual": []}
    shown = torch.from_numpy(slices.astype(np.float32))[:, None] - 0.5
    given = torch.from_numpy(levels)
    parts = list(zip(shown.split(BATCH), given.split(BATCH), strict=True))
    for part, at in tqdm(parts, name, disable=None, leave=False):
        *_, bits = model.preset.split(model.surprise(model.encode(part), at.tolist()))
        rows["bits"].append(bits.numpy())
        rows["unusual"].append(unusual(model, part, at).numpy())
    return {key: np.concatenate(values) for key, values in rows.items()}


def given_neighbours(model: OasisVQ, data: SliceSet, i: int, lesion: Lesion | None = None) -> Picture:
    """Bits per code of slice i, (h, w), given those of the levels next to it; with a lesion, which all of them show."""
    offsets = sorted([0, *(offset for offset in model.preset.near if data.beside(i, offset))])
    pictures = [data.slices[i + offset] + 0.5 for offset in offsets]
    if lesion:
        pictures = [lesion.into(picture, offset)[0] for picture, offset in zip(pictures, offsets, strict=True)]
    shown = torch.from_numpy(np.stack(pictures))[:, None] - 0.5
    levels = [int(data.levels[i]) + offset for offset in offsets]
    *_, bits = model.preset.split(model.surprise(model.encode(shown), levels, stack=True))
    found: Picture = bits[offsets.index(0)].numpy()
    return found


def per_pixel(values: Picture, size: int) -> Picture:
    """(h, w) -> (size, size)."""
    return ndimage.zoom(values, [size / codes for codes in values.shape], order=3, mode="nearest", grid_mode=True)


def run(model: OasisVQ, data: SliceSet, per_case: int, seed: int = 0) -> dict[str, Any]:
    """Every figure, as plain values ready for JSON; `per_case` lesions of each kind and size."""
    rng = np.random.default_rng(seed)
    size = model.preset.size
    pictures = data.slices + 0.5
    cases = []
    for kind in KINDS:
        for across in SIZES:
            left = per_case
            for i in rng.permutation(len(pictures)):
                lesion = place(pictures[i], kind, across * size / 80, rng)
                if lesion:
                    cases.append((across, i, lesion))
                    left -= 1
                if not left:
                    break
    untouched = maps(model, pictures, data.levels, "untouched slices")
    sizes, sources = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    lesions = [case[2] for case in cases]
    painted, shares = zip(*(lesion.into(pictures[i]) for i, lesion in zip(sources, lesions, strict=True)), strict=True)
    inside = [share >= 0.5 for share in shares]
    with_lesion = maps(model, np.stack(painted), data.levels[sources], "lesions")
    if model.preset.near:
        known = partial(given_neighbours, model, data)
        whole = tqdm(range(len(data)), "untouched slices, neighbours known", disable=None, leave=False)
        untouched["bits_given_neighbours"] = np.stack([known(i) for i in whole])
        both = tqdm(list(zip(sources, lesions, strict=True)), "lesions, neighbours known", disable=None, leave=False)
        with_lesion["bits_given_neighbours"] = np.stack([known(i, lesion) for i, lesion in both])
    kinds = np.array([lesion.kind for lesion in lesions])
    changes = np.array([change(lesion, pictures[i]) for i, lesion in zip(sources, lesions, strict=True)])

    large = sizes >= 6
    by_contrast = {
        f"{low:g} to {high:g}": large & (changes >= low) & (changes < high) for low, high in pairwise(CONTRASTS)
    }
    figures: dict[str, Any] = {}
    for name, found in with_lesion.items():
        slice_score, usual = found.max((1, 2)), untouched[name].max((1, 2))
        pixel_score = np.empty(len(cases))
        for k, (i, where, values) in enumerate(zip(sources, inside, found, strict=True)):
            spread, brain = per_pixel(values, size), foreground(pictures[i])
            pixel_score[k] = auroc(spread[where], spread[brain & ~where])
        row = partial(_row, slice_score, usual, pixel_score)
        figures[name] = {
            "by_size": {str(across): row(sizes == across) for across in SIZES},
            "by_kind_and_size": {
                kind: {str(across): row((kinds == kind) & (sizes == across)) for across in SIZES} for kind in KINDS
            },
            "at_6_and_more": row(large),
            "at_6_and_more_by_change": {key: row(chosen) for key, chosen in by_contrast.items() if chosen.any()},
            # What untouched slices reach, for a scale to read a map by.
            "untouched_percentiles": {str(p): float(np.percentile(usual, p)) for p in (5, 25, 50, 75, 95, 99)},
        }
    return {"scores": figures}


def _row(slice_score: Picture, usual: Picture, pixel_score: Picture, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "lesions": int(chosen.sum()),
        "auroc_slice": auroc(slice_score[chosen], usual),
        "auroc_pixel": float(pixel_score[chosen].mean()),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as lines to read."""
    lines = [
        f"{figures['people']} people of {figures['split']}, {figures['slices']} untouched slices; "
        f"{figures['per_case']} lesions of each kind and size, seed {figures['seed']}",
    ]
    for name, score in figures["scores"].items():
        heads = "".join(f"{size:>8}" for size in SIZES)
        lines += ["", f"{name:22}{heads}   pixels across: AUROC per slice, then per pixel in brackets"]
        for kind, by_size in {"all kinds": score["by_size"], **score["by_kind_and_size"]}.items():
            lines.append(f"{kind:22}" + "".join(f"{by_size[str(size)]['auroc_slice']:8.3f}" for size in SIZES))
            in_brackets = [f"({by_size[str(size)]['auroc_pixel']:.3f})" for size in SIZES]
            lines.append(f"{'':22}" + "".join(f"{text:>8}" for text in in_brackets))
        contrasts = ", ".join(
            f"{key}: {row['auroc_slice']:.3f} ({row['lesions']})"
            for key, row in score["at_6_and_more_by_change"].items()
        )
        lines.append(f"6 and more: {score['at_6_and_more']['auroc_slice']:.3f}; by mean change {contrasts}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Paints, measures, prints, and writes the figures where asked to."""
    parser = new_parser(__name__, __doc__, "write the figures here; beside the weights, the app shows them")
    parser.add_argument("--weights", metavar="DIR|REPO", help="folder, bundled name or Hub repository")
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout")
    parser.add_argument("--split", choices=("validate", "test"), default="test")
    parser.add_argument("--count", type=int, default=64, help="lesions of each kind and size (default 64)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    model = OasisVQ.from_pretrained(args.weights)
    preset = model.preset
    data = load_for(preset, args.data, args.split)
    figures = {
        "split": args.split,
        "people": len(set(data.cases)),
        "slices": len(data),
        "per_case": args.count,
        "seed": args.seed,
        "least_change": LEAST,
        **run(model, data, args.count, args.seed),
        "weights_sha256": model.weights_sha256,
    }
    print(table(figures))
    if args.json:
        write_record(args.json, figures)
