"""The model card: what somebody must know before using weights, in the form that the Hub reads."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oasisvq.hub.manifest import PICTURES, pictures_in, read_manifest, read_records
from oasisvq.models.presets import Preset
from oasisvq.models.sampling import APPEARANCE_SCALE

RECONSTRUCTION = {
    "ssim_mean": "SSIM",
    "ssim_foreground_mean": "SSIM, brain only",
    "psnr_mean": "PSNR (dB)",
    "sharpness_mean": "Sharpness, reconstruction over original",
}
CODES = {
    "bits_per_pixel": "Bits per pixel, codes written plainly",
    "bits_per_pixel_prior": "Bits per pixel, under the prior",
    "nll_bits_per_code": "Bits per code, under the prior, given level and grade",
    "untold_bits_per_code": "Bits per code, under the prior, given neither",
    "table_bits_per_code": "Bits per code, from the left and upper neighbour alone",
    "codebook_utilisation": "Share of the codebook in use",
    "perplexity": "Perplexity of the codes",
}
CIRCUMSTANCES = ("precision", "seed", "threads", "processes", "device", "code", "resumed")


def model_card(folder: Path) -> str:
    """The README.md of a weights folder as the Hub wants it: Markdown below YAML, with the results as a model-index.

    Of the manifest, of what was measured and of the pictures that the folder holds.
    """
    from huggingface_hub import EvalResult, ModelCardData

    manifest = read_manifest(folder)
    records = read_records(folder, manifest)
    results = records["results"] or {}
    preset, data, training = manifest["preset"], manifest["data"], manifest["training"]
    measured = {key: label for key, label in (RECONSTRUCTION | CODES).items() if key in results}
    name = f"oasisvq {preset['name']}"
    front = ModelCardData(
        library_name="oasisvq",
        pipeline_tag="unconditional-image-generation",
        license="other",
        license_name="oasisvq-weights",
        license_link="README.md",
        datasets=[_slug(data["name"])],
        tags=["vq-vae", "pixelcnn", "mri", "brain", "medical-imaging", "research-only"],
        metrics=list(measured) or None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-reconstruction" if key in RECONSTRUCTION else "unconditional-image-generation",
                dataset_type=_slug(results["data"]["name"]),
                dataset_name=results["data"]["name"],
                dataset_split=results["split"],
                metric_type=key,
                metric_name=label,
                metric_value=results[key],
            )
            for key, label in measured.items()
        ]
        or None,
    )
    rows = [f"| {label} | {_figure(key, results)} |" for key, label in measured.items()]
    return _CARD.format(
        front=front.to_yaml().strip(),
        name=name,
        size=preset["size"],
        codes=" and ".join(_grid(stage) for stage in Preset.from_dict(preset).stages),
        data_name=data["name"],
        description=data["description"],
        amounts="\n".join(f"| {s} | {n} | {data['slices'][s]} |" for s, n in data["people"].items()),
        fingerprint=data["fingerprint"],
        results=_MEASURED.format(**results, rows="\n".join(rows)) if rows else "Nothing has been measured yet.",
        strength=_strength(records["strength"] or {}),
        members=_members(records["draws"] or {}, cascade=bool(preset.get("coarse"))),
        command=training["command"],
        pictures="\n\n".join(f"![{PICTURES[path.split('/')[-1]]}]({path})" for path in pictures_in(folder)),
        details=", ".join(f"{key} {training[key]}" for key in CIRCUMSTANCES if key in training),
        versions=", ".join(f"{key} {value}" for key, value in training["versions"].items()),
        files="\n".join(f"| {f} | {s['bytes']:,} | `{s['sha256']}` |" for f, s in manifest["files"].items()),
    )


def _grid(preset: Preset) -> str:
    height, width = preset.grid
    to_a_cell = f" ({preset.depth} to a cell)" if preset.depth > 1 else ""
    return f"{height}x{width} indices{to_a_cell} into a codebook of {preset.codebook_size}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _strength(record: Mapping[str, Any]) -> str:
    """How strongly samples are conditioned on brightness, and the measurement that chose it."""
    ratios = ", ".join(
        f"{statistics.mean(row['brightness_variance_ratio']):.2f} at {row['strength']:g}"
        for row in record.get("rows", ())
    )
    sentence = f"* Each sample is conditioned on a brightness, with {APPEARANCE_SCALE:g} times the strength of training"
    if not ratios:
        return f"{sentence}; what that is worth was not measured with these weights."
    codes = record["top_k"] or "all"
    return (
        f"{sentence}. The variance of brightness of samples from {codes} codes, over that of training "
        f"slices, is {ratios}."
    )


def _members(record: Mapping[str, Any], cascade: bool) -> str:
    """Whether the weights tell whom they learned from."""
    sentence = "* Whether somebody was among the training people can be guessed from how few bits their codes cost"
    if "membership" not in record:
        return f"{sentence}; how well was not measured with these weights."
    found = record["membership"]
    low, high = found["auc_people_ci95"]
    more = " Codes of the coarse stage alone may tell more than all together." if cascade else ""
    return f"{sentence}: AUC {found['auc_people']:.2f} ({low:.2f} to {high:.2f}), where 0.5 is chance.{more}"


def _figure(key: str, results: Mapping[str, Any]) -> str:
    text = f"{results[key]:.4g}"
    interval = results.get(f"{key.removesuffix('_mean')}_ci95")
    return f"{text} ({interval[0]:.4g} to {interval[1]:.4g})" if interval else text


_MEASURED = """On the {people} people ({slices} slices) of the {split} split of {data[name]}, by
`python -m oasisvq evaluate`:

| Measure | Mean over people (95 % interval) |
|---|---|
{rows}"""

_CARD = """---
{front}
---

# {name}

Discrete codes for axial slices of T1-weighted brain MRI. A VQ-VAE turns a {size}x{size} slice into
{codes}, and back; a gated PixelCNN prior over such grids draws new slices, completes them, and says
which codes it finds unusual. Research and teaching only, not for diagnosis.

```python
from oasisvq import OasisVQ

model = OasisVQ.from_pretrained("OWNER/NAME", revision="COMMIT")
slices = model.sample(4, seed=0).slices
```

## What the weights saw

{data_name}. {description}

| Split | People | Slices |
|---|---|---|
{amounts}

No person is in two splits, as far as the description tells people apart. The codebook and the prior learned from the
training people only; the epoch to keep was picked on the validation people. Fingerprint of the slices
(sha256 over names, sizes and bytes): `{fingerprint}`.

## Measured

{results}

{pictures}

## Intended use and limits

For research and teaching: compression, representation and sampling of slices, and how they fail. Not for diagnosis,
nor for any decision about a person.

* What the prior finds surprising is unusual for this model, which says nothing about disease.
* A reconstruction shows what the codebook can say: small findings may vanish, and tissue may be invented.
* Draws are synthetic. They resemble the training people, with their age range, scanner and sequence, and nobody else.
{strength}
{members}
* Slices are expected skull-stripped, axial, in atlas orientation. Left and right of a slice are not claimed.

## How they were made

`{command}`, {details}; {versions}.

| File | Bytes | sha256 |
|---|---|---|
{files}

## Licence and terms

The weights come under the terms of the data that they were trained
on, named above. For slices from OASIS these are the [OASIS data use terms](https://sites.wustl.edu/oasisbrains/):
research and teaching, no attempt to find out who took part, and this acknowledgement in what you publish: "Data were
provided by OASIS-1: Cross-Sectional: Principal Investigators: D. Marcus, R. Buckner, J. Csernansky, J. Morris;
P50 AG05681, P01 AG03991, P01 AG026276, R01 AG021910, P20 MH071616, U24 RR021382." No slice of anybody is in this
repository.

## Citation

Marcus DS, Wang TH, Parker J, Csernansky JG, Morris JC, Buckner RL. Open Access Series of Imaging Studies (OASIS):
cross-sectional MRI data in young, middle aged, nondemented, and demented older adults. Journal of Cognitive
Neuroscience 2007;19(9):1498-1507. [doi:10.1162/jocn.2007.19.9.1498](https://doi.org/10.1162/jocn.2007.19.9.1498)
"""
