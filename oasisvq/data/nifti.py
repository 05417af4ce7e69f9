"""A NIfTI volume from bytes: the header is checked before anything is unpacked, and nothing touches the disk."""

from __future__ import annotations

import gzip
import io

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from oasisvq.data.dicom import MAX_VOXELS, Volume
from oasisvq.errors import OasisVQError

_MAX_OFFSET = 4_000_000  # header and extensions
_HEADER = 540  # bytes of the longer of the two headers


def is_nifti(data: bytes) -> bool:
    """Whether bytes begin like a NIfTI file (or any gzip: no other format here is gzipped)."""
    return data[:2] == b"\x1f\x8b" or _kind(data[:4]) is not None


def read(data: bytes) -> Volume:
    """Read one volume of three dimensions from a .nii or .nii.gz of version 1 or 2.

    Raises OasisVQError in one sentence for anything else.
    """
    try:
        return _read(data)
    except OasisVQError:
        raise
    except Exception as error:  # headers given hostile bytes raise almost anything
        raise OasisVQError("not a readable NIfTI volume: convert it again") from error


def _read(data: bytes) -> Volume:
    start = _unpacked(data, _HEADER)
    kind = _kind(start[:4])
    if kind is None:
        raise OasisVQError("not a NIfTI volume inside: only .nii is read from a .gz")
    length = kind.template_dtype.itemsize
    if len(start) < length:
        raise OasisVQError("the file ends early: copy it again from where you got it")
    header = kind(start[:length], check=True)
    if not bytes(header["magic"]).startswith(b"n+"):
        raise OasisVQError("header and image are two files (.hdr, .img): convert them to one .nii")
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    size = "x".join(map(str, shape))
    if len(shape) != 3 or min(shape) < 1:
        raise OasisVQError(f"{size} voxels: one volume of three dimensions is needed, take one out of the series")
    voxels = int(np.prod(shape, dtype=object))
    if voxels > MAX_VOXELS:
        raise OasisVQError(f"{size} voxels are too many: crop or resample the volume to 1 mm")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise OasisVQError("colour or complex numbers: a volume has one brightness a voxel")
    if not length <= offset <= _MAX_OFFSET:
        raise OasisVQError("the header says that the voxels begin nowhere: convert it again")
    content = _unpacked(data, offset + voxels * dtype.itemsize)
    if len(content) < offset + voxels * dtype.itemsize:
        raise OasisVQError("the file ends early: copy it again from where you got it")
    stored = np.frombuffer(content, dtype, voxels, offset).reshape(shape, order="F")
    slope, intercept = header.get_slope_inter()
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float32)
        if slope is not None:
            values = values * np.float32(slope) + np.float32(intercept)
    oriented = bool(header["qform_code"] > 0 or header["sform_code"] > 0)
    return Volume(values, header.get_best_affine(), oriented, [])


def _kind(first: bytes) -> type[Nifti1Header] | None:
    """Header class by the length that opens a file, in either byte order."""
    kinds: dict[int, type[Nifti1Header]] = {348: Nifti1Header, 540: Nifti2Header}
    return kinds.get(int.from_bytes(first, "little")) or kinds.get(int.from_bytes(first, "big"))


def _unpacked(data: bytes, length: int) -> bytes:
    """The first bytes, unpacked where they are packed; never more than were asked for."""
    if data[:2] != b"\x1f\x8b":
        return data[:length]
    try:
        with gzip.open(io.BytesIO(data)) as packed:  # of several members, as bgzip makes them, too
            return packed.read(length)
    except EOFError:
        return b""
