"""Measure a model over a whole split, person by person: the figures that ship beside the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from oasisvq.data.layout import SliceSet, describe, load_for
from oasisvq.measure import metrics, out_of_distribution
from oasisvq.models.presets import Preset
from oasisvq.pipeline import Coded, OasisVQ

BATCH = 64
PERCENTILES = ("ssim", "ssim_foreground", "psnr", "sharpness", "bits_per_code", "bits_per_brain_code")


def evaluate(model: OasisVQ, data: Path, split: str = "test") -> dict[str, Any]:
    """Reconstruct and score every slice of a split.

    Means are over the slices of a person, then over people; intervals are bootstraps over people. The rivals of the
    prior (code histogram, two-neighbour table) count the codes of the training people of `data`, mirrored ones too, as
    the prior trained on both; they are left out where `data` has no training people. `percentiles` (0 to 100) are over
    slices, bits in them with level and grade unknown, as for an upload. `unlike` is calibrated on the validation people
    of `data` and left out where there are none; its false alarms are counted on the split.

    Returns plain values, ready for JSON. Raises OasisVQError when `data` lacks the split.
    """
    preset = model.preset
    held_out = load_for(preset, data, split)
    about = describe(data)

    indices, pictures = reconstruct(model, held_out)
    rows = [
        _score(o, r)
        for o, r in zip(tqdm(held_out.slices + 0.5, "scoring", disable=None, leave=False), pictures, strict=True)
    ]
    figures: dict[str, Any] = {"split": split, "people": len(set(held_out.cases)), "slices": len(held_out)}
    for name in rows[0]:
        values = [row[name] for row in rows]
        figures |= _summary(name, metrics.by_person(values, held_out.cases))
    figures["ssim_by_level"] = {
        int(level): float(np.mean([row["ssim"] for row, at in zip(rows, held_out.levels, strict=True) if at == level]))
        for level in np.unique(held_out.levels)
    }
    figures["ssim_by_grade"] = _by_grade(rows, held_out, preset.grades)
    greys = held_out.slices + 0.5
    *_, own = preset.split(torch.from_numpy(indices))
    own_brain, own_black = metrics.brain_cells(greys, preset.grid), metrics.background_cells(greys, preset.grid)
    figures |= _codebook_figures(own.numpy(), own_brain, own_black, preset.codebook_size)
    brain = metrics.brain_codes(greys, preset)

    nll = prior_bits(model, indices, held_out)
    alone = np.concatenate([model.surprise(part).numpy() for part in torch.from_numpy(indices).split(BATCH)])
    by_slice = {name: [row[name] for row in rows] for name in rows[0]}
    by_slice |= {"bits_per_code": alone.mean((1, 2)).tolist(), "bits_per_brain_code": _mean_in(brain, alone)}
    figures["percentiles"] = {name: np.nanpercentile(by_slice[name], range(101)).tolist() for name in PERCENTILES}
    if "validate" in about["people"]:
        known = Coded(torch.from_numpy(indices), torch.from_numpy(pictures - np.float32(0.5))[:, None])
        figures["unlike"] = _unlike(model, data, held_out, (known, torch.from_numpy(alone)))
    rivals = {}
    if "train" in about["people"]:
        train = load_for(preset, data, "train")
        rivals = _rivals(preset, _mirrored_codes(model, train), indices)
    for name, bits in {"nll_bits": nll, **rivals}.items():
        figures |= _summary(f"{name}_per_code", metrics.by_person(bits.mean((1, 2)), held_out.cases), suffix="")
        on_brain = metrics.by_person(_mean_in(brain, bits), held_out.cases)
        figures |= _summary(f"{name}_per_brain_code", on_brain, suffix="")
    figures |= _summary("untold_bits_per_code", metrics.by_person(alone.mean((1, 2)), held_out.cases), suffix="")
    codes, pixels = preset.codes, preset.size**2
    figures["bits_per_pixel"] = preset.plain_bits / pixels
    figures["bits_per_pixel_prior"] = figures["nll_bits_per_code"] * codes / pixels
    figures["bytes_per_slice_prior"] = figures["nll_bits_per_code"] * codes / 8
    figures["data"] = about
    figures["weights_sha256"] = model.weights_sha256
    return figures


def _mean_in(masks: np.ndarray, bits: np.ndarray) -> list[float]:
    """The mean over the codes in the mask of each slice, NaN where there are none: (N, h, w) both -> (N,)."""
    return [float(b[mask].mean()) if mask.any() else math.nan for b, mask in zip(bits, masks, strict=True)]


def _score(original: np.ndarray, reconstruction: np.ndarray) -> dict[str, float]:
    whole, brain, _ = metrics.similarity(original, reconstruction)
    return {
        "ssim": whole,
        "ssim_foreground": brain,
        "psnr": metrics.psnr(original, reconstruction),
        "sharpness": metrics.sharpness(original, reconstruction),
    }


def _summary(name: str, per_person: np.ndarray, suffix: str = "_mean") -> dict[str, Any]:
    return {
        f"{name}{suffix}": float(per_person.mean()),
        f"{name}_sd": float(per_person.std(ddof=1)) if len(per_person) > 1 else 0.0,
        f"{name}_ci95": list(metrics.bootstrap_ci95(per_person)),
    }


def _by_grade(rows: list[dict[str, float]], data: SliceSet, grades: tuple[float, ...]) -> dict[str, Any]:
    """Means over the people of each grade, their number beside them."""
    names = [*(f"{grade:g}" for grade in grades), "unknown"]
    cases = data.cases
    figures = {}
    for grade, name in enumerate(names):
        chosen = np.flatnonzero(data.grades == grade).tolist()
        people = [cases[i] for i in chosen]
        if people:
            means = {
                key: float(metrics.by_person([rows[i][key] for i in chosen], people).mean())
                for key in ("ssim", "ssim_foreground")
            }
            figures[name] = {"people": len(set(people)), **means}
    return figures


def _unlike(model: OasisVQ, data: Path, held_out: SliceSet, known: tuple[Coded, Tensor]) -> dict[str, Any]:
    """The calibration of `oasisvq.measure.out_of_distribution`, and how often it is wrong about held-out people."""
    validation = load_for(model.preset, data, "validate")
    usual = out_of_distribution.measure(model, torch.from_numpy(validation.slices)[:, None])
    measured = out_of_distribution.measure(model, torch.from_numpy(held_out.slices)[:, None], known)
    calibration = out_of_distribution.calibrate(usual)
    verdicts = out_of_distribution.compare(measured, calibration)
    alarms = metrics.by_person([verdict.unlike for verdict in verdicts], held_out.cases)
    return {
        **calibration,
        "people": len(set(validation.cases)),
        "slices": len(validation),
        **_summary("false_alarms", alarms, suffix=""),
    }


def _codebook_figures(indices: np.ndarray, brain: np.ndarray, black: np.ndarray, size: int) -> dict[str, Any]:
    # Cells at the rim and beside it say where the outline runs and need codes for that, so the background proper is
    # what lies beyond them. A code belongs to a part when it makes up at least one cell in a thousand of it.
    background = np.sort(np.bincount(indices[black], minlength=size))[::-1] / max(1, black.sum())
    outline = np.bincount(indices[~brain & ~black], minlength=size) / max(1, (~brain & ~black).sum())
    return {
        "codebook_size": size,
        "codebook_utilisation": metrics.utilisation(indices, size),
        "codebook_utilisation_brain": metrics.utilisation(indices[brain], size) if brain.any() else 0.0,
        "background_codes": int((background >= 1e-3).sum()),
        "background_codes_for_99_percent": int(np.searchsorted(background.cumsum(), 0.99) + 1) if black.any() else 0,
        "background_top_code_share": float(background[0]),
        "outline_codes": int((outline >= 1e-3).sum()),
        "perplexity": metrics.perplexity(indices, size),
        "perplexity_brain": metrics.perplexity(indices[brain], size) if brain.any() else 1.0,
    }


def reconstruct(model: OasisVQ, data: SliceSet) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, h, w) and reconstructions (N, S, S) in [0, 1]."""
    indices, pictures = [], []
    for start in tqdm(range(0, len(data), BATCH), "reconstructing", disable=None, leave=False):
        coded = model.reconstruct(torch.from_numpy(data.slices[start : start + BATCH])[:, None])
        indices.append(coded.indices.numpy())
        pictures.append(coded.slices[:, 0].numpy() + 0.5)
    return np.concatenate(indices), np.concatenate(pictures)


def _mirrored_codes(model: OasisVQ, data: SliceSet) -> np.ndarray:
    both = torch.from_numpy(np.concatenate([data.slices, data.slices[:, :, ::-1]]))[:, None]
    parts = tqdm(both.split(BATCH), "coding the training people", disable=None, leave=False)
    return torch.cat([model.encode(part) for part in parts]).numpy()


def _rivals(preset: Preset, seen: np.ndarray, indices: np.ndarray) -> dict[str, np.ndarray]:
    """-log2 p (N, h, w) under what was counted on the codes seen, apart for each stage and each place in a cell."""
    bits: dict[str, list[Tensor]] = {"table_bits": [], "histogram_bits": []}
    both = (preset.split(torch.from_numpy(codes)) for codes in (seen, indices))
    for stage, theirs, ours in zip(preset.stages, *both, strict=True):
        found = {name: np.empty(ours.shape) for name in bits}
        for place in range(stage.depth):
            some = np.s_[:, :, place :: stage.depth]
            table = metrics.NeighbourTable(theirs[some].numpy(), stage.codebook_size)
            found["table_bits"][some] = table.bits(ours[some].numpy())
            found["histogram_bits"][some] = table.histogram_bits(ours[some].numpy())
        for name in bits:
            bits[name].append(torch.from_numpy(found[name]))
    return {name: preset.join(parts).numpy() for name, parts in bits.items()}


def prior_bits(model: OasisVQ, indices: np.ndarray, data: SliceSet) -> np.ndarray:
    """-log2 p (N, h, w) under the prior, given the level of each slice and the grade where it is known."""
    grades: list[float | None] = [*model.preset.grades, None]
    bits = np.empty(indices.shape)
    together: dict[tuple[int, int], list[int]] = {}
    for i, key in enumerate(zip(data.levels.tolist(), data.grades.tolist(), strict=True)):
        together.setdefault(key, []).append(i)
    for (level, grade), rows in tqdm(together.items(), "scoring codes", disable=None, leave=False):
        bits[rows] = model.surprise(torch.from_numpy(indices[rows]), level, grades[grade]).numpy()
    return bits
