"""Figures in README.md and docs/, written between markers from the JSON beside the shipped weights and in RECORDS.

    python -m oasisvq benchmark figures [--check]

A line `<!-- figures: NAME -->` begins a block, `<!-- end -->` ends it; between them stands what the function NAME of
BLOCKS makes. A figure that weights have no record of reads "not measured". With `--check` nothing is written, and text
that disagrees with the JSON is an error.
"""

from __future__ import annotations

import functools
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import binomtest

from benchmarks._parser import new_parser
from benchmarks.quality.rate import CODECS, at
from benchmarks.system.mutants import MODULES as MUTATED
from oasisvq.errors import OasisVQError
from oasisvq.files import HOME
from oasisvq.hub import sources
from oasisvq.hub.manifest import MODELS, read_history, read_manifest, read_records
from oasisvq.models.presets import Preset
from oasisvq.training.reproducibility import MEASURED as MEASURED_ON

DOCUMENTS = (HOME / "README.md", *sorted((HOME / "docs").glob("*.md")))
RECORDS = HOME / "benchmarks" / "records"  # of what is measured of a machine: `--json benchmarks/records/NAME.json`
NONE = "not measured"

_AGAINST = "draws.auc.against"
_UNTOLD = "untold.auc.against_reconstructions"
_FULL_SIZE = "draws.auc_full_size.against_reconstructions"
_PEOPLE = "draws.auc.training.against_held_out"
_COPIES = "draws.copies"
_MEMBERS = "draws.membership"
_LESIONS = "lesions.scores.unusual"
_MAPS = {
    "unusual": "deviation map",
    "bits": "bits per code alone",
    "bits_given_neighbours": "bits per code given neighbours",
}
_SIZES = ("3", "4", "6", "9", "12")  # pixels across
_CONSTANTS = ("nearness", "least", "smoothing")  # of the deviation map

_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Weights(NamedTuple):
    """A shipped folder: its preset, its manifest, and what was measured, by file name without `.json`."""

    name: str
    preset: Preset
    manifest: dict[str, Any]
    records: dict[str, Any]
    history: dict[str, list[dict[str, Any]]]

    def find(self, path: str) -> Any:
        """A figure by record and keys, as in "draws.auc.against_held_out"; None where there is none."""
        found: Any = self.records
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def text(self, path: str, form: str) -> str:
        """A figure as text, with its interval where there is one."""
        value = self.find(path)
        if value is None:
            return NONE
        interval = self.find(f"{path.removesuffix('_mean')}_ci95")
        text = f"{value:{form}}" + (f" ({interval[0]:{form}} to {interval[1]:{form}})" if interval else "")
        return text.replace("%", " %")

    def spread(self, path: str) -> str:
        """The mean over seeds, and the least and the most of them."""
        value, by_seed = self.find(path), self.find(f"{path}_by_seed") or self.find(f"{path} by seed")
        if value is None or not by_seed:
            return NONE
        return f"{value:.2f} ({min(by_seed):.2f} to {max(by_seed):.2f})"


def shipped(folder: Path | None = None) -> list[Weights]:
    """All weights in a folder (default: those that come with oasisvq), the smallest slices first."""
    found = []
    for path in (folder or sources.BUNDLED).glob("*/manifest.json"):
        manifest = read_manifest(path.parent)
        preset = Preset.from_dict(manifest["preset"])
        records = read_records(path.parent, manifest)
        history = {model: lines for model, lines in read_history(path.parent, manifest).items() if lines}
        found.append(Weights(path.parent.name, preset, manifest, records, history))
    return sorted(found, key=lambda weights: (weights.preset.size, weights.name))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


Row = tuple[str, Callable[[Weights], str]]


def _by_model(weights: Sequence[Weights], rows: Sequence[tuple[Row, str]], against: str = "For comparison") -> str:
    head = ["Measure", *(one.name for one in weights), against]
    return table(head, [[label, *map(value, weights), other] for (label, value), other in rows])


def _figure(label: str, path: str, form: str) -> Row:
    return label, lambda weights: weights.text(path, form)


def _spread(label: str, path: str) -> Row:
    return label, lambda weights: weights.spread(path)


def _codes(preset: Preset) -> str:
    return " and ".join(f"{'×'.join(map(str, stage.grid))} of {stage.codebook_size}" for stage in preset.stages)


# Rate: ours against the image codecs


_WHERE = {"codecs": "a file a slice", "together": "the slices of a person in one picture"}


class Point(NamedTuple):
    label: str
    bytes: float
    ssim: float
    brain: float


def _ours(weights: Weights) -> Point | None:
    own = weights.find(f"rate.sizes.{weights.preset.size}.models.{weights.name}.prior")
    return own and Point(f"**{weights.name}**", own["bytes"], own["ssim"], own["ssim_foreground"])


def _rivals(weights: Weights, where: str, value: float) -> Iterator[Point]:
    """Every setting of every codec, and what lies between two of them where a figure has a value."""
    for key, how in _WHERE.items():
        for codec, points in (weights.find(f"rate.sizes.{weights.preset.size}.{key}") or {}).items():
            between = {name: at(points, where, value, name) for name in ("bytes", "ssim", "ssim_foreground")}
            for one in (*points, between | {where: value}):
                if not math.isnan(one["ssim"]):
                    yield Point(f"{codec}, {how}", one["bytes"], one["ssim"], one["ssim_foreground"])


def _compared(weights: Weights) -> bool:
    """Whether every codec was measured at the size of these weights: of a part of them none is the best."""
    found = weights.find(f"rate.sizes.{weights.preset.size}") or {}
    points = [(found.get(where, {}).get(name, ()), codec) for where in _WHERE for name, codec in CODECS.items()]
    return all(len(measured) == len(codec.steps) for measured, codec in points)


def _clearest(weights: Weights) -> Point | None:
    """The codec of the highest SSIM in no more bytes than ours; None where all need more."""
    own = _ours(weights) if _compared(weights) else None
    small = [point for point in _rivals(weights, "bytes", own.bytes) if point.bytes <= own.bytes] if own else []
    return max(small, key=lambda point: point.ssim, default=None)


def _smallest(weights: Weights) -> Point | None:
    """The codec that is as clear over the brain as ours in the fewest bytes; None where none gets so clear."""
    own = _ours(weights) if _compared(weights) else None
    clear = (
        [point for point in _rivals(weights, "ssim_foreground", own.brain) if point.brain >= own.brain] if own else []
    )
    return min(clear, key=lambda point: point.bytes, default=None)


def _codec_in_as_few_bytes(weights: Weights) -> str:
    if _ours(weights) is None or not _compared(weights):
        return NONE
    best = _clearest(weights)
    return f"{best.ssim:.3f}, {best.label.split(',')[0]}" if best else "no codec is that small"


def _video(one: Weights, weights: Sequence[Weights]) -> str:
    """The smallest video as clear as the reconstructions; it hangs on the VQ-VAE alone, which weights may share."""
    own = _sha256(one, "vqvae.safetensors")
    for other in weights:
        codecs = other.find("heads.videos.codecs")
        if codecs and _sha256(other, "vqvae.safetensors") == own:
            name, least = min(codecs.items(), key=lambda item: item[1]["bytes_at_this_ssim"])
            return f"{least['bytes_at_this_ssim']:.0f}, {name.split(' (')[0]}"
    return NONE


# Whom the weights learned from


def _coarse_members(one: Weights, weights: Sequence[Weights]) -> tuple[str, float] | None:
    """Of a cascade: by which weights its coarse prior ships alone too, and the AUC that was measured with them."""
    own = _sha256(one, "coarse/prior.safetensors")
    for other in weights:
        found = other.find(f"{_MEMBERS}.auc_people")
        if own and found is not None and _sha256(other, "prior.safetensors") == own:
            return other.name, found
    return None


def _most_revealing(one: Weights, weights: Sequence[Weights]) -> str:
    own, coarse = one.find(f"{_MEMBERS}.auc_people"), _coarse_members(one, weights)
    if coarse and (own is None or coarse[1] > own):
        return f"{coarse[1]:.2f}, the coarse prior, which is that of {coarse[0]}"
    unknown = one.preset.coarse is not None and coarse is None and own is not None
    return one.text(f"{_MEMBERS}.auc_people", ".2f") + (", the coarse prior not measured" if unknown else "")


def _by_the_coarse_prior(one: Weights, weights: Sequence[Weights]) -> str:
    if one.preset.coarse is None:
        return "one prior alone"
    coarse = _coarse_members(one, weights)
    return f"{coarse[1]:.2f}, that of {coarse[0]}" if coarse else NONE


def _nearest(one: Weights) -> str:
    own, people = (one.find(f"{_COPIES}.{whose}_median") for whose in ("draws", "held_out"))
    return f"{own:.3f} and {people:.3f}" if own is not None else NONE


def _sha256(one: Weights, file: str) -> str | None:
    return (one.manifest["files"].get(file) or {}).get("sha256")


# Blocks


def summary(weights: Sequence[Weights]) -> str:
    rows: list[tuple[Row, str]] = [
        (("pixels of a slice", lambda one: f"{one.preset.size} × {one.preset.size}"), ""),
        (("its codes, and their codebook", lambda one: _codes(one.preset)), ""),
        (_figure("SSIM of reconstructions", "results.ssim_mean", ".3f"), "1: equal"),
        (_figure("the same, brain only", "results.ssim_foreground_mean", ".3f"), "1: equal"),
        (("bytes of a slice as a file", lambda one: f"{own.bytes:.0f}" if (own := _ours(one)) else NONE), ""),
        (("SSIM of the best image codec in as many bytes", _codec_in_as_few_bytes), "JPEG, JPEG 2000, WebP, AVIF"),
        (
            ("bytes of the best video codec at the same SSIM, the levels as frames", lambda one: _video(one, weights)),
            "AV1, HEVC",
        ),
        (_figure("bits per code, PixelCNN, given level and grade", "results.nll_bits_per_code", ".2f"), ""),
        (_figure("bits per code, from left and upper neighbour", "results.table_bits_per_code", ".2f"), ""),
        (_choice("codes to choose from at a position of a sample", "draws"), ""),
        (
            _spread("AUC at 80 × 80, samples against reconstructions", f"{_AGAINST}_reconstructions"),
            "0.5: cannot be told apart",
        ),
        (_spread("the same, linear classifier", f"{_AGAINST}_reconstructions_linear"), "0.5: cannot be told apart"),
        (_spread("AUC, training against test people", _PEOPLE), "how much real people differ"),
        (
            _figure("Fréchet distance, samples over training slices", "draws.frechet.ratio", ".2f"),
            "1: as close",
        ),
        (
            _figure(
                "samples nearer to a training slice than 99 % of test people's reconstructions",
                f"{_COPIES}.share_closer",
                ".1%",
            ),
            "1 %: no copies",
        ),
        (("distance to the nearest training slice, samples and reconstructions", _nearest), "equal"),
        (
            ("AUC of membership inference, by the stage that reveals most", lambda one: _most_revealing(one, weights)),
            "0.5: chance",
        ),
        (
            _figure(
                "painted lesions of 6 to 12 of 80 pixels (19 to 38 mm), given the level: area under the ROC curve",
                f"{_LESIONS}.at_6_and_more.auroc_slice",
                ".2f",
            ),
            "0.5: chance",
        ),
    ]
    return _by_model([one for one in weights if one.find("results")] or weights, rows)


def measured_on(weights: Sequence[Weights]) -> str:
    lines = []
    for one in weights:
        data, test = one.manifest["data"], one.find("results")
        learned = f"{one.name} learned from {data['slices']['train']:,} slices of {data['people']['train']} people"
        on = f" and was measured on {test['slices']:,} slices of {test['people']} others" if test else ""
        files = one.manifest["files"]["vqvae.safetensors"]["sha256"][:12]
        lines.append(f"- {learned}{on}; VQ-VAE `{files}`, [model card](../checkpoints/{one.name}/README.md)")
    return "\n".join(lines)


def reconstruction(weights: Sequence[Weights]) -> str:
    rows = [
        _figure("SSIM", "results.ssim_mean", ".3f"),
        _figure("SSIM, brain only", "results.ssim_foreground_mean", ".3f"),
        _figure("PSNR, dB", "results.psnr_mean", ".1f"),
        _figure("sharpness, reconstruction over original", "results.sharpness_mean", ".2f"),
        _figure("bits per code under the prior, given level and grade", "results.nll_bits_per_code", ".2f"),
        _figure("the same, given neither", "results.untold_bits_per_code", ".2f"),
        _figure("from left and upper neighbour", "results.table_bits_per_code", ".2f"),
        _figure("from the code histogram", "results.histogram_bits_per_code", ".2f"),
        _figure("bits per brain code under the prior", "results.nll_bits_per_brain_code", ".2f"),
        _figure("the same from left and upper neighbour", "results.table_bits_per_brain_code", ".2f"),
        _figure("bytes per slice, under the prior", "results.bytes_per_slice_prior", ".0f"),
        _figure("bits per pixel, codes written plainly", "results.bits_per_pixel", ".4f"),
        _figure("share of the codebook in use", "results.codebook_utilisation", ".1%"),
        _figure("codes on the background, away from the outline", "results.background_codes", "d"),
        _figure("codes along the outline", "results.outline_codes", "d"),
        _figure("test slices called unlike the training data", "results.unlike.false_alarms", ".1%"),
    ]
    head = ["Measure", *(f"{one.name}: {one.preset.size} px, {_codes(one.preset)} codes" for one in weights)]
    return table(head, [[label, *map(value, weights)] for label, value in rows])


def rate(weights: Sequence[Weights]) -> str:
    rows = [
        [point.label, f"{point.bytes:.0f}", f"{point.ssim:.3f}", f"{point.brain:.3f}"]
        for one in weights
        for point in (_ours(one), _clearest(one), _smallest(one))
        if point
    ]
    return table(["", "bytes per slice", "SSIM", "brain only"], rows) if rows else NONE


def draws(weights: Sequence[Weights]) -> str:
    rows: list[tuple[Row, str]] = [
        (_choice("codes to choose from at a position", "draws"), ""),
        (_spread("AUC of a network, samples against reconstructions", f"{_AGAINST}_reconstructions"), "0.5"),
        (_spread("AUC of a linear classifier, the same", f"{_AGAINST}_reconstructions_linear"), "0.5"),
        (_spread("AUC of a network, the same at full size", _FULL_SIZE), "0.5"),
        (_spread("AUC of a linear classifier at full size", f"{_FULL_SIZE}_linear"), "0.5"),
        (_spread("AUC of a network, samples against test slices", f"{_AGAINST}_held_out"), "0.5"),
        (_spread("AUC of a linear classifier, the same", f"{_AGAINST}_held_out_linear"), "0.5"),
        (_spread("AUC of a network, training against test people", _PEOPLE), "0.5"),
        (_spread("AUC of a linear classifier, the same", f"{_PEOPLE}_linear"), "0.5"),
        (_figure("Fréchet distance to test people, over that of training slices", "draws.frechet.ratio", ".2f"), "1"),
        (_choice("codes to choose from, samples given neither level nor grade", "untold"), ""),
        (_spread("AUC of a network, samples given neither level nor grade, against reconstructions", _UNTOLD), "0.5"),
        (_spread("AUC of a linear classifier, the same", f"{_UNTOLD}_linear"), "0.5"),
        (_figure("Fréchet distance as above, given neither", "untold.frechet.ratio", ".2f"), "1"),
        (
            _figure(
                "samples nearer to a training slice than 99 % of reconstructions", f"{_COPIES}.share_closer", ".1%"
            ),
            "1 %",
        ),
        (
            _figure("distance of a sample to the nearest training slice, median", f"{_COPIES}.draws_median", ".3f"),
            "next row",
        ),
        (_figure("the same of test people's reconstructions", f"{_COPIES}.held_out_median", ".3f"), ""),
        (_figure("bits per code of training people", f"{_MEMBERS}.train_bits_per_code", ".2f"), "next row"),
        (_figure("bits per code of test people", f"{_MEMBERS}.held_out_bits_per_code", ".2f"), ""),
        (_figure("AUC of membership inference from bits", f"{_MEMBERS}.auc_people", ".2f"), "0.5"),
        (("the same by the coarse prior alone", lambda one: _by_the_coarse_prior(one, weights)), "0.5"),
        (_figure("the same, from one slice", f"{_MEMBERS}.auc_slices", ".2f"), "0.5"),
    ]
    return _by_model(weights, rows, "At best")


def _choice(label: str, record: str) -> Row:
    """From how many codes the samples of a record are."""
    return label, lambda one: str(one.find(f"{record}.top_k") or "all") if one.find(record) else NONE


def top_k(weights: Sequence[Weights]) -> str:
    measured = [(one.name, row) for one in weights for row in one.find("top_k.rows") or []]
    rows = [
        [
            name,
            str(row["top_k"] or "all"),
            _mean(row["auc"]),
            _mean(row["auc_linear"]),
            *(f"{ratio:.2f}" for ratio in row["anatomy_ratio"].values()),
            f"{row['frechet_ratio']:.2f}",
            f"{row['nearest_ratio']:.2f}",
        ]
        for name, row in measured
    ]
    if not rows:
        return NONE
    measures = measured[0][1]["anatomy_ratio"]
    head = ["", "codes", "AUC of a network", "AUC, linear", *measures, "Fréchet ratio", "nearest training slice"]
    return table(head, rows)


def strength(weights: Sequence[Weights]) -> str:
    rows = [
        [
            one.name,
            f"{row['strength']:g}",
            str(one.find("strength.top_k") or "all"),
            _mean(row["frechet_ratio"]),
            _mean(row["brightness_variance_ratio"]),
        ]
        for one in weights
        for row in one.find("strength.rows") or []
    ]
    head = ["", "strength", "codes", "Fréchet ratio", "variance of brightness, over that of training slices"]
    return table(head, rows) if rows else NONE


def _mean(by_seed: Sequence[float]) -> str:
    return f"{statistics.mean(by_seed):.2f} ({min(by_seed):.2f} to {max(by_seed):.2f})"


def anatomy(weights: Sequence[Weights]) -> str:
    measures = list(dict.fromkeys(name for one in weights for name in one.find("draws.anatomy") or {}))
    rows = [
        [
            name,
            *(
                f"{one.text(f'draws.anatomy.{name}.draws_ratio', '.1f')} "
                f"({one.text(f'draws.anatomy.{name}.reconstructions_ratio', '.1f')})"
                for one in weights
            ),
        ]
        for name in measures
        if any(isinstance(one.find(f"draws.anatomy.{name}"), dict) for one in weights)
    ]
    return table(["Samples (reconstructions)", *(one.name for one in weights)], rows) if rows else NONE


def outliers(weights: Sequence[Weights]) -> str:
    kinds = list(dict.fromkeys(kind for one in weights for kind in one.find("failures.foreign") or {}))
    rows = []
    for kind in kinds:
        found = [(one.find("failures.foreign") or {}).get(kind) for one in weights]
        rows.append([kind, *(f"{100 * row['unlike']:.0f} % of {row['slices']}" if row else NONE for row in found)])
    return table(["Slices", *(one.name for one in weights)], rows) if rows else NONE


def lesions(weights: Sequence[Weights]) -> str:
    rows = []
    for one in weights:
        for score, label in _MAPS.items():
            path = f"lesions.scores.{score}"
            if one.find(path):
                sizes = [one.text(f"{path}.by_size.{size}.auroc_slice", ".2f") for size in _SIZES]
                rows.append([f"{one.name}, {label}", *sizes, one.text(f"{path}.at_6_and_more.auroc_slice", ".2f")])
    return table(["", *(f"{size} px" for size in _SIZES), "6 px and more"], rows) if rows else NONE


def deviation(weights: Sequence[Weights]) -> str:
    rows = [
        [one.name, *(f"{row[name]:g}" for name in _CONSTANTS), f"{row['auroc_slice']:.3f}", f"{row['auroc_pixel']:.3f}"]
        for one in weights
        for row in one.find("deviation.rows") or []
    ]
    return table(["", *(f"`{name.upper()}`" for name in _CONSTANTS), "by slice", "by pixel"], rows) if rows else NONE


def heads(weights: Sequence[Weights]) -> str:
    rows: list[tuple[Row, str]] = [
        (_figure("bits per code, no neighbour known", "heads.bits_a_code.alone", ".2f"), ""),
        (_figure("bits per code, both neighbours known", "heads.bits_a_code.both_neighbours", ".2f"), ""),
        (_figure("bytes a slice, a file each", "heads.files.bytes_a_slice_alone", ".0f"), ""),
        (_figure("bytes a slice, one file a head", "heads.files.bytes_a_slice_of_a_head", ".0f"), ""),
        (_figure("SSIM of the reconstructions", "heads.videos.ssim", ".3f"), ""),
        *(
            (
                _figure(
                    f"SSIM of {codec} in as many bytes", f"heads.videos.codecs.{codec}.ssim_in_as_many_bytes", ".3f"
                ),
                "",
            )
            for codec in dict.fromkeys(name for one in weights for name in one.find("heads.videos.codecs") or {})
        ),
        (_figure("step from level to level, over that of people", "heads.step_ratio", ".2f"), "1"),
        (_figure("the same at the model's own size", "heads.step_ratio_full_size", ".2f"), "1"),
        (_figure("the same where it is least", "heads.step_ratio_least", ".2f"), "1"),
        (_figure("the same where it is most", "heads.step_ratio_most", ".2f"), "1"),
        (_spread("AUC of a network on coronal cuts, against reconstructions", "heads.auc.coronal"), "0.5"),
        (_spread("AUC of a network on sagittal cuts, the same", "heads.auc.sagittal"), "0.5"),
        (_spread("AUC of a network on single levels, the same", "heads.auc.single levels"), "0.5"),
        (_figure("brain area, ratio as above, by head", "heads.anatomy.brain area.ratio", ".1f"), "1"),
        (_figure("ventricle share, the same", "heads.anatomy.ventricle share.ratio", ".1f"), "1"),
        (_figure("left-right symmetry, the same", "heads.anatomy.left-right symmetry.ratio", ".1f"), "1"),
        (
            _figure("heads nearer to a training head than any person of the test", "heads.copies.share_closer", ".0%"),
            "0 %",
        ),
    ]
    return _by_model([one for one in weights if one.preset.prior_neighbours] or weights, rows, "At best")


def lesion_kinds(weights: Sequence[Weights]) -> str:
    rows = []
    for one in weights:
        for kind, by_size in (one.find("lesions.scores.unusual.by_kind_and_size") or {}).items():
            rows.append([f"{one.name}, {kind}", *(f"{by_size[size]['auroc_slice']:.2f}" for size in _SIZES)])
    return table(["deviation map", *(f"{size} px" for size in _SIZES)], rows) if rows else NONE


def _trainings(weights: Sequence[Weights]) -> Iterator[tuple[Weights, str, float, list[dict[str, Any]]]]:
    """Weights, model, slices a second and epochs of each training. Weights may share a model: it was trained once."""
    seen = set()
    for one in weights:
        for model, epochs in one.history.items():
            sha256 = one.manifest["files"][f"{model}.safetensors"]["sha256"]
            if sha256 not in seen:
                seen.add(sha256)
                seconds = statistics.median(epoch["seconds"] for epoch in epochs)
                yield one, model, one.manifest["data"]["slices"]["train"] / seconds, epochs


def trained(weights: Sequence[Weights]) -> str:
    rows = []
    for one, model, a_second, epochs in _trainings(weights):
        how, minutes = one.manifest["training"], one.manifest["data"]["slices"]["train"] / 60 / a_second
        about = [f"{minutes:.1f}", f"{a_second:.1f}", how["precision"], str(how["threads"])]
        rows.append([one.name, model, str(len(epochs)), *about])
    head = ["Weights", "Model", "Epochs", "Minutes an epoch", "Slices a second", "Precision"]
    return table([*head, "Threads (VQ-VAE, prior)"], rows)


def scaled(weights: Sequence[Weights]) -> str:
    people = {"OASIS-1, 416 people": 416, "OASIS-3, 1,378 people, one scan each": 1378, "100,000 people": 100_000}

    def row(label: str, formula: str, text: Callable[[float], str], each: float = 1) -> list[str]:
        return [label, formula, *(text(each * 32 * p) for p in people.values())]

    rows = [
        row("slices", "32 p", lambda slices: f"{slices:,.0f}"),
        row("PNG files, about 12 kB each", "12 kB × 32 p", _bytes, 12e3),
    ]
    for size in dict.fromkeys(one.preset.size for one in weights):
        rows.append(row(f"decoded, {size} × {size}", "4 S² × 32 p", _bytes, 4 * size**2))
    for one, model, v, _ in _trainings(weights):
        rows.append(row(f"one epoch, {one.name}, {model}, v = {v:.1f}", "32 p / v", _time, 1 / v))
    return table(["", "formula", *people], rows)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:,.0f} GB"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


# Of a machine: from RECORDS


def record(name: str, weights: Weights | None = None) -> dict[str, Any] | None:
    """A record by its name; none where there is none, or where it is of other weights."""
    path = RECORDS / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if found and weights:
        files = weights.manifest["files"]
        if any(found["weights_sha256"].get(name) != files[name]["sha256"] for name in MODELS):
            return None
    return found


def _of_record(name: str) -> Callable[[Callable[[dict[str, Any]], str]], Callable[[Sequence[Weights]], str]]:
    """A block that is made of one record of a machine."""

    def wrap(text: Callable[[dict[str, Any]], str]) -> Callable[[Sequence[Weights]], str]:
        @functools.wraps(text)
        def block(_: Sequence[Weights]) -> str:
            found = record(name)
            return text(found) if found else NONE

        return block

    return wrap


def _when(found: dict[str, Any]) -> str:
    """Under what circumstances a record was measured."""
    about = found[MEASURED_ON]
    commit = f", commit {about['commit'][:12]}" if about["commit"] else ""
    return f"{about['processor']}, {about['cores']} cores, threads {about['threads']}, {about['date']}{commit}"


def speed(weights: Sequence[Weights]) -> str:
    rows, when = [], []

    def add(
        name: str, what: str, command: str, text: Callable[[dict[str, Any]], str], of: Weights | None = None
    ) -> None:
        found = record(name, of)
        rows.append([what, text(found) if found else NONE, f"`{command}`"])
        if found:
            when.append(f"{name}: {_when(found)}")

    def samples(batch: int) -> Callable[[dict[str, Any]], str]:
        def text(found: dict[str, Any]) -> str:
            rows = [row for row in found["rows"] if row["batch"] == batch and "draw_s" in row]
            return (
                "; ".join(
                    f"{row['draw_s']:.2f} s, {row['draw_over_forward']:.1f} times one forward pass" for row in rows
                )
                or NONE
            )

        return text

    def naively(found: dict[str, Any]) -> str:
        rows = [row for row in found["rows"] if "naive_s" in row]
        return "; ".join(
            f"{row['batch']}: {row['cached_s']:.2f} s against {row['naive_s']:,.0f} s, "
            f"{row['naive_over_cached']:,.0f} times as fast"
            for row in rows
        )

    for one in weights:
        command = f"sampler --weights checkpoints/{one.name} --batch 1 16 --threads 2"
        for batch in (1, 16):
            what = f"{batch} sample{'s' if batch > 1 else ''} of {one.name}, decoded"
            add(f"sampler-{one.name}", what, command, samples(batch), one)
        finest = _codes(one.preset).split(" and ")[-1]
        what = f"{finest} codes by {one.name}'s finest prior, cached against naive, by batch"
        add(f"sampler-{one.name}", what, command, naively, one)

    def training(found: dict[str, Any]) -> str:
        return "; ".join(
            f"{row['precision']}: {row['ours_slices_per_second']:.0f} slices a second, "
            f"{row['ours_over_monai']:.2f} times MONAI's"
            for row in found["rows"]
        )

    def pages(found: dict[str, Any]) -> str:
        return (
            f"{found['first_paint_s']:.1f} s to the first page, complete after {found['first_page_complete_s']:.1f} s; "
            f"another page {found['page_change_s']:.2f} s (slowest {found['page_change_slowest_s']:.2f} s); "
            f"a stroke's picture {found['stroke_s']:.2f} s (slowest {found['stroke_slowest_s']:.2f} s)"
        )

    add("training", "a step of the VQ-VAE, beside MONAI's of about equal arithmetic", "training", training)
    add("app", "the app from a fresh server", "app", pages)
    lines = table(["What", "Figure", "`python -m oasisvq benchmark ...`"], rows)
    return "\n".join([lines, *(["", *(f"- {line}" for line in dict.fromkeys(when))] if when else [])])


def refill(weights: Sequence[Weights]) -> str:
    rows, when = [], []
    for one in weights:
        found = record(f"refill-{one.name}", one)
        for row in found["rows"] if found else []:
            jumps = ", ".join(f"{row[f'jump_{edge}']:.2f}" for edge in ("top", "bottom", "left", "right"))
            excess = f"{row['excess_below']:.2f}", f"{row['excess_right']:.2f}", f"{row['excess_error']:.2f}"
            rows.append([one.name, str(row["proposals"]), *excess, jumps])
        if found:
            when.append(f"\n{one.name}: {_when(found)}")
    head = [
        "",
        "proposals",
        "bits more a kept code below",
        "to the right",
        "standard error",
        "jump of grey at the top, bottom, left and right edge",
    ]
    return "\n".join([table(head, rows), *when]) if rows else NONE


_WAITS = {"draw": "a sample", "stroke": "a stroke's picture", "upload": "an upload's page", "head": "a whole head"}


@_of_record("crowd")
def crowd(found: dict[str, Any]) -> str:
    went = (
        f", and {max(found['memory_mb'])} MB when {found['came_and_went']} more had come and gone"
        if "memory_mb" in found
        else ""
    )
    times = ", ".join(
        f"{word} {found[f'{key}_median_s']:.2g} s (95th percentile {found[f'{key}_p95_s']:.2g} s)"
        for key, word in _WAITS.items()
        if f"{key}_median_s" in found
    )
    return (
        f"{found['visitors']} visitors on {found['cores']} cores, medians: {times}; {len(found['errors'])} errors. "
        f"The server held {found['memory_after_mb']:.0f} MB{went}. On {_when(found)}."
    )


@_of_record("align")
def aligned(found: dict[str, Any]) -> str:
    heads = [row for row in found["rows"] if row["kind"] == "head"]
    ssim, bits = [row["ssim"] for row in heads], [row["bits"] for row in heads]
    rows = [
        [name, f"{found[f'{key}_median']:.{digits}f}{unit}", f"{found[f'{key}_worst']:.{digits}f}{unit}"]
        for name, key, digits, unit in (
            ("rotation that is left", "turn", 1, "°"),
            ("shift of the middle of the levels", "shift", 1, " mm"),
            ("Dice of the mask, brought back", "back", 3, ""),
            ("time", "seconds", 1, " s"),
        )
    ]
    return (
        f"{table(['', 'median', 'worst'], rows)}\n\n"
        f"Of {found['copies']} changed copies of {len(heads)} heads {found['good_refused']} were refused, of "
        f"{found['wrong']} wrong inputs {found['wrong_refused']}. The heads themselves: SSIM {min(ssim):.3f} to "
        f"{max(ssim):.3f} on base, at {min(bits):.2f} to {max(bits):.2f} bits a code. A head of 256 × 256 × 256 voxels "
        f"in a process of its own: {found['alone_seconds']:.1f} s and {found['alone_gb']:.2f} GB. On {_when(found)}."
    )


@_of_record("container")
def container(found: dict[str, Any]) -> str:
    return (
        f"{found['packages_mb'] / 1000:.2f} GB of packages beside {found['source_mb']:.0f} MB of source, up "
        f"{found['start_seconds']:.1f} s after its start, and with weights "
        f"{found['first_page_with_model_seconds']:.1f} s after a browser asks. On {_when(found)}."
    )


@_of_record("streaming")
def streaming(found: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['slices']:,}",
            f"{row['imports_mib'] + max(row['decoding_peak_mib'], row['loading_peak_mib']):.0f} MiB",
            f"{max(row['decoding_peak_mib'], row['loading_peak_mib']):.0f} MiB",
            f"{row['in_memory_would_be_mib'] / 1024:.1f} GiB",
        ]
        for row in found["rows"]
    ]
    imports = found["rows"][0]["imports_mib"]
    head = ["slices", "the process at its peak", f"beyond its {imports:.0f} MiB of imports", "the slices themselves"]
    kinds = "decoding", "loading", "training"
    speeds = ", ".join(f"{name} {found['slices_per_second'][name]:,.0f}" for name in kinds)
    return f"{table(head, rows)}\n\nSlices a second: {speeds}. On {_when(found)}."


@_of_record("fuzz")
def fuzz(found: dict[str, Any]) -> str:
    text = ", ".join(f"{name} {row['inputs']:,}" for name, row in found["readers"].items())
    return f"Inputs without a finding: {text}. On {_when(found)}."


@_of_record("same_bytes")
def same_bytes(found: dict[str, Any]) -> str:
    return (
        f"All {len(found['sha256'])} files came out with the same sha256, also when the training had been killed after "
        f"{found['killed_after_seconds']:.0f} s. On {_when(found)}."
    )


@_of_record("mutants")
def mutants(found: dict[str, Any]) -> str:
    rows = [[f"`oasisvq/{name}.py`", NONE, "", ""] for name in MUTATED if name not in found["modules"]]
    keys = "mutants", "caught_at_first", "caught"
    drawn = {f"`oasisvq/{name}.py`": row for name, row in found["modules"].items()}
    drawn["all that were drawn"] = {key: sum(row[key] for row in drawn.values()) for key in keys}
    for label, row in drawn.items():
        low, high = binomtest(row["caught_at_first"], row["mutants"]).proportion_ci(method="wilson")
        first = f"{row['caught_at_first']} ({low:.0%} to {high:.0%})".replace("%", " %")
        now = f"{row['caught']} ({row['caught'] / row['mutants']:.0%})".replace("%", " %")
        rows.append([label, str(row["mutants"]), first, now])
    lines = table(["Module", "mutants", "caught at first", "caught now"], rows)
    return f"{lines}\n\nOn {_when(found)}."


@_of_record("mutants")
def survivors(found: dict[str, Any]) -> str:
    rows = [
        [
            f"`{name}`",
            f"`{one['text']}`".replace("|", "\\|"),
            f"{one['operator'].replace('_', ' ')}, column {one['column']}",
        ]
        for name, row in found["modules"].items()
        for one in row["survivors"]
    ]
    return table(["Module", "line", "change"], rows) if rows else "None."


def study(weights: Sequence[Weights]) -> str:
    rows = json.loads((HOME / "benchmarks" / "quality" / "study.json").read_text(encoding="utf-8"))["rows"]
    ours = next(row["utilisation"] for row in rows if row["name"] == "base preset")
    theirs = [row["utilisation"] for row in rows if row["group"] == "quantiser"]
    return (
        f"Our codebook, whose unused codes are restarted, has {ours:.0%} of its codes in use by then, those of "
        f"`vector-quantize-pytorch` {min(theirs):.0%} to {max(theirs):.0%}."
    ).replace("%", " %")


BLOCKS: dict[str, Callable[[Sequence[Weights]], str]] = {
    block.__name__: block
    for block in (
        summary,
        measured_on,
        reconstruction,
        rate,
        draws,
        anatomy,
        outliers,
        lesions,
        lesion_kinds,
        deviation,
        strength,
        top_k,
        speed,
        refill,
        crowd,
        aligned,
        container,
        streaming,
        fuzz,
        same_bytes,
        mutants,
        survivors,
        study,
        heads,
        trained,
        scaled,
    )
}


def filled(text: str, weights: Sequence[Weights]) -> str:
    """A document with all of its blocks made afresh. Raises OasisVQError on a block of an unknown name."""

    def fill(block: re.Match[str]) -> str:
        begin, name, end = block.groups()
        if name not in BLOCKS:
            raise OasisVQError(f"no figures are called {name}: choose one of {', '.join(BLOCKS)}")
        return f"{begin}\n{BLOCKS[name](weights)}\n\n{end}"

    return _BLOCK.sub(fill, text)


def main(arguments: list[str] | None = None) -> None:
    """Write every block, or raise OasisVQError naming the documents that are outdated."""
    parser = new_parser(__name__, __doc__, None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where text and JSON disagree")
    args = parser.parse_args(arguments)
    weights, outdated = shipped(), []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (fresh := filled(text, weights)) != text:
            outdated.append(path.relative_to(HOME).as_posix())
            if not args.check:
                path.write_text(fresh, encoding="utf-8")
    if args.check and outdated:
        raise OasisVQError(f"outdated: {', '.join(outdated)}: run `python -m oasisvq benchmark figures`")
    print(f"{'outdated' if args.check else 'written'}: {', '.join(outdated) or 'nothing, all is as the JSON says'}")
