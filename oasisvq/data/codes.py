"""One slice's codes as a file: .npz with `indices` (1, h, w), as the command line writes them, and their weights."""

from __future__ import annotations

import io
import zipfile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from oasisvq.errors import OasisVQError

_MEMBERS = {"indices": 100_000, "weights": 1_000}  # bytes of each array that are read at most


def write_codes(indices: NDArray[np.integer], sha256: str) -> bytes:
    """The codes (h, w) of one slice, and the sha256 of the VQ-VAE that they belong to."""
    content = io.BytesIO()
    np.savez_compressed(content, indices=indices[None], weights=np.array(sha256))
    return content.getvalue()


def read_codes(data: bytes, name: str, grid: tuple[int, int], most: NDArray | int, sha256: str) -> NDArray[np.int64]:
    """Inverse of `write_codes`: codes of shape `grid`, from 0 to below `most`. `name` is for messages only.

    Nothing is unpacked or allocated before its size is known, and no pickle is loaded. Raises OasisVQError in one
    sentence when the file is anything else, or was made with other weights.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            weights = _array(archive, "weights", (), "U") if "weights.npy" in archive.namelist() else None
            indices = _array(archive, "indices", (1, *grid), "iu")[0].astype(np.int64)
    except OasisVQError as error:
        raise OasisVQError(f"{name}: {error}") from error
    except Exception as error:  # a zip of hostile bytes raises what any of its unpackers does
        raise OasisVQError(f"{name}: not an .npz file of codes: save them again") from error
    if weights is not None and str(weights) != sha256:
        raise OasisVQError(f"{name}: these codes were made with other weights, to which they mean something else")
    if indices.min() < 0 or (indices >= most).any():
        raise OasisVQError(f"{name}: has codes outside the codebook of {np.max(most)}: save them again")
    return indices


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kinds: str) -> NDArray:
    with archive.open(f"{name}.npy") as member:
        content = io.BytesIO(member.read(_MEMBERS[name]))
    version = npy.read_magic(content)
    found, _, dtype = npy.read_array_header_1_0(content) if version == (1, 0) else npy.read_array_header_2_0(content)
    if found != shape or dtype.kind not in kinds:
        raise OasisVQError(f"`{name}` has shape {found} of {dtype}: this model takes {shape} whole numbers")
    content.seek(0)
    return npy.read_array(content, allow_pickle=False)
