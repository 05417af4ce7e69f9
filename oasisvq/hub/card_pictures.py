"""Pictures for the model card: what the weights make of the example slices, what they draw, how they learned.

Nobody of the training data is in them: the examples are Colin 27, the MNI152 template and phantom people.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from oasisvq.data.examples import examples
from oasisvq.data.slices import to_model
from oasisvq.pipeline import OasisVQ

SIDE, GAP, MARGIN = 160, 8, 24  # pixels; pictures larger than SIDE keep their size
DIFFERENCE = 4  # times: a difference of an eighth of the grey range shows as half of it
TRAINED, VALIDATED = (122, 135, 148), (15, 125, 116)

_CURVES = {"train_loss": TRAINED, "val_loss": VALIDATED, "val_nll_bits": VALIDATED}


def sheets(model: OasisVQ) -> dict[str, bytes]:
    """File name to PNG: reconstructions and draws, and training curves where the weights carry their logs."""
    size = model.preset.size
    originals = np.concatenate([to_model(picture[None], size) for picture in examples().values()]) + 0.5
    again = model.reconstruct(torch.from_numpy(originals - np.float32(0.5))[:, None]).slices[:, 0].numpy() + 0.5
    drawn = model.sample(8, seed=0).slices[:, 0].numpy() + 0.5
    found = {
        "reconstructions.png": _grid(
            {
                "original": originals,
                "reconstruction": again,
                f"difference, {DIFFERENCE} times": 0.5 + DIFFERENCE * (again - originals),
            }
        ),
        "draws.png": _grid({"SYNTHETIC, seed 0, temperature 1: no real person": drawn}),
    }
    history = {name: lines for name, lines in model.info["history"].items() if lines}
    if history:
        found["training.png"] = _curves(history)
    return {name: _png(image) for name, image in found.items()}


def _grid(rows: Mapping[str, np.ndarray]) -> Image.Image:
    """Each row of pictures (N, S, S) in [0, 1] under its words."""
    count, side = max(map(len, rows.values())), max(SIDE, *(pictures.shape[1] for pictures in rows.values()))
    sheet = Image.new("L", (count * (side + GAP) + GAP, len(rows) * (side + MARGIN) + GAP), 255)
    pen = ImageDraw.Draw(sheet)
    for y, (words, pictures) in enumerate(rows.items()):
        top = y * (side + MARGIN)
        pen.text((GAP, top + 4), words, 0, ImageFont.load_default(size=14))
        for x, picture in enumerate(pictures):
            image = Image.fromarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))
            sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), (GAP + x * (side + GAP), top + MARGIN))
    return sheet


def _curves(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> Image.Image:
    """A panel for each model: its losses over the epochs, training grey, validation green."""
    width, height = 480, 300
    sheet = Image.new("RGB", (width * len(history), height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for panel, (model, lines) in enumerate(history.items()):
        left, right, top, bottom = panel * width + 60, (panel + 1) * width - 16, 36, height - 36
        curves = {name: [line[name] for line in lines] for name in _CURVES if name in lines[0]}
        # The prior is trained in nats and judged in bits.
        if "val_nll_bits" in curves:
            curves["train_loss"] = [value / np.log(2) for value in curves["train_loss"]]
        low, high = min(map(min, curves.values())), max(map(max, curves.values()))
        scale = (bottom - top) / (high - low or 1)
        pen.rectangle((left, top, right, bottom), outline=(200, 200, 200))
        pen.text((left, 10), f"{model}: training grey, validation green", "black", font)
        for value, y in ((high, top), (low, bottom)):
            pen.text((left - 6, y), f"{value:.3g}", "black", font, anchor="rm")
        pen.text((right, bottom + 8), f"epoch {len(lines)}", "black", font, anchor="ra")
        step = (right - left) / max(1, len(lines) - 1)
        for name, values in curves.items():
            points = [(left + i * step, bottom - (value - low) * scale) for i, value in enumerate(values)]
            pen.line(points if len(points) > 1 else points * 2, _CURVES[name], 2)
    return sheet


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "png", optimize=True)
    return content.getvalue()
