"""How much the phantom cohort looks like real slices: the same figures of both, side by side.

    python -m oasisvq benchmark phantom --phantom data/phantom --real keras_png_slices_data

Both folders are in the PNG layout. Figures are of the training people, at 80x80, brightness as the models see it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks._parser import new_parser
from oasisvq.data.layout import SliceSet, load_split
from oasisvq.data.slices import foreground
from oasisvq.measure.metrics import ssim
from oasisvq.measure.record import write_record

QUANTILES = (5, 25, 50, 75, 95)


def figures(data: SliceSet, people: int) -> tuple[dict[str, float], np.ndarray]:
    """The figures of one set, and its grey-level histogram (share of brain pixels in 48 bins)."""
    names = np.array(data.cases)
    cases = sorted(set(data.cases))[:people]
    images = data.slices + 0.5
    stacks = {case: images[names == case] for case in cases}
    brains = {case: np.stack([foreground(image) for image in stack]) for case, stack in stacks.items()}
    areas = [brain.mean((1, 2)).mean() * 100 for brain in brains.values()]
    values = np.concatenate([stacks[case][brains[case]] for case in cases])
    dark = [(stacks[case] < 0.3)[_core(brains[case])].mean() * 100 for case in cases]
    edges = [np.hypot(*np.gradient(stacks[case], axis=(1, 2)))[brains[case]].mean() for case in cases]
    mirror = [np.abs(stack - stack[:, :, ::-1])[brains[case]].mean() * 255 for case, stack in stacks.items()]
    neighbours = [np.abs(np.diff(stack, axis=0)).mean() * 255 for stack in stacks.values()]
    nearest, distances = _nearest(stacks)
    result = {
        "people": len(cases),
        "brain area, % of slice: mean": np.mean(areas),
        "brain area: sd between people": np.std(areas),
        **{f"brightness in the brain: {q}th percentile": np.percentile(values, q) for q in QUANTILES},
        "dark share of the deep brain, %: mean": np.mean(dark),
        "dark share of the deep brain: sd": np.std(dark),
        "edges: mean gradient in the brain": np.mean(edges),
        "difference to own mirror image, of 255": np.mean(mirror),
        "difference of neighbouring levels, of 255": np.mean(neighbours),
        "difference between people, of 255": distances,
        "SSIM to the nearest other person: median": np.median(nearest),
        "SSIM to the nearest other person: highest": np.max(nearest),
    }
    histogram, _ = np.histogram(values, 48, (0.02, 1.0))
    return {key: float(value) for key, value in result.items()}, histogram / len(values)


def _core(brains: np.ndarray) -> np.ndarray:
    """The deep brain, where dark pixels are ventricle and not the water between folds."""
    return np.stack([ndimage.distance_transform_edt(brain) > 12 for brain in brains])


def _nearest(stacks: dict[str, np.ndarray]) -> tuple[list[float], float]:
    """SSIM of each person to the nearest other person, a mean over four levels, and the mean absolute difference."""
    chosen = [stack[np.linspace(0, len(stack) - 1, 4).round().astype(int)] for stack in stacks.values()]
    similar = np.full((len(chosen), len(chosen)), -1.0)
    differences = []
    for i, a in enumerate(chosen):
        for j, b in enumerate(chosen[:i]):
            similar[i, j] = similar[j, i] = np.mean([ssim(x, y) for x, y in zip(a, b, strict=True)])
            differences.append(np.abs(a - b).mean() * 255)
    return similar.max(1).tolist(), float(np.mean(differences))


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--phantom", type=Path, required=True, help="a cohort made by `python -m oasisvq prepare`")
    parser.add_argument("--real", type=Path, required=True, help="real slices in the PNG layout")
    parser.add_argument("--people", type=int, default=40, help="people of each to compare (default 40)")
    args = parser.parse_args(arguments)

    phantom, phantom_histogram = figures(load_split(args.phantom, "train"), args.people)
    real, real_histogram = figures(load_split(args.real, "train"), args.people)
    overlap = float(np.minimum(phantom_histogram, real_histogram).sum())
    width = max(map(len, real))
    print(f"{'':{width}}  {'phantom':>9}  {'real':>9}")
    for key in real:
        print(f"{key:{width}}  {phantom[key]:9.3f}  {real[key]:9.3f}")
    print(f"overlap of the grey-level histograms (1: equal): {overlap:.3f}")
    if args.json:
        write_record(args.json, {"phantom": phantom, "real": real, "histogram_overlap": overlap})
