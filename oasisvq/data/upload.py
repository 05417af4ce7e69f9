"""One picture from a stranger: bytes in, a slice out, nothing touches the disk, limits hold before decoding."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from oasisvq.data.layout import as_grey
from oasisvq.data.slices import normalise, square
from oasisvq.errors import OasisVQError

MAX_BYTES = 20_000_000
_MAX_SIDE = 4096
_MIN_SIDE = 32


def read_image(data: bytes, name: str) -> np.ndarray:
    """Read one greyscale PNG, JPEG or TIFF of 8 or 16 bits (or more): float32 (H, H) in [0, 1], centred on a square.

    Brightness is normalised as in training, background 0. `name` is for messages only.
    Raises OasisVQError in one sentence for anything else: coloured, too large or small, broken, blank, many pages.
    """
    if len(data) > MAX_BYTES:
        raise OasisVQError(f"{name}: {len(data) / 1e6:.0f} MB: one slice has at most {MAX_BYTES // 1_000_000} MB")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as image:
            # The header is read, the pixels are not: a small file may unpack to a huge picture.
            width, height = image.size
            if max(width, height) > _MAX_SIDE or min(width, height) < _MIN_SIDE:
                raise OasisVQError(f"{name}: {width}x{height} pixels: a slice has {_MIN_SIDE} to {_MAX_SIDE} a side")
            if getattr(image, "n_frames", 1) > 1:
                raise OasisVQError(f"{name}: holds several pictures: save one slice as a file of its own")
            pixels = as_grey(ImageOps.exif_transpose(image), name)
    except OasisVQError:
        raise
    except Image.DecompressionBombError as error:
        raise OasisVQError(f"{name}: too many pixels: a slice has {_MIN_SIDE} to {_MAX_SIDE} a side") from error
    except Exception as error:  # decoders given hostile bytes raise almost anything
        raise OasisVQError(f"{name}: not a readable PNG, JPEG or TIFF picture: export the slice again") from error
    slice01 = normalise(pixels)
    if np.ptp(slice01) == 0:
        raise OasisVQError(f"{name}: every pixel is equally bright: choose a picture that shows a brain")
    return square(slice01)
