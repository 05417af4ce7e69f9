"""Where it fails: the worst held-out slices and what they share, and slices from elsewhere: are they told apart?

    python -m oasisvq benchmark failures --weights checkpoints/base --data keras_png_slices_data

The weights must carry the calibration of `oasisvq.measure.out_of_distribution` (`evaluate` makes it on validation
people). Slices from elsewhere are held-out slices changed at 256 pixels, before brightness is normalised, as an upload
would be; volumes that nilearn and nibabel ship, through the same reader as an upload; phantom people; and pictures of
nothing.

The figures go to failures.json beside the weights (`package` then lists it in the manifest). It names no person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats
from tqdm import tqdm

from benchmarks._parser import new_parser
from oasisvq import OasisVQ
from oasisvq.data import upload
from oasisvq.data.layout import SliceSet, load_for
from oasisvq.data.phantom import person
from oasisvq.data.slices import CANVAS, FOREGROUND, foreground, normalise, to_model
from oasisvq.hub.manifest import FAILURES
from oasisvq.measure import metrics, out_of_distribution
from oasisvq.measure.record import write_record

Slices = NDArray[np.floating]

WORST = 10
EVERY = 8  # of the held-out slices, those that are changed
PHANTOMS = range(200_000, 200_004)  # far above the numbers of any cohort

# What may be the same about slices that fail.
TRAITS = ("level", "grade", "brain_area", "brightness", "detail", "bits_per_brain_code", "code_distance", "sharpness")


def _rotated(degrees: float) -> Callable[[Slices, np.random.Generator], Slices]:
    return lambda x, _: ndimage.rotate(x, degrees, axes=(1, 2), reshape=False, order=1)


def _moved(rows: int, columns: int) -> Callable[[Slices, np.random.Generator], Slices]:
    return lambda x, _: ndimage.shift(x, (0, rows, columns), order=0)


def _noisy(sd: float, everywhere: bool) -> Callable[[Slices, np.random.Generator], Slices]:
    def change(x: Slices, rng: np.random.Generator) -> Slices:
        # A magnitude image has Rician noise: the length of a noisy complex number.
        noisy = np.hypot(x + sd * rng.standard_normal(x.shape), sd * rng.standard_normal(x.shape))
        return noisy if everywhere else np.where(x > FOREGROUND, noisy, x)

    return change


def _scaled(factor: float) -> Callable[[Slices, np.random.Generator], Slices]:
    def change(x: Slices, _: np.random.Generator) -> Slices:
        middle = (np.array(x.shape[1:]) - 1) / 2
        matrix = np.eye(2) / factor
        return np.stack([ndimage.affine_transform(s, matrix, middle - matrix @ middle, order=1) for s in x])

    return change


def _without_half(x: Slices, _: np.random.Generator) -> Slices:
    return np.where(np.arange(x.shape[2]) < x.shape[2] // 2, x, 0)


def _inverted(x: Slices, _: np.random.Generator) -> Slices:
    return np.where(np.stack([foreground(s) for s in x]), 1 - x, 0)


CHANGES: dict[str, Callable[[Slices, np.random.Generator], Slices]] = {
    "unchanged": lambda x, _: x,
    "mirrored": lambda x, _: x[:, :, ::-1],
    "dimmed to a half": lambda x, _: x / 2,
    "contrast flattened (gamma 0.5)": lambda x, _: np.sqrt(x),
    "contrast inverted inside the brain": _inverted,
    "moved by 4 mm": _moved(0, 4),
    "moved by 8 mm": _moved(0, 8),
    "moved down by 16 mm": _moved(16, 0),
    "rotated by 5 degrees": _rotated(5),
    "rotated by 10 degrees": _rotated(10),
    "rotated by 20 degrees": _rotated(20),
    "rotated by 90 degrees": _rotated(90),
    "upside down": lambda x, _: x[:, ::-1],
    "a tenth smaller": _scaled(0.9),
    "a tenth larger": _scaled(1.1),
    "noise of 5 % in the brain": _noisy(0.05, False),
    "noise of 10 % in the brain": _noisy(0.1, False),
    "noise of 5 % everywhere": _noisy(0.05, True),
    "blurred by 2 mm": lambda x, _: ndimage.gaussian_filter(x, (0, 2, 2)),
    "one half missing": _without_half,
}


def elsewhere(size: int) -> dict[str, Slices]:
    """Slices of nobody in the data, at the model's size in [-0.5, 0.5], by what they are."""
    import nibabel
    import nilearn

    def volume(path: Path) -> Slices:
        image = nibabel.Nifti1Image.from_filename(path)
        if image.ndim == 4:  # of a series the first
            image = image.slicer[..., 0]
        return upload.read(nibabel.Nifti1Image.from_image(image).to_bytes(), "volume.nii").stack

    template = Path(nilearn.__file__).parent / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    head = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    mni = nibabel.as_closest_canonical(nibabel.load(template)).get_fdata(dtype=np.float32)
    rng = np.random.default_rng(0)
    found = {
        "phantom people": np.concatenate([person(0, number)[0][::4] / 255 for number in PHANTOMS]),
        "MNI152 template, axial (nilearn)": volume(template)[::4],
        "MNI152 template, coronal": _cut(np.moveaxis(mni, 1, 0)),
        "MNI152 template, sagittal": _cut(mni),
        "a head in EPI, skull on (nibabel)": volume(head),
        "blank": np.zeros((1, CANVAS, CANVAS)),
        "white": np.ones((1, CANVAS, CANVAS)),
        "white noise": rng.random((16, CANVAS, CANVAS)),
        "a bright disc": np.hypot(*(np.mgrid[:CANVAS, :CANVAS] - CANVAS / 2))[None] < 70,
    }
    return {name: to_model(np.stack([normalise(s) for s in stack]), size) for name, stack in found.items()}


def _cut(volume: Slices) -> Slices:
    """Every fourth slice of the middle half of a volume along its first axis, the head up."""
    middle = volume[len(volume) // 4 : 3 * len(volume) // 4 : 4]
    return middle.transpose(0, 2, 1)[:, ::-1]


def changed(data: Path, model: OasisVQ, split: str) -> dict[str, Slices]:
    """Held-out slices, changed in each way of CHANGES, at the model's size in [-0.5, 0.5]."""
    preset = model.preset
    whole = load_for(preset, data, split, CANVAS).slices[::EVERY] + np.float32(0.5)
    rng = np.random.default_rng(0)
    bar = tqdm(CHANGES.items(), "changing slices", disable=None, leave=False)
    return {
        name: to_model(np.stack([normalise(s) for s in change(whole, rng).astype(np.float32)]), preset.size)
        for name, change in bar
    }


def compared(model: OasisVQ, slices: Slices) -> dict[str, Any]:
    """How many of some slices are called unlike the training data, and why."""
    verdicts = out_of_distribution.unlike(model, torch.from_numpy(slices.astype(np.float32))[:, None])
    reasons = Counter(reason for verdict in verdicts for reason in verdict.reasons)
    return {
        "slices": len(verdicts),
        "unlike": float(np.mean([verdict.unlike for verdict in verdicts])),
        "score_median": float(min(1e3, np.median([verdict.score for verdict in verdicts]))),
        "ssim_foreground": _mean([verdict.measures["ssim_foreground"] for verdict in verdicts]),
        "reasons": {reason: count / len(verdicts) for reason, count in reasons.most_common(3)},
    }


def traits(model: OasisVQ, data: SliceSet) -> tuple[dict[str, NDArray[np.float64]], Slices]:
    """What is known of each held-out slice, and its reconstruction."""
    slices = torch.from_numpy(data.slices)[:, None]
    again = np.concatenate([model.reconstruct(part).slices[:, 0].numpy() for part in slices.split(64)]) + 0.5
    pictures = data.slices + 0.5
    grades = np.array([*model.preset.grades, np.nan])
    known = out_of_distribution.measure(model, slices) | {
        "level": data.levels.astype(float),
        "grade": grades[data.grades],
        "ssim": np.array([metrics.ssim(a, b) for a, b in zip(pictures, again, strict=True)]),
        "sharpness": np.array([metrics.sharpness(a, b) for a, b in zip(pictures, again, strict=True)]),
        # Energy of the gradient inside the brain: folds, vessels, noise.
        "detail": np.array([sum(np.square(g)[foreground(s)].mean() for g in np.gradient(s)) for s in pictures]),
    }
    return known, again


def worst(known: dict[str, NDArray[np.float64]], cases: list[str]) -> dict[str, Any]:
    """The worst slices by brain-only SSIM, and how each trait of theirs stands to all slices."""
    order = np.argsort(known["ssim_foreground"])[:WORST]
    rows = [{name: round(float(known[name][i]), 4) for name in ("ssim", "ssim_foreground", *TRAITS)} for i in order]
    shared = {}
    for name in TRAITS:
        all_of_them = known[name]
        rank = stats.spearmanr(all_of_them, known["ssim_foreground"], nan_policy="omit").statistic
        shared[name] = {
            "worst_mean": _mean(all_of_them[order]),
            "all_mean": _mean(all_of_them),
            "all_sd": float(np.nanstd(all_of_them)),
            "rank_correlation": float(rank),
        }
    return {
        "rows": rows,
        "people_among_worst": len({cases[i] for i in order}),
        "most_of_one_person": max(Counter(cases[i] for i in order).values()),
        "shared": shared,
    }


def by(known: dict[str, NDArray[np.float64]], cases: list[str], name: str) -> dict[str, Any]:
    """Means over people for each value of a trait."""
    found = {}
    for value in np.unique(known[name][np.isfinite(known[name])]):
        rows = np.flatnonzero(known[name] == value).tolist()
        people = [cases[i] for i in rows]
        found[f"{value:g}"] = {
            "people": len(set(people)),
            **{key: float(metrics.by_person(known[key][rows], people).mean()) for key in ("ssim", "ssim_foreground")},
        }
    return found


def run(model: OasisVQ, data: Path, split: str, sheet: Path | None) -> dict[str, Any]:
    preset = model.preset
    held_out = load_for(preset, data, split)
    known, again = traits(model, held_out)
    if sheet:
        order = np.argsort(known["ssim_foreground"])[:WORST]
        write_sheet(held_out.slices[order] + 0.5, again[order], sheet)
    foreign = changed(data, model, split) | elsewhere(preset.size)
    bar = tqdm(foreign.items(), "judging", disable=None, leave=False)
    return {
        "split": split,
        "people": len(set(held_out.cases)),
        "slices": len(held_out),
        "by_level": by(known, held_out.cases, "level"),
        "by_grade": by(known, held_out.cases, "grade"),
        "worst": worst(known, held_out.cases),
        "foreign": {name: compared(model, slices) for name, slices in bar},
        "weights_sha256": model.weights_sha256,
    }


def write_sheet(originals: Slices, again: Slices, path: Path) -> None:
    """Originals over reconstructions over their difference, four times enlarged."""
    difference = 0.5 + 2 * (again - originals)
    sheet = np.vstack([np.hstack(list(row)) for row in (originals, again, difference)])
    image = Image.fromarray((sheet.clip(0, 1) * 255).round().astype(np.uint8))
    image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC).save(path)


def table(figures: dict[str, Any]) -> str:
    """The figures as lines to read."""
    found = figures["worst"]
    lines = [
        f"{figures['slices']} slices of {figures['people']} people, split {figures['split']}",
        "",
        f"the {WORST} worst by brain-only SSIM, of {found['people_among_worst']} people",
        "".join(f"{name[:14]:>16}" for name in ("ssim", "ssim_foreground", *TRAITS)),
    ]
    lines += ["".join(f"{value:16.3f}" for value in row.values()) for row in found["rows"]]
    lines += ["", f"{'trait':22}{'worst':>10}{'all':>10}{'sd':>10}{'rank correlation with brain-only SSIM':>40}"]
    for name, row in found["shared"].items():
        lines.append(
            f"{name:22}{row['worst_mean']:10.4f}{row['all_mean']:10.4f}{row['all_sd']:10.4f}{row['rank_correlation']:40.2f}"
        )
    for name in ("by_grade", "by_level"):
        lines += ["", f"{name.replace('_', ' '):10}{'people':>8}{'SSIM':>8}{'brain':>8}"]
        lines += [
            f"{value:10}{row['people']:8}{row['ssim']:8.4f}{row['ssim_foreground']:8.4f}"
            for value, row in figures[name].items()
        ]
    lines += [
        "",
        f"{'slices from elsewhere':38}{'n':>5}{'unlike':>8}{'score':>8}{'SSIM brain':>12}  most frequent reasons",
    ]
    for name, row in figures["foreign"].items():
        reasons = "; ".join(f"{reason} {share:.0%}" for reason, share in row["reasons"].items())
        text = f"{row['slices']:5}{row['unlike']:8.1%}{row['score_median']:8.2f}{row['ssim_foreground']:12.3f}"
        lines.append(f"{name:38}{text}  {reasons}")
    return "\n".join(lines)


def _mean(values: Any) -> float:
    finite = np.asarray(values, float)[np.isfinite(np.asarray(values, float))]
    return float(finite.mean()) if finite.size else 0.0


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__name__, __doc__, "write the figures here instead of beside the weights")
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="folder of weights")
    parser.add_argument("--data", type=Path, required=True, help="slices in the PNG layout")
    parser.add_argument("--split", choices=("train", "validate", "test"), default="test")
    parser.add_argument(
        "--sheet",
        type=Path,
        help="write the worst slices here, their reconstructions and the differences. "
        "IT SHOWS SLICES OF REAL PEOPLE when the data are real: do not share it, do not commit it",
    )
    args = parser.parse_args(arguments)
    figures = run(OasisVQ.from_pretrained(args.weights), args.data, args.split, args.sheet)
    write_record(args.json or args.weights / FAILURES, figures)
    print(table(figures))
