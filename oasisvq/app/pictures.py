"""Pictures as pixels: enlarging, colouring codes, marking what is synthetic, PNG. Pictures are (H, W) in [0, 1]."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from plotly.colors import sample_colorscale, unlabel_rgb

from oasisvq.data.slices import FOREGROUND

Picture = NDArray[np.floating]

SYNTHETIC, RECONSTRUCTION, EDITED = "SYNTHETIC", "RECONSTRUCTION", "EDITED CODES"
REGION = (54, 197, 240, 255)  # blue: drawn again
SIDE = 320  # pixels, about: of a picture on the screen or to take home
MARGIN = 0.1  # of the side of a slice in the frame, on every side: nothing but background, as a rule


def grey_bytes(picture: Picture) -> NDArray[np.uint8]:
    """[0, 1] to 0..255, clipped and rounded."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def margin(picture: Picture) -> float:
    """MARGIN, to be left out on the screen, where there is nothing in it; else 0."""
    edge = round(MARGIN * len(picture))
    outside = np.ones(picture.shape, bool)
    outside[edge:-edge, edge:-edge] = False
    return MARGIN if picture[outside].max() <= FOREGROUND else 0.0


def enlarge(picture: Picture, side: int | None = None) -> Image.Image:
    """Grey picture, its longer side `side` pixels, or the first whole multiple of its own from SIDE on; bicubic."""
    longest = max(picture.shape)
    side = side or longest * -(-SIDE // longest)
    image = Image.fromarray(grey_bytes(picture))
    scale = side / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def marked(picture: Picture, mark: str, side: int | None = None) -> Image.Image:
    """Enlarged, with a visible mark in the lower left corner: this is not a scan."""
    image = enlarge(picture, side)
    side = max(image.size)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=side / 20)
    left, top, right, bottom = draw.textbbox((side / 40, image.height - side / 40), mark, font=font, anchor="lb")
    draw.rectangle((left - 3, top - 3, right + 3, bottom + 3), fill=0)
    draw.text((left, bottom), mark, fill=200, font=font, anchor="lb")
    return image


def code_colours(
    indices: NDArray[np.integer], rank: NDArray[np.integer], background: NDArray[np.integer]
) -> NDArray[np.uint8]:
    """Cells of an index grid in colours, dark codes violet to bright codes yellow, to be laid over a picture.

    Args:
        indices: (h, w). Where w is a multiple of h, so many codes lie side by side in a cell: the first says most.
        rank: (K,), where each code stands from dark to bright.
        background: (h, w), the codes of an empty slice.

    Returns:
        (h, h, 4) red, green, blue and opacity, 0 to 255: the darkest codes, and the commonest of the background, are
        transparent, so that black stays black.
    """
    depth = indices.shape[1] // len(indices)
    first = indices[:, ::depth]
    share = rank[first] / max(len(rank) - 1, 1)
    opacity = np.clip(3 * share, 0, 1) * 255
    opacity[first == np.bincount(background[:, ::depth].ravel()).argmax()] = 0
    return np.rint(np.dstack([_colours("Viridis", len(rank))[rank[first]], opacity])).astype(np.uint8)


def entropy_colours(bits: NDArray[np.floating], most: float) -> NDArray[np.uint8]:
    """Bits of each code (h, w), as cells: black 0 to yellow `most` and more; where it is NaN the cell is transparent.

    Returns (h, h, 4) as `code_colours`; of codes side by side the mean is shown.
    """
    height, width = bits.shape
    of_cells = bits.reshape(height, height, width // height).mean(2)
    scale = _colours("Inferno", 256)
    steps = np.clip(np.nan_to_num(of_cells) / most * 255, 0, 255).astype(np.uint8)
    opacity = np.where(np.isnan(of_cells), 0, 255)
    return np.rint(np.dstack([scale[steps], opacity])).astype(np.uint8)


def heat(values: NDArray[np.floating], most: float, region: NDArray[np.bool_], cell: int = 16) -> Image.Image:
    """A map of cells (n, n) to lay over a picture: transparent 0 to yellow `most`, a region of it outlined in blue."""
    share = np.clip(np.nan_to_num(values) / most, 0, 1)
    scale = _colours("Inferno", 256)
    colours = np.dstack([scale[(share * 255).astype(int)], np.clip(2.5 * share, 0, 1) * 255])
    image = Image.fromarray(np.rint(colours).astype(np.uint8), "RGBA")
    image = image.resize((len(values) * cell, len(values) * cell), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    inside = np.pad(region, 1)
    for row, column in np.argwhere(region):
        left, top, right, bottom = column * cell, row * cell, (column + 1) * cell - 1, (row + 1) * cell - 1
        for (down, across), line in {
            (0, 1): (left, top, right, top),
            (2, 1): (left, bottom, right, bottom),
            (1, 0): (left, top, left, bottom),
            (1, 2): (right, top, right, bottom),
        }.items():
            if not inside[row + down, column + across]:
                draw.line(line, fill=REGION, width=2)
    return image


@cache
def _colours(scale: str, size: int) -> NDArray[np.floating]:
    return np.array([unlabel_rgb(colour) for colour in sample_colorscale(scale, np.linspace(0, 1, size))])


def webp(picture: Picture, quality: int = 92) -> bytes:
    """Small, for the screen."""
    content = io.BytesIO()
    Image.fromarray(grey_bytes(picture)).save(content, "webp", quality=quality)
    return content.getvalue()


def animated(images: Sequence[Image.Image], milliseconds: int | Sequence[int], quality: int = 85) -> bytes:
    """A WebP that shows images one after the other, over and over, each for so many milliseconds."""
    first, *others = images
    content = io.BytesIO()
    first.save(content, "webp", save_all=True, append_images=others, duration=milliseconds, loop=0, quality=quality)
    return content.getvalue()


def png(image: Image.Image, notes: Mapping[str, object]) -> bytes:
    """PNG with `notes` as its text fields, so that a file that travels alone still says what it is."""
    fields = PngInfo()
    for name, value in notes.items():
        fields.add_text(name, str(value))
    content = io.BytesIO()
    image.save(content, "png", pnginfo=fields)
    return content.getvalue()
