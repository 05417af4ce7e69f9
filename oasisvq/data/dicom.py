"""One DICOM file, or a zip of a series, to a volume in the patient's space.

The decoders of compressed DICOM are C++ that a bent file can crash: GDCM aborted on some files that were altered at
random. So the app calls `read_apart`, which runs `read` in a process of its own with bounded time and
memory, and whose messages go nowhere: a header never reaches a log.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oasisvq.errors import OasisVQError

MAX_FILES = 2000
MAX_UNPACKED = 400_000_000
MAX_VOXELS = 70_000_000  # 512 x 512 x 256, and a little
_SIDES = (32, 1024)
_SECONDS, _MEMORY = 20, 4_000_000_000

# What else a file may say of itself and still hold an MR picture: "other" and screenshots. CT or PET is refused.
_MODALITIES = ("MR", "OT", "SC", "")
_DEFLATED = b"1.2.840.10008.1.2.1.99"


class Volume(NamedTuple):
    """A scan, from DICOM or NIfTI.

    Attributes:
        voxels: (X, Y, Z) float32, rescaled as the header says, bright where the scan is bright.
        affine: (4, 4), from voxels to millimetres right, front and up (RAS+); None for a slice of no known place.
        oriented: False where the affine is a guess from the voxel size alone, or None.
        notes: for the reader.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64] | None
    oriented: bool
    notes: list[str]


class _Slice(NamedTuple):
    dataset: Any
    frame: int
    kind: tuple[Any, ...]  # slices of one volume agree in it: series, size, orientation, spacing
    position: NDArray[np.float64] | None
    thickness: float


def read_apart(data: bytes) -> Volume:
    """`read` in a process of its own. Raises OasisVQError as `read` does, or when that process did not survive."""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    broken = OasisVQError("not a readable DICOM file or series: export it again, uncompressed if your tool offers it")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "oasisvq.data.dicom"],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=3 * _SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise OasisVQError("takes too long to read: export the series again, uncompressed") from error
    if done.returncode:
        raise broken
    head, _, content = done.stdout.partition(b"\n")
    about = json.loads(head)
    if "refused" in about:
        raise OasisVQError(about["refused"])
    affine = None if about["affine"] is None else np.array(about["affine"])
    voxels = np.frombuffer(content, np.float32).reshape(about["shape"])
    return Volume(voxels, affine, affine is not None, about["notes"])


def packed(folder: Path) -> bytes:
    """The files of a folder, and of the folders in it, as the zip that `read` takes, in memory.

    Raises OasisVQError when they are too many or too large for one series.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in files)
    if len(files) > MAX_FILES or size > MAX_UNPACKED:
        raise OasisVQError(
            f"{folder}: {len(files)} files, {size // 1_000_000} MB: one series has at most {MAX_FILES} and "
            f"{MAX_UNPACKED // 1_000_000} MB, name the folder of that series"
        )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number, file in enumerate(files):
            archive.writestr(str(number), file.read_bytes())
    return content.getvalue()


def read(data: bytes) -> Volume:
    """Read one DICOM file (a slice, or the frames of one) or a zip of a series; of several series the largest.

    Raises OasisVQError in one sentence for what is no MR picture of one brightness a pixel, what has no order in
    space, misses slices, is too large, or broken.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _read(data)
        except OasisVQError:
            raise
        except Exception as error:  # decoders given hostile bytes raise almost anything
            raise OasisVQError("not a readable DICOM file or series: export it again") from error


def _read(data: bytes) -> Volume:
    datasets = [_parse(content) for content in _files(data)]
    groups: dict[tuple[Any, ...], list[_Slice]] = {}
    for dataset in datasets:
        if dataset is not None and "PixelData" in dataset:
            for one in _slices(dataset):
                groups.setdefault(one.kind, []).append(one)
    if not groups:
        raise OasisVQError("no DICOM picture inside: export the series as DICOM files, and zip them")
    slices = max(groups.values(), key=len)
    notes = []
    others = sum(map(len, groups.values())) - len(slices)
    if others:
        notes.append(
            f"{others} pictures of another series, size or direction were left out: the largest series is shown, "
            f"{len(slices)} slices."
        )
    _, rows, columns, directions, spacing = slices[0].kind
    if len(slices) * rows * columns > MAX_VOXELS:
        raise OasisVQError(f"{len(slices)} slices of {columns}x{rows} pixels are too many: export one series of a head")
    if len(slices) == 1 and (directions is None or spacing is None or slices[0].position is None):
        return Volume(_voxels(slices), None, False, notes)
    where = [one.position for one in slices if one.position is not None]
    if directions is None or spacing is None or len(where) < len(slices):
        raise OasisVQError("the header gives the slices no place in space: they cannot be put in order, give one slice")
    along = np.array(directions)
    across = np.cross(along[0], along[1])
    order = np.argsort(np.array(where) @ across, kind="stable")
    slices, places = [slices[i] for i in order], np.array(where)[order]
    step = across * slices[0].thickness if len(slices) == 1 else (places[-1] - places[0]) / (len(slices) - 1)
    gaps = np.diff(places @ across)
    if len(gaps) and gaps.min() < 0.01:
        raise OasisVQError("several pictures at the same place (echoes, time points): export one of them")
    if len(gaps) and gaps.max() > 1.5 * np.median(gaps):
        raise OasisVQError("slices are missing in between: export the whole series")
    affine = np.eye(4)
    affine[:3] = np.column_stack([along[0] * spacing[1], along[1] * spacing[0], step, places[0]])
    affine[:2] *= -1  # DICOM counts to the left and to the back
    return Volume(_voxels(slices), affine, True, notes)


def _files(data: bytes) -> Iterator[bytes]:
    """The file itself, or the files of a zip, unpacked one by one in memory; nested zips are not opened."""
    if data[128:132] == b"DICM":
        yield data
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > MAX_FILES:
            raise OasisVQError(f"{len(members)} files in the zip: one series has at most {MAX_FILES}")
        if any(member.flag_bits & 1 for member in members):
            raise OasisVQError("the zip is locked with a password: zip the series without one")
        if sum(member.file_size for member in members) > MAX_UNPACKED:
            raise OasisVQError(f"the zip unpacks to over {MAX_UNPACKED // 1_000_000} MB: zip one series only")
        for member in members:
            content = archive.read(member)  # never gives more than the size that was added up above
            if content[128:132] == b"DICM":
                yield content


def _parse(content: bytes) -> Any:
    import pydicom

    if _DEFLATED in content[:2000]:
        raise OasisVQError("a deflated DICOM file: export it again in another transfer syntax")
    try:
        return pydicom.dcmread(io.BytesIO(content))
    except Exception:  # a directory or report beside the pictures must not spoil the series
        return None


def _slices(dataset: Any) -> Iterator[_Slice]:
    """The pictures of one file, nothing decoded yet."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if min(rows, columns) < _SIDES[0] or max(rows, columns) > _SIDES[1] or frames < 1:
        raise OasisVQError(f"{columns}x{rows} pixels: a slice has {_SIDES[0]} to {_SIDES[1]} a side")
    if frames * rows * columns > MAX_VOXELS:
        raise OasisVQError(f"{frames} frames of {columns}x{rows} pixels are too many: export one series of a head")
    modality = str(dataset.get("Modality") or "")
    if modality not in _MODALITIES:
        raise OasisVQError("not an MR scan by its header: the model knows T1-weighted MR only")
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise OasisVQError("a colour picture: a slice has one brightness a pixel, export it as greyscale")
    shared = dataset.get("SharedFunctionalGroupsSequence") or [{}]
    each = dataset.get("PerFrameFunctionalGroupsSequence")
    if frames > 1 and (each is None or len(each) != frames):
        raise OasisVQError(f"{frames} frames without a place in space: export one slice, or a series of single slices")
    for frame in range(frames):
        groups = [each[frame] if each else {}, shared[0]]

        def find(sequence: str, keyword: str, length: int, groups: list[Any] = groups) -> NDArray[np.float64] | None:
            for group in groups:
                if sequence in group and keyword in group[sequence][0]:
                    return _numbers(group[sequence][0].get(keyword), length)
            return _numbers(dataset.get(keyword), length)

        directions = find("PlaneOrientationSequence", "ImageOrientationPatient", 6)
        spacing = find("PixelMeasuresSequence", "PixelSpacing", 2)
        thickness = find("PixelMeasuresSequence", "SliceThickness", 1)
        kind = (
            str(dataset.get("SeriesInstanceUID")),
            rows,
            columns,
            None if directions is None else _directions(directions),
            None if spacing is None or spacing.min() <= 0 else tuple(np.round(spacing, 4)),
        )
        thick = 1.0 if thickness is None or thickness[0] <= 0 else float(thickness[0])
        yield _Slice(dataset, frame, kind, find("PlanePositionSequence", "ImagePositionPatient", 3), thick)


def _numbers(value: Any, length: int) -> NDArray[np.float64] | None:
    """A value of the header as that many finite numbers, None where it is absent or empty."""
    if value is None or value == "":
        return None
    numbers = np.atleast_1d(np.array(value, dtype=np.float64))
    return numbers if numbers.shape == (length,) and np.isfinite(numbers).all() else None


def _directions(six: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    """Unit vectors along a row and down a column, rounded so that slices of one series agree."""
    two = six.reshape(2, 3)
    if np.abs(two @ two.T - np.eye(2)).max() > 0.01:
        raise OasisVQError("the header gives rows and columns that are not at right angles: export the series again")
    return tuple(tuple(np.round(vector, 3)) for vector in two)


def _voxels(slices: list[_Slice]) -> NDArray[np.float32]:
    """Decoded, rescaled, bright where the scan is bright: (columns, rows, slices)."""
    _, rows, columns, _, _ = slices[0].kind
    out = np.empty((columns, rows, len(slices)), np.float32)
    frames = decoded = None
    for i, one in enumerate(slices):
        dataset = one.dataset
        if dataset is not decoded:
            frames, decoded = _pixels(dataset, rows, columns), dataset
        assert frames is not None
        slope, intercept = (_numbers(dataset.get(f"Rescale{word}"), 1) for word in ("Slope", "Intercept"))
        picture = frames[one.frame].T.astype(np.float32)
        if slope is not None:
            picture = picture * slope[0] + (0 if intercept is None else intercept[0])
        out[..., i] = picture
    if slices[0].dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        out = out.max() - out
    return out


def _pixels(dataset: Any, rows: int, columns: int) -> NDArray[Any]:
    """Every frame of one file: (frames, rows, columns)."""
    pixels = dataset.pixel_array
    if int(dataset.get("SamplesPerPixel") or 1) > 1:
        if np.ptp(pixels.astype(np.int32), axis=-1).max() > 2:
            raise OasisVQError("a colour picture: a slice has one brightness a pixel, export it as greyscale")
        pixels = pixels[..., 1]
    return pixels.reshape(-1, rows, columns)


def _main() -> None:
    """Bytes on standard input; on standard output a line of JSON, then the voxels as float32."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not leave the pixels on the disk
    except ImportError:  # Windows has no such limits; the parent's clock still holds
        pass
    try:
        volume = read(sys.stdin.buffer.read())
    except OasisVQError as refusal:
        sys.stdout.buffer.write(json.dumps({"refused": str(refusal)}).encode() + b"\n")
        return
    affine = None if volume.affine is None else volume.affine.tolist()
    about = {"shape": volume.voxels.shape, "affine": affine, "notes": volume.notes}
    sys.stdout.buffer.write(json.dumps(about).encode() + b"\n")
    sys.stdout.buffer.write(np.ascontiguousarray(volume.voxels).data)


if __name__ == "__main__":
    _main()
