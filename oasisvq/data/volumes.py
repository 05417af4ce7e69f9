"""T1 volumes on disk, OASIS-1 discs or any NIfTI files: which there are, whose they are, and their voxels.

Which way up: NIfTI says how its axes lie. Analyze 7.5 does not; OASIS-1's T88 images are taken as nibabel takes any
Analyze file, second axis to the front and third to the top. Which side is left is not known there: no claim is made.
"""

from __future__ import annotations

import io
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np

from oasisvq.errors import OasisVQError

# Bytes as stored: 400 voxels a side of 8 bytes each.
_MAX_STORED = 512_000_000

# Codes for unsigned 16-bit numbers: SPM's and NIfTI's, both seen in Analyze headers.
_UNSIGNED = (132, 512)

_SESSION = re.compile(r"OAS1_(\d{4})_MR(\d)")
_MASKED = re.compile(r"OAS1_(\d{4})_MR(\d)_mpr_n\d_anon_111_t88_masked_gfc\.hdr")
_PERSON = re.compile(r"OAS1_\d{4}|sub-[0-9A-Za-z]+")

# Its warnings repeat what stands in headers, which logs must not hold.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class VolumeFile:
    """A volume on disk.

    Attributes:
        case: name in the PNG layout; OASIS-1's subject number (and MR2 for a second visit), else a running number.
        person: whose brain it is; volumes of one person belong in one split.
        file: the .hdr, .nii or .nii.gz.
    """

    case: str
    person: str
    file: Path


def find_volumes(source: Path | str) -> list[VolumeFile]:
    """Every volume under a folder: OASIS-1 sessions when there are any, else NIfTI files, sorted.

    A person is an OASIS-1 subject, or the `sub-...` of a BIDS path, or else each file is one, named by its path.
    Raises OasisVQError when there is nothing, or an OASIS-1 session has no masked T88 volume, or has two.
    """
    source = Path(source)
    if not source.is_dir():
        raise OasisVQError(f"{source}: no such folder: give the folder of OASIS-1 discs or of NIfTI volumes")
    sessions = sorted(
        folder for folder in source.rglob("OAS1_*_MR*") if folder.is_dir() and _SESSION.fullmatch(folder.name)
    )
    if _SESSION.fullmatch(source.resolve().name):
        sessions = [source]
    if sessions:
        return [_oasis(folder) for folder in sessions]
    files = sorted(file for file in source.rglob("*") if file.name.lower().endswith((".nii", ".nii.gz")))
    if not files:
        raise OasisVQError(
            f"{source}: neither OASIS-1 sessions (OAS1_0001_MR1) nor NIfTI volumes (.nii, .nii.gz) inside"
        )
    volumes = []
    for number, file in enumerate(files, 1):
        named = _PERSON.search(file.relative_to(source).as_posix())
        volumes.append(VolumeFile(f"{number:03d}", named[0] if named else _path(file, source), file))
    return volumes


def _path(file: Path, source: Path) -> str:
    """The path of a file below the source, without its ending: files of two folders may share a name."""
    return (file.relative_to(source).parent / stem(file)).as_posix()


def stem(file: Path) -> str:
    """File name without .nii, .nii.gz or .hdr."""
    return re.sub(r"\.(nii(\.gz)?|hdr)$", "", file.name, flags=re.IGNORECASE)


def _oasis(folder: Path) -> VolumeFile:
    found = sorted(file for file in folder.rglob("*.hdr") if _MASKED.fullmatch(file.name))
    if len(found) != 1:
        what = "no skull-stripped volume" if not found else f"{len(found)} skull-stripped volumes"
        raise OasisVQError(
            f"{folder}: {what} *_t88_masked_gfc.hdr in PROCESSED/MPRAGE/T88_111: unpack the disc again, keep one"
        )
    name = _MASKED.fullmatch(found[0].name)
    assert name is not None
    visit = "" if name[2] == "1" else f"MR{name[2]}"
    return VolumeFile(f"{int(name[1]):03d}{visit}", f"OAS1_{name[1]}", found[0])


def read_volume(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one volume: float32 (X, Y, Z), and its affine to millimetres right, front and up, (4, 4)."""
    try:
        image = _load(file)
        _check_promise(image)
        data, affine = np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine)
    except Exception as error:  # readers given hostile bytes raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OasisVQError(f"{file}: not a readable volume ({reason}): copy it again from where you got it") from error
    data = data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data
    if data.ndim != 3:
        shape = "x".join(map(str, data.shape))
        raise OasisVQError(
            f"{file}: {shape} voxels: expected one volume of three dimensions, take one out of the series"
        )
    return data, affine


def _check_promise(image: nibabel.spatialimages.SpatialImage) -> None:
    """To be asked while the header is read and the voxels are not: a small file may promise a huge volume."""
    stored = math.prod(image.shape) * image.get_data_dtype().itemsize
    if min(image.shape, default=0) < 1 or stored > _MAX_STORED or image.get_data_dtype().kind not in "iuf":
        shape = "x".join(map(str, image.shape))
        raise ValueError(f"{shape} voxels of {image.get_data_dtype()}")


def _load(file: Path) -> nibabel.spatialimages.SpatialImage:
    """`nibabel.load`, and the unsigned 16-bit numbers that it knows in NIfTI but not in Analyze."""
    block = bytearray(file.read_bytes()[:348]) if file.suffix == ".hdr" else bytearray()
    order: Literal["big", "little"] = "big" if block[:4] == b"\0\0\x01\x5c" else "little"
    if block[344:347] == b"ni1" or int.from_bytes(block[70:72], order) not in _UNSIGNED:
        return nibabel.load(file)  # type: ignore[return-value]
    block[70:72] = (4).to_bytes(2, order)  # signed for nibabel, and back
    holders = {"header": io.BytesIO(block), "image": io.BytesIO(file.with_suffix(".img").read_bytes())}
    signed = nibabel.AnalyzeImage.from_file_map(
        {key: nibabel.FileHolder(fileobj=data) for key, data in holders.items()}
    )
    _check_promise(signed)
    return nibabel.Nifti1Image(np.asarray(signed.dataobj).astype(np.int16).view(np.uint16), signed.affine)
