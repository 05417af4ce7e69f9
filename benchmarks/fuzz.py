"""A fuzzer on everything that reads what a stranger may have made.

    pip install atheris && python -m oasisvq benchmark fuzz --inputs 100000 --seconds 170 --out fuzz

Each reader gets small files that it reads, changed at random and steered by the lines of Python that they reach
(atheris, which is libFuzzer). Checksums and compression hide what lies behind them, so a part of the inputs is mended
or wrapped afterwards. A reader may return, or refuse with an OasisVQError of one printable line; anything else is a
finding and is written to OUT/READER/found with its traceback. So is an input that costs two seconds of processor time.

One call works for `--seconds` at most and goes on where the last one stopped, until every reader had its inputs.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import importlib
import io
import json
import math
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qsl

import numpy as np

HANG = 2.0  # seconds of processor time
LONGEST = 300  # characters of a refusal that a page can show
_MODULES = ("data.upload", "data.volumes", "data.codes", "app.links", "hub.verification", "hub.card", "compress")
INSTRUMENTED = ("PIL", "nibabel", "pydicom", "safetensors", "oasisvq")


class Reader(NamedTuple):
    """Something that reads bytes of unknown origin.

    Attributes:
        read: the reader under test. Returns, or raises OasisVQError.
        seeds: small files, most of which it accepts.
        dressings: what makes a file of mutated bytes; the first leaves them as they are.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    dressings: tuple[Callable[[bytes], bytes], ...] = (bytes,)

    def file(self, data: bytes) -> bytes:
        """The file that fuzzed bytes stand for: the first of them says how the rest is dressed."""
        return self.dressings[data[0] % len(self.dressings)](data[1:]) if data else b""


def wrong(reader: Reader, file: bytes) -> str | None:
    """What is wrong with how a reader takes a file; None when it takes or refuses it as it should."""
    from oasisvq.errors import OasisVQError

    started = time.process_time()
    try:
        reader.read(file)
    except OasisVQError as error:
        if not str(error).isprintable() or len(str(error)) > LONGEST or HOSTILE in str(error):
            return f"refused in words that no page should show: {str(error)[: 2 * LONGEST]!r}"
    except Exception:
        return traceback.format_exc(limit=-6)
    seconds = time.process_time() - started
    return f"took {seconds:.1f} s" if seconds > HANG else None


# What is fuzzed


def _picture(side: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] - side / 2
    return np.where(np.hypot(rows, columns) < 0.4 * side, 90 + 3 * rows + 2 * columns, 0).astype(np.uint8)


def _encoded(picture: np.ndarray, kind: str, **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


_PNG = b"\x89PNG\r\n\x1a\n"


def _mended_png(data: bytes) -> bytes:
    """The same chunks with the checksums that they ought to have."""
    out, at = _PNG, len(_PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        out += _chunk(kind, data[at + 8 : at + 8 + length])
        at += 12 + length
    return out


def _made_png(data: bytes) -> bytes:
    """Header and pixels as given, compressed as they should be."""
    return _PNG + _chunk(b"IHDR", data[:13]) + _chunk(b"IDAT", zlib.compress(data[13:], 1)) + _chunk(b"IEND", b"")


def _png_seeds() -> list[bytes]:
    grey, wide = _picture(), _picture().astype(np.uint16) * 200
    header = struct.pack(">IIBBBBB", 32_000, 32_000, 8, 0, 0, 0, 0)
    billion = _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")
    return [
        _encoded(grey, "PNG"),
        _encoded(wide, "PNG"),
        _encoded(np.dstack([grey] * 3), "PNG"),
        _encoded(grey > 50, "PNG"),
        _encoded(grey, "PNG", save_all=True, append_images=[]),
        billion,
    ]


def _jpeg_seeds() -> list[bytes]:
    grey = _picture()
    whole = _encoded(grey, "JPEG")
    frame = whole.index(b"\xff\xc0")
    billion = whole[: frame + 5] + b"\xff\xdc\xff\xdc" + whole[frame + 9 :]
    return [
        whole,
        _encoded(grey, "JPEG", progressive=True),
        _encoded(np.dstack([grey] * 3), "JPEG"),
        _encoded(grey, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        billion,
    ]


def _tiff_seeds() -> list[bytes]:
    grey = _picture()
    kinds = ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")
    seeds = [_encoded(grey, "TIFF", compression=kind) for kind in kinds]
    seeds += [_encoded(grey.astype(np.uint16) * 200, "TIFF"), _encoded(grey.astype(np.float32) / 9, "TIFF")]
    seeds += [_encoded(grey > 50, "TIFF", compression="group4"), _encoded(np.dstack([grey] * 3), "TIFF")]
    # Width and height are the first two entries of a directory; make them 31,623: 10^9 pixels.
    directory = struct.unpack_from("<I", seeds[0], 4)[0]
    billion = bytearray(seeds[0])
    for entry in (0, 1):
        billion[directory + 2 + 12 * entry + 8 : directory + 2 + 12 * entry + 12] = struct.pack("<I", 31_623)
    return [*seeds, bytes(billion)]


def _read_picture(file: bytes) -> None:
    from oasisvq.data.upload import read_image

    slice01 = read_image(file, "theirs")
    assert slice01.dtype == np.float32, slice01.dtype
    assert slice01.ndim == 2
    assert slice01.shape[0] == slice01.shape[1], slice01.shape
    assert np.isfinite(slice01).all()
    assert 0 <= slice01.min() < slice01.max() <= 1


def _head(side: int = 12) -> np.ndarray:
    """A ball of brain in `side`^3 voxels."""
    x, y, z = np.mgrid[:side, :side, :side] - (side - 1) / 2
    return np.where(np.sqrt(x**2 + y**2 + z**2) < 0.38 * side, 900 + 7 * x + 5 * y + 3 * z, 0)


def _nifti_seeds() -> list[bytes]:
    import nibabel

    head, seeds = _head(), []
    for values, affine in (
        (head.astype(np.int16), np.diag([14.0, 14, 14, 1])),
        (head.astype(np.float32), np.array([[0, 0, -14.0, 9], [14, 0, 0, 9], [0, 14, 0, 9], [0, 0, 0, 1]])),
        (head.astype(np.uint8)[..., None], np.diag([-14.0, 14, 7, 1])),
        (head.astype(">i2"), np.diag([14.0, 14, 14, 1])),
    ):
        seeds.append(nibabel.Nifti1Image(values, affine).to_bytes())
    seeds.append(nibabel.Nifti2Image(head.astype(np.int16), np.eye(4)).to_bytes())
    billion = bytearray(seeds[0])
    struct.pack_into("<4h", billion, 40, 3, 1000, 1000, 1000)
    below = bytearray(seeds[0])
    struct.pack_into("<4h", below, 40, 3, -12, 0, 12)
    unsized = bytearray(seeds[1])
    struct.pack_into("<4f", unsized, 76, float("nan"), float("inf"), 0, -1)
    return [*seeds, bytes(billion), bytes(below), bytes(unsized)]


def _gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


_SCRATCH = tempfile.TemporaryDirectory(prefix="fuzz", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def _read_volume(suffix: str) -> Callable[[bytes], None]:
    def read(file: bytes) -> None:
        from oasisvq.data.volumes import read_volume

        path = Path(_SCRATCH.name) / f"theirs{suffix}"
        if suffix == ".hdr":
            path.with_suffix(".img").write_bytes(file[348:])
            file = file[:348]
        path.write_bytes(file)
        volume, voxel = read_volume(path)
        assert volume.ndim == 3
        assert volume.dtype == np.float32
        assert np.isfinite(volume).all()
        assert voxel.shape == (3,)
        assert (voxel > 0).all()

    return read


def _analyze_seeds() -> list[bytes]:
    import nibabel

    seeds = []
    for order in "<>":
        for kind in ("i2", "f4", "u1"):
            header = nibabel.AnalyzeHeader(endianness=order)
            header.set_data_dtype(kind)
            header.set_data_shape((12, 12, 12))
            header.set_zooms((14, 14, 14))
            seeds.append(header.binaryblock + _head().astype(order + kind).tobytes())
    unsigned = bytearray(seeds[3])
    struct.pack_into(">h", unsigned, 70, 132)  # as OASIS-1 writes unsigned numbers
    return [*seeds, bytes(unsigned)]


def _checked(scan: Any) -> None:
    """What the pages count on."""
    assert scan.stack.dtype == np.float32
    assert scan.stack.ndim == 3
    assert scan.stack.shape[1] == scan.stack.shape[2], scan.stack.shape
    assert len(scan.levels) == len(scan.stack)
    assert np.isfinite(scan.stack).all()
    assert 0 <= scan.stack.min() <= scan.stack.max() <= 1
    assert 0 <= scan.first < len(scan.stack)
    for words in (*scan.notes, *scan.warnings):
        assert words.isprintable(), words
        assert HOSTILE not in words, words


# Cutting slices takes a hundred times as long as reading a header: one file in so many goes all the way.
_ALL_THE_WAY = 32


def _read_uploaded_nifti(file: bytes) -> None:
    from oasisvq.data import nifti
    from oasisvq.data.upload import read

    if zlib.crc32(file) % _ALL_THE_WAY == 0:
        _checked(read(file, "theirs"))
    else:
        volume = nifti.read(file)
        assert volume.voxels.ndim == 3
        assert volume.affine.shape == (4, 4)


def _read_dicom(file: bytes) -> None:
    """As an upload is read, but in this process: the app starts one of its own for each, which costs half a second."""
    from oasisvq.data import dicom, scan

    volume = dicom.read(file)
    assert volume.voxels.ndim == 3
    if volume.affine is not None and zlib.crc32(file) % _ALL_THE_WAY == 0:
        _checked(scan.axial(volume.voxels, volume.affine, True, volume.notes))


HOSTILE = "<img src=x onerror=alert(1)>"


def _flat_seeds() -> list[bytes]:
    """Volumes of a few slices, so that most of the time goes to headers."""
    import nibabel

    head, seeds = _head(20)[:, :, 8:12], []
    for values, affine, kind in (
        (head.astype(np.int16), np.diag([4.0, 4, 4, 1]), nibabel.Nifti1Image),
        (head.astype(">f4"), np.diag([-3.0, -3, 5, 1]), nibabel.Nifti1Image),
        ((head / 4).astype(np.uint8)[..., None], np.diag([3.0, 3, 3, 1]), nibabel.Nifti2Image),
        (np.where(head > 0, head, np.nan).astype(np.float64), np.diag([4.0, 4, 4, 1]), nibabel.Nifti1Image),
    ):
        image = kind(values, affine)  # type: ignore[no-untyped-call]
        image.header["descrip"] = HOSTILE.encode()
        seeds.append(image.to_bytes())
    billion, below = bytearray(seeds[0]), bytearray(seeds[0])
    struct.pack_into("<4h", billion, 40, 3, 1000, 1000, 1000)
    struct.pack_into("<4h", below, 40, 3, -20, 0, 4)
    return [*seeds, bytes(billion), bytes(below)]


def _dicom_file(picture: np.ndarray, **header: Any) -> bytes:
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    syntax = {"big": ExplicitVRBigEndian, "implicit": ImplicitVRLittleEndian}
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    order = header.pop("order", "")
    dataset.file_meta.TransferSyntaxUID = syntax.get(order, ExplicitVRLittleEndian)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.4")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.PatientName = dataset.SeriesDescription = dataset.StudyDescription = HOSTILE
    dataset.Modality, dataset.SeriesInstanceUID = "MR", "1.2.3"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = picture.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 8 * picture.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.ImageOrientationPatient, dataset.PixelSpacing, dataset.SliceThickness = [1, 0, 0, 0, 1, 0], [3, 3], 3
    dataset.ImagePositionPatient = [0, 0, header.pop("height", 0)]
    dataset.PixelData = picture.astype(picture.dtype.newbyteorder(">" if order == "big" else "<")).tobytes()
    for key, value in header.items():
        setattr(dataset, key, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _dicom_seeds() -> list[bytes]:
    grey = _picture()
    wide = grey.astype(np.uint16) * 9
    frames = np.stack([wide] * 2)
    return [
        _dicom_file(grey),
        _dicom_file(wide, RescaleSlope="2", RescaleIntercept="-3"),
        _dicom_file(wide, order="big"),
        _dicom_file(wide, order="implicit", PhotometricInterpretation="MONOCHROME1"),
        _dicom_file(frames, NumberOfFrames="2"),
        _dicom_file(wide, Rows=31_623, Columns=31_623),
        _dicom_file(wide, PixelSpacing=[0, -1]),
    ]


def _zipped(files: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 1)
    return buffer.getvalue()


def _zipped_series(data: bytes) -> bytes:
    """Fuzzed bytes as two files of a zip whose names lead out of it."""
    return _zipped([("../../outside.dcm", data[: len(data) // 2]), ("/etc/outside", data[len(data) // 2 :])])


def _zip_seeds() -> list[bytes]:
    wide = _picture().astype(np.uint16) * 9
    series = [(f"{'../' * k}{HOSTILE}/{k}.dcm", _dicom_file(wide, height=3 * k)) for k in range(3)]
    bomb = _zipped([("zeros.dcm", bytes(2_000_000))])
    return [_zipped(series), _zipped([("inside.zip", _zipped(series))]), bomb]


@cache
def _small() -> Any:
    """The smallest preset there is."""
    from oasisvq.models.presets import PRESETS

    return replace(
        PRESETS["smoke"],
        size=16,
        codebook_size=4,
        code_dim=2,
        channels=(2, 2),
        blocks=(1, 1),
        prior_channels=4,
        prior_layers=1,
        prior_heads=1,
    )


@cache
def _weights() -> dict[str, bytes]:
    """Files of a whole folder of such weights."""
    import torch

    from oasisvq.hub.manifest import write_manifest
    from oasisvq.models.pixelcnn import PixelCNN
    from oasisvq.models.vqvae import VQVAE
    from oasisvq.training.loop import save_weights

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_weights(VQVAE(_small()), folder / "vqvae.safetensors")
        save_weights(PixelCNN(_small()), folder / "prior.safetensors")
        saw = {"name": "nobody", "description": "", "people": {"train": 0}, "slices": {"train": 0}}
        made = {"command": "none", "precision": "fp32", "versions": {"torch": "2"}, "threads": 1, "seed": 0}
        write_manifest(folder, _small(), saw | {"fingerprint": "0" * 64}, made)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _read_manifest(file: bytes) -> None:
    from oasisvq.hub import sources
    from oasisvq.hub.card import model_card
    from oasisvq.hub.verification import load

    folder = Path(_SCRATCH.name) / "weights"
    if not folder.is_dir():
        folder.mkdir()
        for name, content in _weights().items():
            (folder / name).write_bytes(content)
    (folder / "manifest.json").write_bytes(file)
    loaded = load(folder)
    model_card(folder)
    sources.describe(sources.Resolved(folder, loaded, "folder"))


@cache
def _tensors() -> dict[str, Any]:
    from oasisvq.models.pixelcnn import PixelCNN

    return PixelCNN(_small()).state_dict()


def _read_safetensors(file: bytes) -> None:
    """What comes after size and hash were found to be those of the manifest."""
    from oasisvq.hub.verification import read_tensors

    for name, tensor in read_tensors(Path("theirs"), file, _tensors()).items():
        assert tensor.shape == _tensors()[name].shape


_GRID, _CODES = (4, 8), 8


def _codes_seeds() -> list[bytes]:
    from oasisvq.data.codes import write_codes

    codes = np.arange(math.prod(_GRID)).reshape(_GRID) % _CODES
    objects, huge = io.BytesIO(), io.BytesIO()
    np.save(objects, np.full((1, *_GRID), None, object), allow_pickle=True)
    np.lib.format.write_array_header_1_0(huge, {"descr": "<i8", "fortran_order": False, "shape": (1, 31_623, 31_623)})
    packed = [_zipped([("indices.npy", inside.getvalue())]) for inside in (objects, huge)]
    return [write_codes(codes[None], "0" * 64), *packed]


def _read_codes(file: bytes) -> None:
    from oasisvq.data.codes import read_codes

    codes = read_codes(file, "theirs", _GRID, _CODES, "0" * 64)
    assert codes.shape[1:] == _GRID
    assert 0 <= codes.min() <= codes.max() < _CODES


def _npz(data: bytes) -> bytes:
    """Fuzzed bytes as the array inside."""
    return _zipped([("indices.npy", data)])


class _Drawer:
    """As much of a model as a link asks for."""

    preset = SimpleNamespace(grid=_GRID, codebook_size=_CODES)
    info: ClassVar = {"files": {f"{name}.safetensors": {"sha256": "0" * 64} for name in ("vqvae", "prior")}}

    def sample(self, n: int, **asked: Any) -> SimpleNamespace:
        import torch

        assert asked["seed"] == int(asked["seed"])
        return SimpleNamespace(indices=torch.zeros(n, *_GRID, dtype=torch.int64))


def _link_seeds() -> list[bytes]:
    from oasisvq.app import links

    before = np.zeros(_GRID, np.int64)
    after = np.where(np.eye(*_GRID, dtype=bool), 3, before)
    drawn = links.of_draw({"seed": 7, "draw": 2, "temperature": 0.9, "top_k": 5, "level": 3, "grade": 0.5})
    begun = {"example": "one", "rows": "2", "seed": "1", "draw": "0"}
    made = [
        links.address("http://here/", _Drawer(), origin, before, after)  # type: ignore[arg-type]
        for origin in (drawn, begun, {"example": "one"})
    ]
    bomb = base64.urlsafe_b64encode(zlib.compress(bytes(100_000), 9)).decode()
    texts = [
        *made,
        f"?weights=0&example=one&cells={bomb}",
        "?weights=0&prior=0&seed=nan&draw=inf",
        "?weights=0&prior=0&seed=-1e9&draw=",
    ]
    return [text.partition("?")[2].encode() for text in texts]


def _read_link(file: bytes) -> None:
    from oasisvq.app import links

    parameters = dict(parse_qsl(file.decode("utf-8", errors="replace")))
    restored = links.restore(_Drawer(), parameters, {"one": np.zeros(_GRID, np.int64)}.get)  # type: ignore[arg-type]
    assert restored.indices.shape == _GRID
    assert 0 <= restored.indices.min() <= restored.indices.max() < _CODES


@cache
def _model() -> Any:
    """A whole model of the smallest preset, and nothing in its files."""
    import torch

    from oasisvq.models.pixelcnn import PixelCNN
    from oasisvq.models.vqvae import VQVAE
    from oasisvq.pipeline import OasisVQ

    torch.manual_seed(0)
    files = {f"{name}.safetensors": {"sha256": "0" * 64} for name in ("vqvae", "prior")}
    return OasisVQ(_small(), VQVAE(_small()), PixelCNN(_small()), {"files": files, "notes": []}, "cpu")


@cache
def _compressed_seeds() -> list[bytes]:
    import torch

    from oasisvq.compress import compress

    grids = torch.randint(_small().codebook_size, (3, *_small().grid), generator=torch.Generator().manual_seed(0))
    return compress(_model(), grids, levels=[0, 1, 2])


def _compressed(data: bytes) -> bytes:
    """Fuzzed bytes where the arithmetic decoder reads, behind a header that belongs to the weights."""
    return _compressed_seeds()[0][:10] + data


def _read_compressed(file: bytes) -> None:
    from oasisvq.compress import decompress

    codes = decompress(_model(), {"theirs": file})
    assert codes.shape == (1, *_small().grid)
    assert 0 <= codes.min() <= codes.max() < _small().codebook_size


READERS = {
    "png": Reader(_read_picture, _png_seeds, (bytes, _mended_png, _made_png)),
    "jpeg": Reader(_read_picture, _jpeg_seeds),
    "tiff": Reader(_read_picture, _tiff_seeds),
    "nifti": Reader(_read_volume(".nii"), _nifti_seeds),
    "gzip": Reader(_read_volume(".nii.gz"), lambda: [_gzipped(s) for s in _nifti_seeds()], (bytes, _gzipped)),
    "analyze": Reader(_read_volume(".hdr"), _analyze_seeds),
    "uploaded nifti": Reader(_read_uploaded_nifti, _flat_seeds, (bytes, _gzipped)),
    "dicom": Reader(_read_dicom, _dicom_seeds),
    "zip": Reader(_read_dicom, _zip_seeds, (bytes, _zipped_series)),
    "codes": Reader(_read_codes, _codes_seeds, (bytes, _npz)),
    "compressed": Reader(_read_compressed, _compressed_seeds, (bytes, _compressed)),
    "link": Reader(_read_link, _link_seeds),
    "manifest": Reader(_read_manifest, lambda: [_weights()["manifest.json"]]),
    "safetensors": Reader(_read_safetensors, lambda: [_weights()["prior.safetensors"]]),
}


# How it is run


def _resident() -> float:
    """MB of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


class _Tally:
    """What came of the inputs so far."""

    def __init__(self, reader: Reader, inputs: int, seconds: float, folder: Path) -> None:
        self.reader, self.inputs, self.folder = reader, inputs, folder
        self.ends = time.monotonic() + seconds
        self.done = self.findings = 0
        self.slowest = self.settled = 0.0
        (folder / "found").mkdir(parents=True, exist_ok=True)

    def one(self, data: bytes) -> None:
        before = time.process_time()
        file = self.reader.file(data)
        fault = wrong(self.reader, file)
        self.slowest = max(self.slowest, time.process_time() - before)
        if fault is not None:
            self.findings += 1
            # One file for each place that fails: the end of the traceback, without what depends on the input.
            where = hashlib.sha1("".join(fault.splitlines()[-3:-1]).encode()).hexdigest()[:12]
            (self.folder / "found" / where).write_bytes(file)
            (self.folder / "found" / f"{where}.txt").write_text(fault)
        self.done += 1
        if self.done == self.inputs // 4:
            self.settled = _resident()
        if self.done >= self.inputs or time.monotonic() > self.ends:
            figures = {
                "inputs": self.done,
                "findings": self.findings,
                "slowest_s": self.slowest,
                "grew_mb": _resident() - self.settled if self.settled else 0.0,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            }
            (self.folder / "piece.json").write_text(json.dumps(figures))
            os._exit(0)


def _steered(name: str, inputs: int, seconds: float, number: int, folder: Path) -> None:
    """Fuzz one reader in this process, which then ends."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        importlib.import_module("pydicom")
        for module in _MODULES:
            importlib.import_module(f"oasisvq.{module}")
    seeds = READERS[name].seeds()
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds):
        (corpus / f"seed_{i}").write_bytes(b"\0" + seed)
    tally = _Tally(READERS[name], inputs, seconds, folder)
    longest = 2 * max(len(seed) for seed in seeds) + 1024
    options = ["-verbosity=0", "-timeout=30", "-rss_limit_mb=4096", f"-max_len={longest}", f"-seed={number + 1}"]
    atheris.Setup(["fuzz", *options, f"-artifact_prefix={folder / 'found'}/killed_", str(corpus)], tally.one)
    atheris.Fuzz()


def _replayed(name: str, inputs: int, seconds: float, number: int, folder: Path) -> None:
    """What was found worth keeping, with a few bytes changed, in a process that holds no fuzzer: memory is its own."""
    corpus = [path.read_bytes() for path in sorted((folder / "corpus").iterdir())]
    tally = _Tally(READERS[name], inputs, seconds, folder)
    rng = random.Random(number)
    while True:
        data = bytearray(rng.choice(corpus))
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        tally.one(bytes(data))


_WAYS = {"steered": _steered, "replayed": _replayed}


def _run_piece(way: str, name: str, inputs: int, seconds: float, number: int, folder: Path) -> dict[str, Any]:
    """A piece in a process of its own: a reader that takes the interpreter down is a finding too."""
    result = folder / "piece.json"
    result.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    words = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        "--piece",
        way,
        name,
        *map(str, (inputs, seconds, number, folder)),
    ]
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    if result.is_file():
        return {"way": way, **json.loads(result.read_text())}
    said = done.stderr.decode(errors="replace")
    if "No module named 'atheris'" in said:
        raise SystemExit("error: atheris is missing: pip install atheris")
    (folder / "killed.txt").write_text(said[-20_000:])
    return {"way": way, "inputs": 0, "findings": 1, "slowest_s": 0.0, "grew_mb": 0.0, "peak_mb": 0.0}


def main(arguments: list[str] | None = None) -> None:
    """Fuzz on for a while and print a row a reader."""
    parser = argparse.ArgumentParser(
        "python -m oasisvq benchmark fuzz", description="Hostile input for every reader, in pieces that add up."
    )
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"(default: all) of {', '.join(READERS)}")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each reader, over all calls")
    parser.add_argument("--seconds", type=float, default=170, help="for this call")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="folder of corpus, findings and figures")
    options = parser.parse_args(arguments)
    if unknown := set(options.readers) - set(READERS):
        parser.error(f"no reader {min(unknown)}: choose from {', '.join(READERS)}")

    ends = time.monotonic() + options.seconds
    state = options.out / "figures.json"
    figures: dict[str, list[dict[str, Any]]] = json.loads(state.read_text()) if state.is_file() else {}
    # Four fifths are steered; the last fifth is replayed, to see whether memory grows.
    wanted = {"steered": options.inputs * 4 // 5, "replayed": options.inputs - options.inputs * 4 // 5}
    for name in options.readers or READERS:
        pieces = figures.setdefault(name, [])
        for way, inputs in wanted.items():
            left = inputs - sum(piece["inputs"] for piece in pieces if piece["way"] == way)
            # A process needs a few seconds to start; what is left of the last ones is not worth it.
            if left > 0 and (seconds := ends - time.monotonic()) > 10:
                folder = options.out.absolute() / name.replace(" ", "_")
                pieces.append(_run_piece(way, name, left, seconds - 8, len(pieces), folder))
                state.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{'reader':>16} {'inputs':>9} {'findings':>9} {'slowest':>9} {'memory grew':>12} {'peak':>8}")
    for name, pieces in figures.items():
        inputs, findings = (sum(piece[key] for piece in pieces) for key in ("inputs", "findings"))
        slowest, peak = (max((piece[key] for piece in pieces), default=0) for key in ("slowest_s", "peak_mb"))
        grew = max((piece["grew_mb"] for piece in pieces if piece["way"] == "replayed"), default=float("nan"))
        print(f"{name:>16} {inputs:>9,} {findings:>9,} {slowest:>7.2f} s {grew:>9.1f} MB {peak:>5.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--piece"]:
        way, name, inputs, seconds, number, folder = sys.argv[2:]
        sys.path.insert(0, str(Path(__file__).parent.parent))
        _WAYS[way](name, int(inputs), float(seconds), int(number), Path(folder))
    main()
