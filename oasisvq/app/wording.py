"""What the app says about itself, in one place. Figures are never written here: they come with the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from oasisvq.data.slices import CANVAS

if TYPE_CHECKING:
    from oasisvq.measure.out_of_distribution import Unlike
    from oasisvq.models.presets import Preset

DISCLAIMER = "Research and teaching only, not for diagnosis."

SHORT = """
These weights turn an axial, skull-stripped T1 slice into codes and back, and draw new slices of no particular person.
They are made to show what such models keep, lose and invent.
""".strip()

TITLE = "Brain slices as discrete codes"

MORE = """
- **Codes.** The encoder turns the slice into a grid of vectors; each is replaced by its nearest entry in the codebook
  (vector quantisation, [van den Oord et al. 2017](https://arxiv.org/abs/1711.00937)). The decoder sees only those
  entries.
- **Prior.** The PixelCNN writes the probability of the whole grid as a product, code by code in reading order: p(z) =
  ∏ᵢ p(zᵢ | z₁ … zᵢ₋₁) ([van den Oord et al. 2016](https://arxiv.org/abs/1606.05328)). To draw a slice is to sample
  each factor in turn.
- **Bits.** −log₂ p(zᵢ | …) is the cost of code i in bits. Few bits: the model expected it. Many: it is unusual for
  this model.
- **SSIM.** Structural similarity of two pictures, 1 when they are identical ([Wang et al.
  2004](https://doi.org/10.1109/TIP.2003.819861)).
"""

MORE_RECONSTRUCT = r"""
- **Difference.** $d = \hat x - x$, pixel by pixel, on a grey scale from 0 (black) to 1 (white). Orange: the
  reconstruction is brighter; blue: it is darker.
- **SSIM** ([Wang et al. 2004](https://doi.org/10.1109/TIP.2003.819861)) compares the mean, spread and correlation of
  both pictures in a Gaussian window of 11 pixels around each pixel. The map shows it where it was computed; the figure
  is its mean, and "brain only" its mean over the brain of the original, ventricles included.
  $\mathrm{SSIM} = (2\mu\hat\mu + c_1)(2\sigma_{x\hat x} + c_2)\,/\,
  ((\mu^2 + \hat\mu^2 + c_1)(\sigma^2 + \hat\sigma^2 + c_2))$.
- **PSNR** is $-10 \log_{10}$ of the mean of $d^2$, in dB.
- **Bits under the prior** are $-\sum_i \log_2 p(z_i \mid z_1 \dots z_{i-1})$: what an arithmetic coder needs for the
  codes $z_i$ with the PixelCNN as its model.
- **Like the training data** compares a few plain measures (bits and distance to the codebook over the brain, SSIM;
  area, brightness and position of the brain) with those of people whom the weights were not trained on. The score is
  the largest deviation, in units of the usual range; the threshold is the score that one in twenty slices of the
  validation people exceeds. Of other people more do: the Model card says how many.
"""

UNUSUAL = """
Bright cells hold codes that the prior did not expect: they are **unusual for this model**. That is a statement about
the model and the slices that it was trained on, not about the person. Noise, another scanner, a shifted head or a rare
but healthy shape are unusual too, and a real finding may not be.
"""

MORE_UNUSUAL = """
- **Bits per code** is −log₂ p(zᵢ | z₁ … zᵢ₋₁, level). It counts only the very code that was found, although many codes
  look nearly alike, and it is high wherever people differ from one another.
- **Deviation from what was expected** counts codes that look alike as alike, and compares the surprise with the
  surprise that the prior itself expected: 0 is as surprising as expected, 1 is one standard deviation more. The slice
  is read from the left and, mirrored, from the right, and the map is smoothed a little.
"""

LIMITS = """
- The model knows axial T1 slices of the brain, without the skull, like those that it was trained on. Anything
  else is turned into the nearest thing that it knows.
- A reconstruction is a picture made from codes. A small finding may vanish in it, and detail may appear that was never
  there.
- Drawn slices are of no particular person, yet a model can repeat parts of what it was trained on. Do not present
  them as patients.
- Whether somebody was among the training people can be guessed from the weights.
- Left and right are named only where the header of an uploaded file gives them. Drawn slices have no known side.
- Intervals are over people of one data set. Other scanners, age groups or ways of preparation were not measured.
"""

CITATION = """
Marcus DS, Wang TH, Parker J, Csernansky JG, Morris JC, Buckner RL. Open Access Series of Imaging Studies (OASIS):
cross-sectional MRI data in young, middle aged, nondemented, and demented older adults. *Journal of Cognitive
Neuroscience* 2007; 19(9): 1498–1507. [doi:10.1162/jocn.2007.19.9.1498](https://doi.org/10.1162/jocn.2007.19.9.1498)
"""

TERMS = """
The weights come under the terms of the data that they were trained on. For slices of OASIS these are the
[OASIS data use terms](https://sites.wustl.edu/oasisbrains/): research and teaching, no attempt to identify
participants, and this acknowledgement in what you publish: "Data were provided by OASIS-1: Cross-Sectional: Principal
Investigators: D. Marcus, R. Buckner, J. Csernansky, J. Morris; P50 AG05681, P01 AG03991, P01 AG026276, R01 AG021910,
P20 MH071616, U24 RR021382." Neither the weights' files nor this app hold a slice of anybody in that data: the
examples are Colin 27 (one man, free for any use with his notice), a template and phantoms.
"""

COPIES = """
A model that learned its training slices by heart would draw them again. Therefore every drawn slice is compared with
every training slice, mirrored ones too, and so are reconstructions of people outside the training data, who cannot
have been copied.
"""

TRAIN = """
Put your slices in the layout of `keras_png_slices_data`, or let `prepare` make it from OASIS-1 discs or a folder of
T1 heads as NIfTI, skull on or off, then train both models, measure them and write their card with one command:

```bash
python -m oasisvq prepare --help          # volumes to slices, people split once and for all
./train_all.sh --data DIR --out OUT       # VQ-VAE, prior, results, model card; picks up where it stopped
python -m oasisvq evaluate --help         # the table above, on your own held-out people
```
"""

# Keys of `percentiles` in results.json, as Reconstruct calls them.
STANDING = {
    "ssim": "SSIM",
    "ssim_foreground": "SSIM, brain only",
    "psnr": "PSNR, dB",
    "bits_per_code": "Bits per code, prior",
}

GRADES = {0.0: "0, none", 0.5: "0.5, very mild", 1.0: "1, mild", 2.0: "2, moderate"}

SOURCES = {
    "bundled": "bundled with the app",
    "cache": "Hugging Face Hub, from this machine's cache",
    "hub": "Hugging Face Hub, downloaded just now",
    "folder": "a folder on this machine",
}


class Measure(NamedTuple):
    """A figure of `results.json`: its key there, what to call it, how to print it, what it means."""

    key: str
    label: str
    form: str
    meaning: str

    def value(self, results: Mapping[str, Any]) -> str:
        """The figure as text."""
        return format(results[self.key], self.form)

    def interval(self, results: Mapping[str, Any]) -> str | None:
        """Its 95 % interval over people as text, where one was measured."""
        bounds = results.get(f"{self.key.removesuffix('_mean')}_ci95")
        return None if bounds is None else " to ".join(format(bound, self.form) for bound in bounds)


MEASURES = (
    Measure("ssim_mean", "SSIM", ".3f", "structural similarity of reconstruction and original, 1 = identical"),
    Measure("ssim_foreground_mean", "SSIM, brain only", ".3f", "the mean over the brain alone"),
    Measure("psnr_mean", "PSNR, dB", ".1f", "peak signal-to-noise ratio, in decibels"),
    Measure("sharpness_mean", "Sharpness", ".2f", "gradient energy inside the brain, over that of the original"),
    Measure("nll_bits_per_code", "Bits per code, prior", ".2f", "mean cost of a code under the PixelCNN, new people"),
    Measure("nll_bits_per_brain_code", "Bits per brain code, prior", ".2f", "the same for cells that are mostly brain"),
    Measure(
        "table_bits_per_code", "Bits per code, two neighbours", ".2f", "the same from left and upper neighbour alone"
    ),
    Measure("histogram_bits_per_code", "Bits per code, histogram", ".2f", "the same from how often each code occurs"),
    Measure("bytes_per_slice_prior", "Bytes per slice, prior", ".0f", "all codes of a slice under the prior"),
    Measure("bits_per_pixel", "Bits per pixel, plain", ".3f", "with every code written in the same number of bits"),
    Measure("codebook_utilisation", "Codebook in use", ".0%", "share of the codes that occur at all"),
    Measure("perplexity", "Perplexity of the codes", ".0f", "how many equally frequent codes would be as varied"),
)


def saw(data: Mapping[str, Any]) -> str:
    """One sentence: what the weights were trained on."""
    people, slices = data["people"].get("train"), data["slices"].get("train")
    return f"Trained on {data['name']}: {slices:,} slices of {people:,} people."


def provenance(info: Mapping[str, Any], kind: str) -> dict[str, str]:
    """What a picture that leaves the app takes along: what it is, and which weights made it."""
    return {
        "Software": "oasisvq",
        "Kind": kind,
        "Warning": DISCLAIMER,
        "Weights": info["files"]["vqvae.safetensors"]["sha256"],
        "Revision": info["revision"] or "none",
    }


def unlike(verdict: Unlike) -> str:
    """What the comparison with held-out people says about a slice, in words that claim nothing about a person."""
    if not verdict.unlike:
        return (
            "Bits, codes, brightness, size and position of the brain lie in the range of people outside the training "
            "data."
        )
    rely = (
        "The SSIM of its reconstruction is as high as usual, but do not rely on its bits, its surprise map or on cells "
        "that are drawn again."
        if verdict.clear
        else "Do not rely on what the model makes of this slice."
    )
    return (
        f"Unlike the training data: {'; '.join(verdict.reasons)}. {rely} "
        "This says nothing about the person: another plane, contrast or scanner or a shifted head has the same effect."
    )


def about_slice(name: str, size: int, edges: tuple[str, str, str, str] | None) -> str:
    """What Reconstruct shows, and which side is which."""
    sides = (
        "The letters come from the file's header: R and L are the person's right and left, A is the front, P the back."
        if edges
        else "Left and right are not marked: no header gives them."
    )
    return f"{name}, at the model's size of {size} × {size} pixels. {sides}"


def unusual(preset: Preset) -> str:
    """What the map of Surprise shows, and what it does not say."""
    grid = preset.stages[0].grid
    of_cascade = (
        f"The map shows the {grid[0]} × {grid[0]} coarse codes, which hold the anatomy: a cell is "
        f"{CANVAS / grid[0]:.3g} mm wide. The finer codes in a cell hold texture, and are drawn again with it. "
    )
    return (of_cascade if preset.coarse else "") + UNUSUAL.strip()


def whole_volume(found: Mapping[str, Sequence[float]], levels: Sequence[int | None]) -> str:
    """What was found on all slices of a scan, in a sentence or two."""
    known = [i for i, level in enumerate(levels) if level is not None]
    lines = ["The dotted line is the slice above."]
    if known:
        mean = sum(found["ssim"][i] for i in known) / len(known)
        lines.append(
            f"The model was trained on the levels of slices {known[0] + 1} to {known[-1] + 1}: "
            f"mean SSIM {mean:.3f} there."
        )
    if "unlike" in found:
        lines.append(f"{sum(found['unlike']):.0f} of {len(levels)} slices are unlike the training data.")
    return " ".join(lines)


def maker(info: Mapping[str, Any]) -> str:
    """One sentence: who stands behind these weights, as far as that is known."""
    if info["source"] == "bundled":
        return "These weights come with oasisvq, from its makers."
    if info["repo"]:
        return f"These weights were published as `{info['repo']}` on the Hugging Face Hub; their maker is named there."
    return "These weights come from a folder on this machine; who made them is not recorded."


def cite(info: Mapping[str, Any]) -> str:
    """One line that names these weights for good."""
    where = f"{info['repo']}, revision {info['revision']}" if info["repo"] else "bundled with oasisvq"
    sha256 = info["files"]["vqvae.safetensors"]["sha256"]
    return f"oasisvq, weights {info['preset']['name']!r} ({where}), VQ-VAE sha256 {sha256}"


def notice() -> str:
    """What the template that the example slices are made from must always come with."""
    return (files("oasisvq.data") / "example_slices" / "NOTICE").read_text(encoding="utf-8")


def grade(value: float | None) -> str:
    """A clinical dementia rating in words."""
    return "not given" if value is None else GRADES.get(value, str(value))


def in_short(settings: Mapping[str, Any]) -> str:
    """What a small picture of a draw says of its settings."""
    words = []
    if "level" in settings:
        words.append("any level" if settings["level"] is None else f"level {settings['level']}")
    if settings.get("temperature", 1.0) != 1.0 or len(settings) == 1:
        words += [f"T {settings['temperature']:g}"] if "temperature" in settings else []
    if "grade" in settings and (settings["grade"] is not None or len(settings) == 1):
        words.append("CDR not given" if settings["grade"] is None else f"CDR {settings['grade']:g}")
    return ", ".join(words)
