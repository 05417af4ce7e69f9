"""Codes of slices as a file: .npz with `indices` (N, h, w), and `weights`, the sha256 of the VQ-VAE they belong to."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from oasisvq.errors import OasisVQError

LARGEST = 2**27  # bytes of codes that are read at most: 40,000 slices of 20 x 20


def write_codes(indices: NDArray[np.integer], sha256: str, **beside: Any) -> bytes:
    """The file of codes (N, h, w). `beside` are further arrays, which `read_codes` does not look at."""
    content = io.BytesIO()
    np.savez_compressed(content, indices=indices, weights=np.array(sha256), **beside)
    return content.getvalue()


def read_codes(
    data: bytes, name: str, shape: tuple[int, int], most: NDArray[np.integer] | int, sha256: str
) -> NDArray[np.int64]:
    """Inverse of `write_codes`: codes (N, *shape), N at least 1, from 0 to below `most`. `name` is for messages only.

    Nothing is unpacked or allocated before its size is known, and no pickle is loaded. Raises OasisVQError in one
    sentence when the file is anything else, or was made with other weights. Files that name no weights are read too.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            weights = _array(archive, "weights", (), "U", 1_000) if "weights.npy" in archive.namelist() else None
            indices = _array(archive, "indices", shape, "iu", LARGEST).astype(np.int64, copy=False)
    except OasisVQError as error:
        raise OasisVQError(f"{name}: {error}") from error
    except Exception as error:  # a zip of hostile bytes raises what any of its unpackers does
        raise OasisVQError(f"{name}: not an .npz file of codes: save them again") from error
    if weights is not None and str(weights) != sha256:
        raise OasisVQError(f"{name}: these codes were made with other weights, to which they mean something else")
    if indices.min() < 0 or (indices >= most).any():
        raise OasisVQError(f"{name}: has codes outside the codebook of {np.max(most)}: save them again")
    return indices


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kinds: str, largest: int) -> NDArray[Any]:
    """An array of the archive: (N, *shape), or () where `shape` is ()."""
    with archive.open(f"{name}.npy") as member:
        version = npy.read_magic(member)
        found, _, dtype = npy.read_array_header_1_0(member) if version == (1, 0) else npy.read_array_header_2_0(member)
    if len(found) != (len(shape) + 1 if shape else 0) or found[1:] != shape or 0 in found or dtype.kind not in kinds:
        wanted = " x ".join(map(str, ("N", *shape))) if shape else "one"
        raise OasisVQError(f"`{name}` is {found} of {dtype}: this model takes {wanted}: save the codes again")
    if math.prod(found) * dtype.itemsize > largest:
        raise OasisVQError(f"`{name}` is {found}: more than {largest:,} bytes: save fewer slices in one file")
    with archive.open(f"{name}.npy") as member:
        return npy.read_array(member, allow_pickle=False)
