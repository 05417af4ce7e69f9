"""Is a slice unlike what a model learned from? A few plain measures, each held against people it was not trained on.

No measure is a diagnosis and none knows disease: a slice is unlike the training data when it is another plane, another
contrast, moved, noisy, or not a brain at all, and then nothing that the prior says about it should be believed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oasisvq.data.slices import foreground
from oasisvq.errors import OasisVQError
from oasisvq.measure import metrics
from oasisvq.models.tokenizer import shrink
from oasisvq.pipeline import Coded, OasisVQ

FALSE_ALARMS = 0.05  # share of validation slices beyond the threshold
BATCH = 64

# What is said of a slice below and above the usual range of a measure; None where that side is never a reason.
MEASURES: dict[str, tuple[str | None, str | None]] = {
    "bits_per_code": (None, "the prior did not expect its codes"),
    "bits_per_brain_code": (None, "the prior did not expect its codes"),
    "code_distance": (None, "the codebook has no close code for parts of it"),
    "ssim_foreground": ("its reconstruction is poorer than usual", None),
    "brain_area": ("the brain is smaller than usual", "the brain is larger than usual"),
    "brightness": ("the brain is darker than usual", "the brain is brighter than usual"),
    "centre_row": ("the brain lies higher in the picture than usual", "the brain lies lower in the picture than usual"),
    "centre_column": ("the brain lies off centre in the picture", "the brain lies off centre in the picture"),
}

# The least that counts as one unit, where people are too much alike to set one: registered brains all lie within a
# fraction of a pixel. Shares of the slice and of its side: 3 mm on a canvas of 256 mm.
SLACK = {"brain_area": 0.01, "centre_row": 3 / 256, "centre_column": 3 / 256}


@dataclass(frozen=True)
class Unlike:
    """How far one slice lies from held-out people.

    Attributes:
        score: the largest deviation among the measures, in units of the usual range: 0 at the median of validation
            slices, 1 where 5 % of them lie further out on that side, or at SLACK where people are too much alike.
            Infinite when no brain is found.
        threshold: the score that a fixed share of validation slices exceeds.
        reasons: what exceeds the threshold, in plain words, the largest deviation first. Empty when nothing does.
        measures: the measures themselves, by the names in MEASURES; NaN where there is no brain.
    """

    score: float
    threshold: float
    reasons: tuple[str, ...]
    measures: Mapping[str, float]

    @property
    def unlike(self) -> bool:
        """Whether the slice is unlike the training data."""
        return self.score > self.threshold

    @property
    def clear(self) -> bool:
        """Whether there is a brain in the slice, and the SSIM of its reconstruction is as high as usual."""
        return math.isfinite(self.score) and MEASURES["ssim_foreground"][0] not in self.reasons


def unlike(model: OasisVQ, slices: Tensor, known: tuple[Coded, Tensor] | None = None) -> list[Unlike]:
    """Compare slices with the people that `calibrate` saw.

    Args:
        model: whose results hold a calibration, see `calibrated`.
        slices: (B, 1, S, S) in [-0.5, 0.5].
        known: what `model.reconstruct` and, level and grade unknown, `model.surprise` say of them, if that was asked.

    Raises OasisVQError when the weights come without a calibration, or on another shape or range.
    """
    if not calibrated(model):
        raise OasisVQError(
            "these weights carry no calibration: `python -m oasisvq evaluate` makes one, given validation people"
        )
    return compare(measure(model, slices, known), model.info["results"]["unlike"])


def calibrated(model: OasisVQ) -> bool:
    """Whether the weights carry a calibration, so that `unlike` can be asked."""
    return "unlike" in (model.info["results"] or {})


def calibrate(measured: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """The usual range of each measure and the threshold, from the slices of validation people.

    Returns plain values, ready for JSON: `ranges` with the 5th, 50th and 95th percentile by measure, and `threshold`.
    """
    ranges = {name: np.nanpercentile(values, [5, 50, 95]).tolist() for name, values in measured.items()}
    scores = np.max(list(_deviations(measured, ranges).values()), axis=0)
    return {"ranges": ranges, "threshold": float(np.quantile(scores, 1 - FALSE_ALARMS))}


def compare(measured: Mapping[str, NDArray[np.float64]], calibration: Mapping[str, Any]) -> list[Unlike]:
    """Measures of slices, held against a calibration."""
    threshold = calibration["threshold"]
    deviations = _deviations(measured, calibration["ranges"])
    verdicts = []
    for i in range(len(measured["brain_area"])):
        values = {name: float(column[i]) for name, column in measured.items()}
        far = {name: float(column[i]) for name, column in deviations.items()}
        if values["brain_area"] == 0:
            verdicts.append(Unlike(math.inf, threshold, ("no brain was found in it",), values))
            continue
        names = sorted((name for name in far if far[name] > threshold), key=lambda name: -far[name])
        sides = {name: values[name] > calibration["ranges"][name][1] for name in names}
        reasons = tuple(dict.fromkeys(str(MEASURES[name][sides[name]]) for name in names))
        verdicts.append(Unlike(max(far.values()), threshold, reasons, values))
    return verdicts


def measure(
    model: OasisVQ, slices: Tensor, known: tuple[Coded, Tensor] | None = None
) -> dict[str, NDArray[np.float64]]:
    """The measures of MEASURES, (B,) each, of slices (B, 1, S, S) in [-0.5, 0.5]. NaN where a slice holds no brain.

    `known` is as for `unlike`.

    Those of a cascade are its coarse stage's, but for SSIM, which notices noise: finer codes are texture, which hardly
    changes when a brain is moved or turned, and there are ten of them for each code that would.
    """
    rows = []
    for start in range(0, len(slices), BATCH):
        some = slice(start, start + BATCH)
        if known is None:
            coded = model.reconstruct(slices[some])
            # Level and grade stay unknown, in calibration as in use: an upload does not tell them.
            surprise = model.surprise(coded.indices)
        else:
            coded, surprise = Coded(known[0].indices[some], known[0].slices[some]), known[1][some]
        rows.append(_measure(model, slices[some], coded, surprise))
    return {name: np.concatenate([row[name] for row in rows]) for name in MEASURES}


@torch.inference_mode()
def _measure(model: OasisVQ, slices: Tensor, coded: Coded, surprise: Tensor) -> dict[str, NDArray[np.float64]]:
    pairs = zip(slices[:, 0].numpy() + 0.5, coded.slices[:, 0].numpy() + 0.5, strict=True)
    ssim = np.array([metrics.foreground_ssim(*pair) for pair in pairs])
    stage = model.stages[0]
    small = shrink(slices, stage.preset.size) if model.coarse else slices
    return _measure_stage(stage, small, model.preset.split(surprise)[0].numpy()) | {"ssim_foreground": ssim}


def _measure_stage(model: OasisVQ, slices: Tensor, bits: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """All measures but SSIM. `bits` are of the codes, (B, h, w)."""
    size, depth = model.preset.size, model.preset.depth
    on_device = slices.to(model.device, torch.float32)
    seen, indices = model.vqvae.assign(on_device)
    last = slice(depth - 1, None, depth)  # what is left for a cell's last code, and what that code says of it
    left = seen[:, :, last] - model.vqvae.codebook[indices[:, :, last]]  # (B, h, w, D)
    distance = left.square().sum(3).sqrt().cpu().numpy()

    pictures = slices[:, 0].numpy() + 0.5
    cells = metrics.brain_cells(pictures, model.preset.grid)
    codes = metrics.brain_codes(pictures, model.preset)
    columns: dict[str, list[float]] = {name: [] for name in MEASURES if name != "ssim_foreground"}
    for i, picture in enumerate(pictures):
        brain = foreground(picture)
        rows_at, columns_at = np.nonzero(brain)
        values = {
            "bits_per_code": _mean(bits[i]),
            "bits_per_brain_code": _mean(bits[i][codes[i]]),
            "code_distance": _mean(distance[i][cells[i, :, ::depth]]),
            "brain_area": float(brain.mean()),
            "brightness": _mean(picture[brain]),
            "centre_row": _mean(rows_at) / size,
            "centre_column": _mean(columns_at) / size,
        }
        for name, value in values.items():
            columns[name].append(value)
    return {name: np.array(values) for name, values in columns.items()}


def _deviations(
    measured: Mapping[str, NDArray[np.float64]], ranges: Mapping[str, list[float]]
) -> dict[str, NDArray[np.float64]]:
    """How far each value lies from the median, in units of the usual range on its side; 0 on a side without words."""
    far = {}
    for name, values in measured.items():
        low, middle, high = ranges[name]
        below, above = MEASURES[name]
        slack = SLACK.get(name, 1e-9)
        unit_below, unit_above = max(middle - low, slack), max(high - middle, slack)
        deviation = np.where(values < middle, (middle - values) / unit_below, (values - middle) / unit_above)
        counts = np.where(values < middle, below is not None, above is not None)
        far[name] = np.where(counts, np.nan_to_num(deviation, nan=0.0), 0.0)
    return far


def _mean(values: NDArray[Any]) -> float:
    return float(np.mean(values)) if values.size else math.nan
