"""One file from a stranger: bytes in, slices out, nothing touches the disk, limits hold before decoding."""

from __future__ import annotations

import contextlib
import ctypes
import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, _imaging

from oasisvq.data import align, dicom, nifti, scan
from oasisvq.data.align import Aligned
from oasisvq.data.dicom import Volume
from oasisvq.data.scan import Scan
from oasisvq.data.slices import as_grey, normalise, square
from oasisvq.errors import OasisVQError

MAX_BYTES = 20_000_000  # of a picture
MAX_VOLUME_BYTES = 100_000_000  # of a volume or a zip
_MAX_SIDE = 4096
_MIN_SIDE = 32

# Pillow and libtiff print what they find odd in a header, which no log must hold. Not every build shares its libtiff.
warnings.filterwarnings("ignore", module=r"PIL\.")
with contextlib.suppress(AttributeError, OSError):
    for _handler in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        getattr(ctypes.CDLL(_imaging.__file__), _handler)(None)


def read(data: bytes, name: str) -> Scan:
    """Read a picture (PNG, JPEG, TIFF), a NIfTI volume (.nii, .nii.gz), a DICOM file, or a zip of a DICOM series.

    Its first bytes decide what it is, not its name; `name` is for messages only.
    Raises OasisVQError in one sentence, `name` first, for anything that shows no axial slice of one brightness a pixel.
    """
    if not is_volume(data):
        picture, notes = _picture(data, name)
        return scan.single(picture, notes)
    try:
        return as_it_lies(read_volume(data))
    except OasisVQError as error:
        raise OasisVQError(f"{name}: {error}") from error


def is_volume(data: bytes) -> bool:
    """Whether bytes begin like NIfTI, DICOM or a zip, so that `read_volume` takes them."""
    return data[128:132] == b"DICM" or data[:4] == b"PK\x03\x04" or nifti.is_nifti(data)


def read_volume(data: bytes) -> Volume:
    """Read a NIfTI volume, a DICOM file or a zip of a DICOM series. Raises OasisVQError in one sentence, as `read`."""
    if len(data) > MAX_VOLUME_BYTES:
        raise OasisVQError(
            f"{len(data) / 1e6:.0f} MB: a volume has at most {MAX_VOLUME_BYTES // 1_000_000} MB, give one series"
        )
    if nifti.is_nifti(data) and data[128:132] != b"DICM":
        return nifti.read(data)
    return dicom.read_apart(data)


def as_it_lies(volume: Volume) -> Scan:
    """The axial slices of a volume, where and how it lies. Raises OasisVQError when none can be made of it."""
    if volume.affine is None:
        return scan.single(square(_bright(volume.voxels[:, :, 0].T)), volume.notes)
    return scan.axial(volume.voxels, volume.affine, volume.oriented, volume.notes)


def check_head(volume: Volume) -> NDArray[np.float64]:
    """The affine of a volume that may be a head. Raises OasisVQError for a single slice."""
    if volume.affine is None or 1 in volume.voxels.shape:
        raise OasisVQError("one slice: a head is brought into the frame as a whole, give its volume or series")
    return volume.affine


def in_the_frame(volume: Volume) -> Aligned:
    """The 32 levels of a volume of a T1 head. Raises OasisVQError as `align.align`, and for a single slice."""
    return align.align(volume.voxels, check_head(volume))


def read_image(data: bytes, name: str) -> np.ndarray:
    """Read one greyscale PNG, JPEG or TIFF of 8 or 16 bits (or more): float32 (H, H) in [0, 1], centred on a square.

    Brightness is normalised as in training, background 0; a bright background is taken for an inverted picture.
    `name` is for messages only.
    Raises OasisVQError in one sentence for anything else: coloured, too large or small, broken, blank, many pages.
    """
    return _picture(data, name)[0]


def _picture(data: bytes, name: str) -> tuple[np.ndarray, list[str]]:
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
        raise OasisVQError(
            f"{name}: not a readable PNG, JPEG or TIFF picture, nor a NIfTI volume, DICOM file or zip of a series: "
            "export it again"
        ) from error
    notes = []
    if _inverted(pixels):
        pixels = np.nanmax(pixels) - pixels
        notes = ["The background is bright: the picture was inverted."]
    try:
        return square(_bright(pixels)), notes
    except OasisVQError as error:
        raise OasisVQError(f"{name}: {error}") from error


def _bright(pixels: np.ndarray) -> np.ndarray:
    slice01 = normalise(pixels)
    if np.ptp(slice01) == 0:
        raise OasisVQError("every pixel is equally bright: choose a picture that shows a brain")
    return slice01


def _inverted(pixels: np.ndarray) -> bool:
    """Whether the rim of a picture is evenly bright, as that of a negative is."""
    values = np.nan_to_num(pixels.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    rim = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    return bool(high > low and np.percentile(rim, 20) > low + 0.9 * (high - low))
