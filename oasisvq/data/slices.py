"""What a slice is, whatever it came from: brightness, canvas, size and range."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from oasisvq.errors import OasisVQError

# Of how files become slices. Raise it when pixels change: slices that lie decoded on disk are then decoded again.
VERSION = 1

# A pixel of a normalised slice above this is brain; below it is background, scanner haze or JPEG haze.
FOREGROUND = 0.02

# The original slices are 256x256 at 1 mm a pixel; smaller crops of them (208x176) are centred on that canvas.
CANVAS = 256

# What the 99.5th percentile of a person's brain becomes.
WHITE = 0.95


def as_grey(image: Image.Image, name: str) -> np.ndarray:
    """Pixels of a grey image, (H, W): uint8, or uint16 and up as stored. Colour modes pass when all channels agree.

    Raises OasisVQError for a picture that is truly coloured: there is no honest way to make one brightness of it.
    """
    if image.mode in ("L", "I", "F", "I;16", "I;16B", "I;16L"):
        return np.asarray(image)
    channels = np.asarray(image.convert("RGB")).astype(np.int16)
    # Two grey values of slack: JPEG stores colour differences, and rounds them.
    if np.ptp(channels, axis=-1).max() > 2:
        raise OasisVQError(f"{name}: a colour picture: a slice has one brightness a pixel, save it as greyscale")
    return channels[..., 1].astype(np.uint8)


def normalise(stack: np.ndarray) -> np.ndarray:
    """Scale one person's slices to a common brightness: the 99.5th percentile of the foreground becomes 0.95.

    Scanners have no unit of brightness, so people must be made comparable. The single brightest pixel will not do: a
    vessel or a hot pixel would darken the whole person. The 99.5th percentile of the brain is white matter, steady from
    person to person, and 0.95 leaves room above it. One scale for the whole stack keeps levels of a person comparable.

    Args:
        stack: numbers of any type, (..., H, W), all of one person; what is negative or not finite is background.

    Returns:
        float32 of the same shape in [0, 1], background exactly 0. All zero where nothing is above zero.
    """
    values = np.nan_to_num(np.asarray(stack, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    positive = values[values > 0]
    if positive.size == 0:
        return np.zeros_like(values)
    # The first guess still counts haze as foreground; the second does not.
    haze = np.percentile(positive, 99.5) * FOREGROUND
    white = np.percentile(positive[positive > haze], 99.5)
    scaled = np.clip(values * (WHITE / white), 0.0, 1.0, dtype=np.float32)
    scaled[scaled <= FOREGROUND] = 0.0
    return scaled


def square(image: np.ndarray) -> np.ndarray:
    """Centre (H, W) on a square canvas of zeros.

    Images of 129 to 256 pixels are taken to have 1 mm pixels and get the 256 canvas of the original slices, so that a
    head keeps its size; others get a square of their own longer side.
    """
    height, width = image.shape
    longer = max(height, width)
    side = CANVAS if CANVAS // 2 < longer <= CANVAS else longer
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(image, ((top, side - height - top), (left, side - width - left)))


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Centre (H, W) on a square canvas and resample to float32 (size, size), anti-aliased.

    Pillow widens its filter by the reduction, which is what anti-aliasing is. Hamming has no negative lobes: no bright
    rim where the brain meets the black background, and no value outside the range of the input.
    """
    canvas = Image.fromarray(square(image).astype(np.float32))
    return np.asarray(canvas.resize((size, size), Image.Resampling.HAMMING))


def to_model(images: np.ndarray, size: int = 80) -> np.ndarray:
    """Slices in [0, 1], (N, H, W), to what the model reads: float32 (N, size, size) in [-0.5, 0.5]."""
    return np.stack([resize(image, size) for image in images]) - np.float32(0.5)


def foreground(image: np.ndarray) -> np.ndarray:
    """The brain of a slice in [0, 1], (H, W): brighter than FOREGROUND, holes (ventricles) filled. Bool (H, W)."""
    return ndimage.binary_fill_holes(image > FOREGROUND)
