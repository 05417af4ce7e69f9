"""The measurements of a slice on the page Reconstruct, and their downloads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oasisvq.app.choose import Chosen, Kept, as_tensor, shrunk
from oasisvq.app.models import compute_slot
from oasisvq.app.terms import GLOSSARY, Figure
from oasisvq.app.wording import DISCLAIMER, unlike
from oasisvq.data.codes import write_codes

if TYPE_CHECKING:
    from oasisvq.measure.out_of_distribution import Unlike
    from oasisvq.models.presets import Preset
    from oasisvq.pipeline import OasisVQ

_TOGETHER = 8  # slices examined in one compute slot


@dataclass(frozen=True)
class Examined:
    """One slice through the model: its codes (h, w), their reconstruction (S, S) in [0, 1], and how far off that is.

    `similarity` is the map of SSIM, (S, S); `bits` are of all codes under the prior, level and grade unknown; `unlike`
    is None where the weights carry no calibration.
    """

    indices: NDArray[np.int64]
    reconstruction: NDArray[np.float32]
    similarity: NDArray[np.floating]
    ssim: float
    ssim_foreground: float
    psnr: float
    bits: float
    unlike: Unlike | None

    @property
    def measured(self) -> dict[str, float]:
        """The figures under the names of `percentiles` in `results.json`."""
        return {
            "ssim": self.ssim,
            "ssim_foreground": self.ssim_foreground,
            "psnr": self.psnr,
            "bits_per_code": self.bits / self.indices.size,
        }


def examine(model: OasisVQ, pictures: NDArray[np.floating]) -> list[Examined]:
    """Code, decode and score slices (N, S, S) in [0, 1]. Takes a compute slot."""
    from oasisvq.measure import metrics, out_of_distribution

    # One slice is short: a head that is being drawn lets it go first. A whole scan waits as any long work does.
    with compute_slot(urgent=len(pictures) == 1):
        slices = as_tensor(pictures)
        coded = model.reconstruct(slices)
        surprise = model.surprise(coded.indices)
        known = coded, surprise
        verdicts = (
            out_of_distribution.unlike(model, slices, known)
            if out_of_distribution.calibrated(model)
            else [None] * len(pictures)
        )
    found = []
    for i, picture in enumerate(pictures):
        again = coded.slices[i, 0].numpy() + np.float32(0.5)
        similarity = metrics.similarity(picture, again)
        found.append(
            Examined(
                coded.indices[i].numpy(),
                again,
                similarity.map,
                similarity.ssim,
                similarity.foreground,
                metrics.psnr(picture, again),
                float(surprise[i].sum()),
                verdicts[i],
            )
        )
    return found


def examine_scan(model: OasisVQ, kept: Kept, progress: Callable[[int, int], None]) -> dict[str, list[float]]:
    """Every slice of a scan, lowest first: the figures of `Examined.measured`, and `unlike` (0, 1) where it is known.

    `progress` is called with (slices done, slices in all) after each step; what it raises ends the work.
    """
    stack, size = kept.scan.stack, model.preset.size
    rows: list[dict[str, float]] = []
    for start in range(0, len(stack), _TOGETHER):
        found = examine(model, shrunk(stack[start : start + _TOGETHER], size))
        rows += [one.measured | ({} if one.unlike is None else {"unlike": float(one.unlike.unlike)}) for one in found]
        progress(len(rows), len(stack))
    return {name: [row[name] for row in rows] for name in rows[0]}


def as_csv(found: Mapping[str, Sequence[float]], levels: Sequence[int | None]) -> str:
    """The figures of all slices of a scan as a table, a slice a line."""
    lines = [",".join(["slice", "model_level", *found])]
    for i, level in enumerate(levels):
        lines.append(
            ",".join([str(i + 1), "" if level is None else str(level), *(f"{found[k][i]:.5g}" for k in found)])
        )
    return "\n".join(lines) + "\n"


def rank(value: float, percentiles: Sequence[float]) -> int:
    """Per cent of the test slices that lie below a value, from their percentiles 0 to 100."""
    return round(float(np.interp(value, percentiles, range(len(percentiles)), left=0, right=100)))


def figures_of(examined: Examined, results: Mapping[str, Any], preset: Preset) -> list[Figure]:
    """The figures of a slice, what they mean, and how they compare with those of held-out people."""
    percentiles = results.get("percentiles", {})

    def standing(key: str, held_out: str = "") -> str:
        if key in percentiles and math.isfinite(examined.measured[key]):
            return f" Higher than {rank(examined.measured[key], percentiles[key])} % of the test slices."
        return f" Mean of the test slices: {results[held_out]:.3g}." if held_out in results else ""

    inside = "–" if math.isnan(examined.ssim_foreground) else f"{examined.ssim_foreground:.3f}"
    figures = [
        Figure("SSIM", f"{examined.ssim:.3f}", GLOSSARY["SSIM"] + standing("ssim", "ssim_mean")),
        Figure(
            "brain only",
            inside,
            "SSIM without the easy black background." + standing("ssim_foreground", "ssim_foreground_mean"),
        ),
        Figure(
            "PSNR",
            f"{examined.psnr:.1f} dB",
            "Peak signal-to-noise ratio in decibels: 6 dB more means half the error." + standing("psnr", "psnr_mean"),
        ),
        Figure(
            "under the prior",
            f"{examined.bits:,.0f} bits",
            f"All codes of this slice, {examined.bits / 8:,.0f} bytes, with level and grade unknown. Many bits mean: "
            "unusual for this model." + standing("bits_per_code"),
        ),
        Figure(
            "without the prior",
            f"{preset.plain_bits:,.0f} bits",
            f"{preset.codes:,} codes, each written in the same number of bits: {preset.plain_bits / 8:,.0f} bytes. As "
            f"pixels of 8 bits the slice takes {preset.size**2:,} bytes.",
        ),
    ]
    if examined.unlike is not None:
        figures.append(
            Figure("like the training data", "no" if examined.unlike.unlike else "yes", unlike(examined.unlike))
        )
    return figures


def report(info: Mapping[str, Any], chosen: Chosen, examined: Examined, kept: Kept | None) -> bytes:
    """The measurements as JSON, with what is needed to repeat them. It holds no file name and nothing of a header."""
    preset, files = info["preset"], info["files"]
    percentiles = (info["results"] or {}).get("percentiles", {})
    about: dict[str, Any] = {
        "what": "A slice, encoded and reconstructed from its codes by oasisvq",
        "warning": DISCLAIMER,
        "weights": {
            "preset": preset["name"],
            "vqvae_sha256": files["vqvae.safetensors"]["sha256"],
            "prior_sha256": files["prior.safetensors"]["sha256"],
            "repository": info["repo"],
            "revision": info["revision"],
            "training_seed": preset["seed"],
        },
        "seed": None,
        "seed_note": "nothing here is random: the same slice gives the same codes",
        "slice": {
            "number_from_below": chosen.index + 1,
            "of": chosen.count,
            "model_level": chosen.level,
            "edges_left_right_top_bottom": chosen.edges,
            "pixels": list(chosen.picture.shape),
        },
        "figures": {name: _with_rank(value, percentiles.get(name)) for name, value in examined.measured.items()}
        | {"bits_under_the_prior": {"value": examined.bits}},
        "codes_grid": list(examined.indices.shape),
    }
    if kept is not None:
        about["slice"] |= {"spacing_mm": kept.scan.spacing, "notes": kept.scan.notes, "warnings": kept.scan.warnings}
    if examined.unlike is not None:
        verdict = examined.unlike
        about["unlike_the_training_data"] = {
            "verdict": verdict.unlike,
            "score": verdict.score if math.isfinite(verdict.score) else None,
            "threshold": verdict.threshold,
            "reasons": verdict.reasons,
        }
    return (json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _with_rank(value: float, percentiles: Sequence[float] | None) -> dict[str, float | None]:
    """A figure for the report, and where it stands; None where a slice has none, as one without a brain."""
    if not math.isfinite(value):
        return {"value": None}
    figure: dict[str, float | None] = {"value": value}
    return figure | ({"percent_of_test_slices_below": rank(value, percentiles)} if percentiles else {})


def codes_file(info: Mapping[str, Any], examined: Examined) -> bytes:
    """The codes as a file that the command line and Edit codes read."""
    return write_codes(examined.indices[None], info["files"]["vqvae.safetensors"]["sha256"])
