"""Figures in README.md and docs/, written between markers from the JSON beside the shipped weights.

    python -m oasisvq benchmark figures [--check]

A line `<!-- figures: NAME -->` begins a block, `<!-- end -->` ends it; between them stands what the function NAME of
BLOCKS makes. A figure that weights have no record of reads "not measured". With `--check` nothing is written, and text
that disagrees with the JSON is an error.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oasisvq.errors import OasisVQError
from oasisvq.hub import sources
from oasisvq.hub.manifest import MEASURED, read_manifest, read_record
from oasisvq.models.presets import Preset

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NONE = "not measured"

_AGAINST = "draws.auc.against"
_PEOPLE = "draws.auc.training.against_held_out"
_COPIES = "draws.copies.share_closer"
_LESIONS = "lesions.scores.unusual"
_SIZES = ("3", "4", "6", "9", "12")  # pixels across

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
        value, by_seed = self.find(path), self.find(f"{path}_by_seed")
        if value is None or not by_seed:
            return NONE
        return f"{value:.2f} ({min(by_seed):.2f} to {max(by_seed):.2f})"


def shipped(folder: Path | None = None) -> list[Weights]:
    """All weights in a folder (default: those that come with oasisvq), the smallest slices first."""
    found = []
    for path in (folder or sources.BUNDLED).glob("*/manifest.json"):
        manifest = read_manifest(path.parent)
        preset = Preset.from_dict(manifest["preset"])
        records = {Path(name).stem: read_record(path.parent, manifest, name) for name in MEASURED}
        history = {
            model: [json.loads(line) for line in (path.parent / f"{model}.jsonl").read_text().splitlines()]
            for model in ("vqvae", "prior")
            if f"{model}.jsonl" in manifest["files"]
        }
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


class Point(NamedTuple):
    label: str
    bytes: float
    ssim: float
    brain: float


def _ours(weights: Weights) -> Point | None:
    own = weights.find(f"rate.sizes.{weights.preset.size}.models.{weights.name}.prior")
    return own and Point(f"**{weights.name}**", own["bytes"], own["ssim"], own["ssim_foreground"])


def _codecs(weights: Weights) -> Iterator[Point]:
    for key, how in (("codecs", "a file a slice"), ("together", "the slices of a person in one picture")):
        for codec, points in (weights.find(f"rate.sizes.{weights.preset.size}.{key}") or {}).items():
            for one in points:
                yield Point(f"{codec}, {how}", one["bytes"], one["ssim"], one["ssim_foreground"])


def _rivals(weights: Weights) -> list[Point]:
    """The clearest codec in no more bytes than ours, and the smallest that is as clear over the brain; where any is."""
    own, points = _ours(weights), list(_codecs(weights))
    if own is None:
        return []
    small = [point for point in points if point.bytes <= own.bytes]
    clear = [point for point in points if point.brain >= own.brain]
    return [
        *([max(small, key=lambda point: point.ssim)] if small else []),
        *([min(clear, key=lambda point: point.bytes)] if clear else []),
    ]


def _codec_in_as_few_bytes(weights: Weights) -> str:
    own = _ours(weights)
    if own is None:
        return NONE
    small = [point for point in _rivals(weights) if point.bytes <= own.bytes]
    return f"{small[0].ssim:.3f}, {small[0].label.split(',')[0]}" if small else "no codec is that small"


# Blocks


def picture(weights: Sequence[Weights]) -> str:
    if (ROOT / "docs" / "demo.webp").is_file():
        return "![The app: a slice becomes codes, codes become a slice, and codes are painted](docs/demo.webp)"
    return "![Edit codes: a slice under its grid, its ventricles widened by painted cells](docs/edit-codes.png)"


def summary(weights: Sequence[Weights]) -> str:
    rows: list[tuple[Row, str]] = [
        (("pixels of a slice", lambda one: f"{one.preset.size} × {one.preset.size}"), ""),
        (("its codes, and their codebook", lambda one: _codes(one.preset)), ""),
        (_figure("SSIM of reconstructions", "results.ssim_mean", ".3f"), "1: equal"),
        (_figure("the same, brain only", "results.ssim_foreground_mean", ".3f"), "1: equal"),
        (("bytes of a slice as a file", lambda one: f"{own.bytes:.0f}" if (own := _ours(one)) else NONE), ""),
        (("SSIM of the best image codec in no more bytes", _codec_in_as_few_bytes), "JPEG, JPEG 2000, WebP, AVIF"),
        (_figure("bits a code, PixelCNN", "results.nll_bits_per_code", ".2f"), ""),
        (_figure("bits a code, from left and upper neighbour", "results.table_bits_per_code", ".2f"), ""),
        (_spread("AUC, samples against reconstructions", f"{_AGAINST}_reconstructions"), "0.5: cannot be told apart"),
        (_spread("AUC, training against test people", _PEOPLE), "how much real people differ"),
        (
            _figure("Fréchet distance, samples over training slices", "draws.frechet.ratio", ".2f"),
            "1: as close",
        ),
        (_figure("samples nearer to a training slice than 99 % of test slices", _COPIES, ".1%"), "1 %: no copies"),
        (
            _figure("painted lesions, area under the ROC curve", f"{_LESIONS}.at_6_and_more.auroc_slice", ".2f"),
            "0.5: chance",
        ),
    ]
    return _by_model(weights, rows)


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
        _figure("bits per code under the prior", "results.nll_bits_per_code", ".2f"),
        _figure("the same from left and upper neighbour", "results.table_bits_per_code", ".2f"),
        _figure("the same from the code histogram", "results.histogram_bits_per_code", ".2f"),
        _figure("bits per brain code under the prior", "results.nll_bits_per_brain_code", ".2f"),
        _figure("the same from left and upper neighbour", "results.table_bits_per_brain_code", ".2f"),
        _figure("bytes a slice, under the prior", "results.bytes_per_slice_prior", ".0f"),
        _figure("bits a pixel, codes written plainly", "results.bits_per_pixel", ".4f"),
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
        for point in [_ours(one), *_rivals(one)]
        if point
    ]
    return table(["", "bytes a slice", "SSIM", "brain only"], rows) if rows else NONE


def draws(weights: Sequence[Weights]) -> str:
    rows: list[tuple[Row, str]] = [
        (_spread("AUC of a network, samples against reconstructions", f"{_AGAINST}_reconstructions"), "0.5"),
        (_spread("AUC of a linear classifier, the same", f"{_AGAINST}_reconstructions_linear"), "0.5"),
        (_spread("AUC of a network, the same at full size", "draws.auc_full_size.against_reconstructions"), "0.5"),
        (_spread("AUC of a network, samples against test slices", f"{_AGAINST}_held_out"), "0.5"),
        (_spread("AUC of a network, training against test people", _PEOPLE), "0.5"),
        (_spread("AUC of a linear classifier, the same", f"{_PEOPLE}_linear"), "0.5"),
        (_figure("Fréchet distance to test people, over that of training slices", "draws.frechet.ratio", ".2f"), "1"),
        (_figure("samples nearer to a training slice than 99 % of reconstructions", _COPIES, ".1%"), "1 %"),
    ]
    return _by_model(weights, rows, "At best")


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
        for score, label in {"unusual": "deviation map", "bits": "bits per code alone"}.items():
            path = f"lesions.scores.{score}"
            if one.find(path):
                sizes = [one.text(f"{path}.by_size.{size}.auroc_slice", ".2f") for size in _SIZES]
                rows.append([f"{one.name}, {label}", *sizes, one.text(f"{path}.at_6_and_more.auroc_slice", ".2f")])
    return table(["", *(f"{size} px" for size in _SIZES), "6 px and more"], rows) if rows else NONE


def heads(weights: Sequence[Weights]) -> str:
    rows: list[tuple[Row, str]] = [
        (_figure("bits per code, no neighbour known", "heads.bits_a_code.alone", ".2f"), ""),
        (_figure("bits per code, both neighbours known", "heads.bits_a_code.both_neighbours", ".2f"), ""),
        (_figure("bytes a slice, a file each", "heads.files.bytes_a_slice_alone", ".0f"), ""),
        (_figure("bytes a slice, one file a head", "heads.files.bytes_a_slice_of_a_head", ".0f"), ""),
        (_figure("step from level to level, over that of people", "heads.step_ratio", ".2f"), "1"),
        (_figure("the same where it is least", "heads.step_ratio_least", ".2f"), "1"),
        (_figure("the same where it is most", "heads.step_ratio_most", ".2f"), "1"),
        (_figure("AUC of a network on coronal cuts, against reconstructions", "heads.auc.coronal", ".2f"), "0.5"),
        (_figure("AUC of a network on sagittal cuts, the same", "heads.auc.sagittal", ".2f"), "0.5"),
        (_figure("AUC of a network on single levels, the same", "heads.auc.single levels", ".2f"), "0.5"),
        (_figure("brain area, ratio as above, by head", "heads.anatomy.brain area.ratio", ".1f"), "1"),
        (_figure("ventricle share, the same", "heads.anatomy.ventricle share.ratio", ".1f"), "1"),
        (_figure("left-right symmetry, the same", "heads.anatomy.left-right symmetry.ratio", ".1f"), "1"),
        (
            _figure("heads nearer to a training head than any person of the test", "heads.copies.share_closer", ".0%"),
            "0 %",
        ),
    ]
    return _by_model(weights, rows, "At best")


def trained(weights: Sequence[Weights]) -> str:
    rows = []
    for one in weights:
        how = one.manifest["training"]
        for model, epochs in one.history.items():
            minutes = statistics.median(epoch["seconds"] for epoch in epochs) / 60
            rows.append([one.name, model, str(len(epochs)), f"{minutes:.1f}", how["precision"], str(how["threads"])])
    return table(["Weights", "Model", "Epochs", "Minutes an epoch", "Precision", "Threads (VQ-VAE, prior)"], rows)


def scaled(weights: Sequence[Weights]) -> str:
    people = {"OASIS-1, 416 people": 416, "OASIS-3, 1,378 people, one scan each": 1378, "100,000 people": 100_000}

    def row(label: str, formula: str, text: Callable[[float], str], each: float = 1) -> list[str]:
        return [label, formula, *(text(each * 32 * p) for p in people.values())]

    rows = [
        row("slices", "32 p", lambda slices: f"{slices:,.0f}"),
        row("PNG files, about 12 kB each", "12 kB × 32 p", _bytes, 12e3),
    ]
    for one in weights:
        size = one.preset.size
        rows.append(row(f"decoded, {size} × {size}", "4 S² × 32 p", _bytes, 4 * size**2))
    for one in weights:
        for model, epochs in one.history.items():
            v = one.manifest["data"]["slices"]["train"] / statistics.median(epoch["seconds"] for epoch in epochs)
            rows.append(row(f"one epoch, {one.name}, {model}, v = {v:.0f}", "32 p / v", _time, 1 / v))
    return table(["", "formula", *people], rows)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:,.0f} GB"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


BLOCKS: dict[str, Callable[[Sequence[Weights]], str]] = {
    block.__name__: block
    for block in (
        picture,
        summary,
        measured_on,
        reconstruction,
        rate,
        draws,
        anatomy,
        outliers,
        lesions,
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
    parser = argparse.ArgumentParser("python -m oasisvq benchmark figures", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where text and JSON disagree")
    args = parser.parse_args(arguments)
    weights, outdated = shipped(), []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (fresh := filled(text, weights)) != text:
            outdated.append(path.relative_to(ROOT).as_posix())
            if not args.check:
                path.write_text(fresh, encoding="utf-8")
    if args.check and outdated:
        raise OasisVQError(f"outdated: {', '.join(outdated)}: run `python -m oasisvq benchmark figures`")
    print(f"{'outdated' if args.check else 'written'}: {', '.join(outdated) or 'nothing, all is as the JSON says'}")


if __name__ == "__main__":
    main()
