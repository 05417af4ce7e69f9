"""Rate against clarity: held-out slices through JPEG, WebP, AVIF and JPEG 2000, and through our codes.

    python -m oasisvq benchmark rate --weights checkpoints/base --data keras_png_slices_data

Sizes are those of whole files, headers included: ours as `python -m oasisvq compress` writes them, given the level of
each slice (and the grade where it is known), and as codes of fixed length without any header. Classical codecs get the
slice at the model's size in 8 bits, over their whole range; beside that, one picture of all slices of a person, in
which a codec pays for its header once. What else can be set is chosen on validation people: what is as clear over the
brain as our codes in the fewest bytes. Clarity is SSIM and its mean over the brain against the slice, means over people
with their 95 % interval by bootstrap.

The figures go to rate.json beside each of the weights (`package` then lists them in the manifest), and to --json.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks._export import export
from benchmarks._parser import new_parser
from oasisvq import OasisVQ, OasisVQError, compress
from oasisvq.app import charts
from oasisvq.data.layout import SliceSet, describe, load_for
from oasisvq.files import write_atomically
from oasisvq.hub.manifest import RATE
from oasisvq.measure import metrics
from oasisvq.measure.record import circumstances
from oasisvq.training.reproducibility import MEASURED

BATCH = 64
CLARITY = ("ssim", "ssim_foreground")

Setting = tuple[str, str, dict[str, Any]]  # what it is called, Pillow's format, Pillow's options


class Codec(NamedTuple):
    """Pillow's format, the steps from its smallest files to its clearest, and what else may be set, by name."""

    kind: str
    steps: dict[str, dict[str, Any]]
    manners: dict[str, dict[str, Any]]

    def manners_at(self, size: int) -> list[str]:
        """Those to choose from for slices of a size. AVIF at its slowest is left out where it takes hours."""
        return [name for name, options in self.manners.items() if size <= SMALL or options.get("speed") != 0]

    def settings(self, manner: str) -> list[Setting]:
        return [(label, self.kind, options | self.manners[manner]) for label, options in self.steps.items()]


def _qualities(*values: int) -> dict[str, dict[str, Any]]:
    return {f"quality {value}": {"quality": value} for value in values}


CODECS: dict[str, Codec] = {
    "JPEG": Codec(
        "JPEG",
        _qualities(1, 5, 10, 20, 30, 45, 60, 75, 85, 92, 96),
        {"baseline": {"optimize": True}, "progressive": {"optimize": True, "progressive": True}},
    ),
    "WebP": Codec(
        "WEBP",
        _qualities(0, 5, 15, 30, 45, 60, 70, 80, 88, 94, 98),
        {"method 4": {"method": 4}, "method 6": {"method": 6}},
    ),
    "AVIF": Codec(
        "AVIF",
        _qualities(0, 5, 10, 20, 30, 40, 50, 65, 80, 94),
        {
            f"speed {speed}{tune and f', tune {tune}'}": {
                "speed": speed,
                "subsampling": "4:0:0",
                **({"advanced": {"tune": tune}} if tune else {}),
            }
            for speed in (4, 0)
            for tune in ("", "ssim", "psnr")
        },
    ),
    "JPEG 2000": Codec(
        "JPEG2000",
        {f"ratio {r}": {"quality_layers": [r]} for r in (100, 70, 50, 35, 25, 18, 13, 9, 6, 4, 3)},
        {
            f"{n} resolutions": {"num_resolutions": n, "quality_mode": "rates", "no_jp2": True, "irreversible": True}
            for n in (2, 3, 4, 5, 6)
        },
    ),
}
SEARCHED = 5  # validation people on whom the manner of each codec is chosen
SMALL = 128  # pixels a side up to which no manner is too slow


def run(
    models: list[OasisVQ], data: Path, split: str, file: Path, codecs: Collection[str] | None = None
) -> dict[str, Any]:
    """All figures: of every model, and of all codecs, or of those named, once for each size.

    `file` keeps what is done, and what it holds stays.
    """
    about = describe(data)
    figures: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if [figures.get(key) for key in ("split", "data")] != [split, about]:
        figures = {"split": split, "data": about, "sizes": {}}

    def keep() -> None:
        figures[MEASURED] = circumstances()
        write_atomically(file, (json.dumps(figures, indent=1) + "\n").encode())

    for model in models:
        preset = model.preset
        held_out = load_for(preset, data, split)
        figures |= {"people": len(set(held_out.cases)), "slices": len(held_out)}
        empty: dict[str, Any] = {"chosen": {}, "codecs": {}, "together": {}, "models": {}}
        found = figures["sizes"].setdefault(str(preset.size), empty)
        if found["models"].get(preset.name, {}).get("weights_sha256") != model.weights_sha256:
            found["models"][preset.name] = ours(model, held_out)
            keep()
        wanted = {name: one for name, one in CODECS.items() if codecs is None or name in codecs}
        for where in ("codecs", "together"):
            for name, one in wanted.items():
                chosen = found["chosen"].setdefault(where, {})
                before = chosen.get(name, {"manner": None, "bytes_as_clear": {}})
                if list(before["bytes_as_clear"]) != one.manners_at(preset.size):
                    chosen[name] = choose(one, model, data, where == "together")
                    if chosen[name]["manner"] != before["manner"]:
                        found[where].pop(name, None)
                    keep()
                points = found[where].setdefault(name, [])
                left = one.settings(chosen[name]["manner"])[len(points) :]
                for setting in tqdm(left, f"{name}, {where}, {preset.size} pixels", disable=None, leave=False):
                    points.append(codec(held_out, setting, where == "together"))
                    keep()
    return figures


def choose(one: Codec, model: OasisVQ, data: Path, together: bool) -> dict[str, Any]:
    """The manner of a codec that is as clear over the brain as our reconstructions in the fewest bytes.

    On some validation people, at every second step. A manner that never gets so clear comes after all that do.
    """
    preset = model.preset
    people = load_for(preset, data, "validate")
    rows = np.isin(people.about["person"], np.unique(people.about["person"])[:SEARCHED])
    some = SliceSet(people.slices[rows], people.about[rows])
    again = np.concatenate([model.reconstruct(part).slices[:, 0].numpy() for part in _parts(some)]) + 0.5
    wanted = point(some, np.zeros(len(some)), again)["ssim_foreground"]
    smallest = {}
    for manner in tqdm(one.manners_at(preset.size), f"choosing for {one.kind}", disable=None, leave=False):
        points = [codec(some, setting, together) for setting in one.settings(manner)[::2]]
        ordered = sorted((found["ssim_foreground"], found["bytes"]) for found in points)
        clear, sizes = zip(*ordered, strict=True)
        smallest[manner] = float(np.interp(wanted, clear, sizes)) if wanted <= clear[-1] else math.inf
    return {
        "manner": min(smallest, key=smallest.__getitem__),
        "bytes_as_clear": {manner: None if math.isinf(size) else size for manner, size in smallest.items()},
        "people": min(SEARCHED, len(set(people.cases))),
    }


def _parts(data: SliceSet) -> Iterable[torch.Tensor]:
    return torch.from_numpy(data.slices)[:, None].split(BATCH)


def codec(data: SliceSet, setting: Setting, together: bool = False) -> dict[str, Any]:
    """One setting of a classical codec on every slice, or on every person in one picture."""
    label, kind, options = setting
    originals = data.slices + 0.5
    pictures = np.round(originals * 255).astype(np.uint8)
    sizes, again = np.empty(len(data)), np.empty_like(originals)
    if together:
        for person in np.unique(data.about["person"]):
            rows = data.about["person"] == person
            shape = pictures[rows].shape
            size, decoded = through(tile(pictures[rows]), kind, options)
            sizes[rows], again[rows] = size / shape[0], untile(decoded, shape)
    else:
        for i, picture in enumerate(pictures):
            sizes[i], again[i] = through(picture, kind, options)
    return {"setting": label, **point(data, sizes, again)}


def through(picture: np.ndarray, kind: str, options: dict[str, Any]) -> tuple[int, np.ndarray]:
    """Size of the file in bytes, and what it decodes to, in [0, 1]."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    with Image.open(file) as decoded:
        return len(file.getvalue()), np.asarray(decoded.convert("L"), np.float32) / 255


def tile(pictures: np.ndarray) -> np.ndarray:
    """(N, S, S) as one picture, eight a row; what is left over of the last row is black."""
    n, side, _ = pictures.shape
    rows = math.ceil(n / 8)
    grid = np.zeros((rows * 8, side, side), pictures.dtype)
    grid[:n] = pictures
    return grid.reshape(rows, 8, side, side).transpose(0, 2, 1, 3).reshape(rows * side, 8 * side)


def untile(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Inverse of `tile`, to (N, S, S)."""
    n, side, _ = shape
    rows = picture.shape[0] // side
    return picture.reshape(rows, side, 8, side).transpose(0, 2, 1, 3).reshape(rows * 8, side, side)[:n]


def ours(model: OasisVQ, data: SliceSet) -> dict[str, Any]:
    """Codes at their fixed length, and as files that are decoded again, every one of them."""
    preset, sizes, again, exact = model.preset, [], [], 0
    for start in tqdm(range(0, len(data), BATCH), f"{preset.name}: coding", disable=None, leave=False):
        part = slice(start, start + BATCH)
        indices = model.encode(torch.from_numpy(data.slices[part])[:, None])
        files = compress.compress(model, indices, data.levels[part], data.grades[part])
        decoded = compress.decompress(model, {str(i): file for i, file in enumerate(files)})
        exact += int((decoded == indices).all((1, 2)).sum())
        sizes += [len(file) for file in files]
        again.append(model.decode(decoded)[:, 0].numpy() + 0.5)
    if exact != len(data):
        raise OasisVQError(f"{len(data) - exact} of {len(data)} files did not decode to the codes that went in")
    pictures = np.concatenate(again)
    plain = math.ceil(preset.plain_bits / 8)
    return {
        "fixed": point(data, np.full(len(data), float(plain)), pictures),
        "prior": point(data, np.array(sizes, float), pictures),
        "decoded_exactly": exact,
        "weights_sha256": model.weights_sha256,
    }


def point(data: SliceSet, sizes: np.ndarray, again: np.ndarray) -> dict[str, Any]:
    """Bytes a slice, SSIM and brain-only SSIM, each with its interval."""
    scores = [metrics.similarity(a + 0.5, b)[:2] for a, b in zip(data.slices, again, strict=True)]
    values = {
        "bytes": sizes,
        "ssim": np.array([whole for whole, _ in scores]),
        "ssim_foreground": np.array([brain for _, brain in scores]),
    }
    found: dict[str, Any] = {}
    for name, column in values.items():
        people = metrics.by_person(column, data.cases)
        found |= {name: round(float(people.mean()), 5)}
        found[f"{name}_ci95"] = [round(end, 5) for end in metrics.bootstrap_ci95(people)]
    return found


def at(points: Iterable[dict[str, Any]], where: str, value: float, key: str) -> float:
    """A codec's figure where another has a value, on straight lines between its points; NaN outside its range."""
    ordered = sorted(points, key=lambda p: p[where])
    return float(np.interp(value, [p[where] for p in ordered], [p[key] for p in ordered], left=np.nan, right=np.nan))


def table(figures: dict[str, Any]) -> str:
    """The figures as lines to read."""
    lines = [f"{figures['slices']} slices of {figures['people']} people, split {figures['split']}; bytes a slice"]

    def row(name: str, setting: str, p: dict[str, Any]) -> str:
        whole, brain = (f"{p[k]:8.4f} ({p[f'{k}_ci95'][0]:.3f}-{p[f'{k}_ci95'][1]:.3f})" for k in CLARITY)
        return f"  {name:22}{setting:14}{p['bytes']:9.1f}{whole}{brain}"

    for size, found in figures["sizes"].items():
        lines += ["", f"{size}x{size}{'':35}{'bytes':>6}    SSIM (95 %)           brain only (95 %)"]
        for name, model in found["models"].items():
            lines += [row(name, kind, model[kind]) for kind in ("prior", "fixed")]
        for name, points in found["codecs"].items():
            lines += [row(name, p["setting"], p) for p in points]
        for name, points in found["together"].items():
            lines += [row(f"{name}, person whole", p["setting"], p) for p in points]
        for name, model in found["models"].items():
            mine = model["prior"]
            lines += ["", f"at the {mine['bytes']:.0f} bytes of {name}, SSIM and brain only (ours, then codecs):"]
            lines += [f"  {name:22}{mine['ssim']:8.4f}{mine['ssim_foreground']:8.4f}"]
            for where, suffix in (("codecs", ""), ("together", ", person whole")):
                for rival, points in found[where].items():
                    there = [at(points, "bytes", mine["bytes"], key) for key in CLARITY]
                    text = "not so small" if math.isnan(there[0]) else f"{there[0]:8.4f}{there[1]:8.4f}"
                    lines += [f"  {rival + suffix:22}{text:>16}"]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(
        __name__, __doc__, "keep the figures here too; what this file holds of the same slices is not done again"
    )
    parser.add_argument("--weights", type=Path, nargs="+", required=True, metavar="DIR", help="folders of weights")
    parser.add_argument("--data", type=Path, help="slices in the PNG layout; without: show what was measured before")
    parser.add_argument("--split", choices=("train", "validate", "test"), default="test")
    parser.add_argument(
        "--codecs",
        nargs="*",
        choices=tuple(CODECS),
        metavar="NAME",
        help=f"of {', '.join(CODECS)} (default all; without a name none)",
    )
    parser.add_argument("--figure", type=Path, help="draw the figure of the model card here, PNG or SVG")
    args = parser.parse_args(arguments)
    kept = args.json or args.weights[0] / RATE
    if args.data:
        models = [OasisVQ.from_pretrained(folder) for folder in args.weights]
        figures = run(models, args.data, args.split, kept, args.codecs)
        for folder, model in zip(args.weights, models, strict=True):
            text = json.dumps(figures | {"weights_sha256": model.weights_sha256}, indent=1) + "\n"
            write_atomically(folder / RATE, text.encode())
    else:
        figures = json.loads(kept.read_text())
    if args.figure:
        size = next(iter(figures["sizes"]))
        export(charts.rate(figures, int(size)), args.figure)
    print(table(figures))
