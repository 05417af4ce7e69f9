"""Every reader of what a stranger may have made, with small files that it reads: for the hostile tests and the fuzzer.

A reader may return, or refuse with an OasisVQError of one printable line; anything else is wrong, and so is a file that
costs two seconds of processor time.
"""

import base64
import gzip
import io
import struct
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import nibabel
import numpy as np
import torch
from PIL import Image
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian
from scans import as_bytes, dicom_slice, zipped

from oasisvq.app import links
from oasisvq.compress import compress, decompress
from oasisvq.data import codes, dicom, nifti, scan, upload, volumes
from oasisvq.errors import OasisVQError
from oasisvq.hub import sources, verification
from oasisvq.hub.card import model_card
from oasisvq.hub.manifest import write_manifest
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import PRESETS
from oasisvq.models.vqvae import VQVAE
from oasisvq.pipeline import OasisVQ
from oasisvq.training.loop import save_weights

HANG = 2.0  # seconds of processor time
LONGEST = 300  # characters of a refusal that a page can show
HOSTILE = "<img src=x onerror=alert(1)>"
SCRATCH = tempfile.TemporaryDirectory(prefix="readers", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


class Reader(NamedTuple):
    """`read` returns, or raises OasisVQError; it takes most of the `seeds`. `dressings` make files of changed bytes."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    dressings: tuple[Callable[[bytes], bytes], ...] = (bytes,)

    def wrong(self, file: bytes) -> str | None:
        """What is wrong with how it takes a file; None when it takes or refuses it as it should."""
        started = time.process_time()
        try:
            self.read(file)
        except OasisVQError as error:
            if not str(error).isprintable() or len(str(error)) > LONGEST or HOSTILE in str(error):
                return f"refused in words that no page should show: {str(error)[: 2 * LONGEST]!r}"
        except Exception:
            return traceback.format_exc(limit=-6)
        seconds = time.process_time() - started
        return f"took {seconds:.1f} s" if seconds > HANG else None

    def accepts(self, file: bytes) -> bool:
        try:
            self.read(file)
        except OasisVQError:
            return False
        return True


# Pictures


def picture(side: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] - side / 2
    return np.where(np.hypot(rows, columns) < 0.4 * side, 90 + 3 * rows + 2 * columns, 0).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


PNG = b"\x89PNG\r\n\x1a\n"


def png(header: bytes, pixels: bytes) -> bytes:
    """Header and pixels as given, compressed as they should be."""
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND", b"")


def mended_png(data: bytes) -> bytes:
    """The same chunks with the checksums that they ought to have."""
    out, at = PNG, len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        out += chunk(kind, data[at + 8 : at + 8 + length])
        at += 12 + length
    return out


def pngs() -> list[bytes]:
    grey = picture()
    kinds = [grey, grey.astype(np.uint16) * 200, np.dstack([grey] * 3), grey > 50]
    animated = encoded(grey, "PNG", save_all=True, append_images=[])
    billion = png(struct.pack(">IIBBBBB", 32_000, 32_000, 8, 0, 0, 0, 0), bytes(1000))
    return [*(encoded(pixels, "PNG") for pixels in kinds), animated, billion]


def jpegs() -> list[bytes]:
    grey = picture()
    whole = encoded(grey, "JPEG")
    frame = whole.index(b"\xff\xc0")
    billion = whole[: frame + 5] + b"\xff\xdc\xff\xdc" + whole[frame + 9 :]
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    colour = encoded(np.dstack([grey] * 3), "JPEG")
    return [whole, encoded(grey, "JPEG", progressive=True), colour, encoded(grey, "JPEG", exif=turned), billion]


def tiffs() -> list[bytes]:
    grey = picture()
    kinds = ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")
    seeds = [encoded(grey, "TIFF", compression=kind) for kind in kinds]
    seeds += [encoded(grey.astype(np.uint16) * 200, "TIFF"), encoded(grey.astype(np.float32) / 9, "TIFF")]
    seeds += [encoded(grey > 50, "TIFF", compression="group4"), encoded(np.dstack([grey] * 3), "TIFF")]
    # Width and height are the first two entries of a directory; make them 31,623: 10^9 pixels.
    directory = struct.unpack_from("<I", seeds[0], 4)[0]
    billion = bytearray(seeds[0])
    for entry in (0, 1):
        struct.pack_into("<I", billion, directory + 2 + 12 * entry + 8, 31_623)
    return [*seeds, bytes(billion)]


def read_picture(file: bytes) -> None:
    found = upload.read_image(file, "theirs")
    assert found.dtype == np.float32
    assert found.ndim == 2
    assert found.shape[0] == found.shape[1]
    assert np.isfinite(found).all()
    assert 0 <= found.min() < found.max() <= 1


# Volumes on disk


def head(side: int = 12) -> np.ndarray:
    """A ball of brain in `side`^3 voxels."""
    x, y, z = np.mgrid[:side, :side, :side] - (side - 1) / 2
    return np.where(np.sqrt(x**2 + y**2 + z**2) < 0.38 * side, 900 + 7 * x + 5 * y + 3 * z, 0)


def with_shape(file: bytes, *shape: int) -> bytes:
    """A NIfTI file that says it has another shape."""
    changed = bytearray(file)
    struct.pack_into(f"<{1 + len(shape)}h", changed, 40, len(shape), *shape)
    return bytes(changed)


def niftis() -> list[bytes]:
    turned = np.array([[0, 0, -14.0, 9], [14, 0, 0, 9], [0, 14, 0, 9], [0, 0, 0, 1]])
    kinds = [
        (head().astype(np.int16), np.diag([14.0, 14, 14, 1])),
        (head().astype(np.float32), turned),
        (head().astype(np.uint8)[..., None], np.diag([-14.0, 14, 7, 1])),
        (head().astype(">i2"), np.diag([14.0, 14, 14, 1])),
    ]
    seeds = [nibabel.Nifti1Image(values, affine).to_bytes() for values, affine in kinds]
    seeds.append(nibabel.Nifti2Image(head().astype(np.int16), np.eye(4)).to_bytes())
    unsized = bytearray(seeds[1])
    struct.pack_into("<4f", unsized, 76, float("nan"), float("inf"), 0, -1)
    return [*seeds, with_shape(seeds[0], 1000, 1000, 1000), with_shape(seeds[0], -12, 0, 12), bytes(unsized)]


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def analyzes() -> list[bytes]:
    seeds = []
    for order in "<>":
        for kind in ("i2", "f4", "u1"):
            header = nibabel.AnalyzeHeader(endianness=order)
            header.set_data_dtype(kind)
            header.set_data_shape((12, 12, 12))
            header.set_zooms((14, 14, 14))
            seeds.append(header.binaryblock + head().astype(order + kind).tobytes())
    unsigned = bytearray(seeds[3])
    struct.pack_into(">h", unsigned, 70, 132)  # as OASIS-1 writes unsigned numbers
    return [*seeds, bytes(unsigned)]


def read_volume(suffix: str) -> Callable[[bytes], None]:
    def read(file: bytes) -> None:
        path = Path(SCRATCH.name) / f"theirs{suffix}"
        if suffix == ".hdr":
            path.with_suffix(".img").write_bytes(file[348:])
            file = file[:348]
        path.write_bytes(file)
        volume, affine = volumes.read_volume(path)
        assert volume.ndim == 3
        assert volume.dtype == np.float32
        assert affine.shape == (4, 4)

    return read


# Uploads


def check_scan(found: Any) -> None:
    """What the pages count on."""
    assert found.stack.dtype == np.float32
    assert found.stack.ndim == 3
    assert found.stack.shape[1] == found.stack.shape[2]
    assert len(found.levels) == len(found.stack)
    assert np.isfinite(found.stack).all()
    assert 0 <= found.stack.min() <= found.stack.max() <= 1
    assert 0 <= found.first < len(found.stack)
    for words in (*found.notes, *found.warnings):
        assert words.isprintable(), words
        assert HOSTILE not in words, words


def all_the_way(file: bytes) -> bool:
    """Cutting slices takes a hundred times as long as reading a header: one file in 32 is read to its slices."""
    return zlib.crc32(file) % 32 == 0


def read_uploaded_nifti(file: bytes) -> None:
    if all_the_way(file):
        check_scan(upload.read(file, "theirs"))
    else:
        volume = nifti.read(file)
        assert volume.voxels.ndim == 3
        assert volume.affine is not None
        assert volume.affine.shape == (4, 4)


def read_dicom(file: bytes) -> None:
    """As an upload is read, but in this process: the app starts one of its own for each, which costs half a second."""
    volume = dicom.read(file)
    assert volume.voxels.ndim == 3
    if volume.affine is not None and all_the_way(file):
        check_scan(scan.axial(volume.voxels, volume.affine, True, volume.notes))


def flat_niftis() -> list[bytes]:
    """Volumes of a few slices, so that most of the time goes to headers."""
    flat, seeds = head(20)[:, :, 8:12], []
    kinds: list[tuple[np.ndarray, list[float], Any]] = [
        (flat.astype(np.int16), [4, 4, 4, 1], nibabel.Nifti1Image),
        (flat.astype(">f4"), [-3, -3, 5, 1], nibabel.Nifti1Image),
        ((flat / 4).astype(np.uint8)[..., None], [3, 3, 3, 1], nibabel.Nifti2Image),
        (np.where(flat > 0, flat, np.nan).astype(np.float64), [4, 4, 4, 1], nibabel.Nifti1Image),
    ]
    for values, diagonal, kind in kinds:
        image = kind(values, np.diag(np.array(diagonal, float)))
        image.header["descrip"] = HOSTILE.encode()
        seeds.append(image.to_bytes())
    return [*seeds, with_shape(seeds[0], 1000, 1000, 1000), with_shape(seeds[0], -20, 0, 4)]


def dicom_file(pixels: np.ndarray, syntax: str | None = None, height: float = 0, **header: Any) -> bytes:
    places = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, height]}
    names = dict.fromkeys(("PatientName", "SeriesDescription", "StudyDescription"), HOSTILE)
    told = {**places, **names, "PixelSpacing": [3, 3], "SliceThickness": 3, **header}
    rows, columns = pixels.shape[-2:]
    dataset = dicom_slice(pixels.reshape(-1, columns), **{"Rows": rows, "Columns": columns} | told)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")  # the same every time
    if syntax is not None:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels.byteswap().tobytes()
    return as_bytes(dataset)


def dicoms() -> list[bytes]:
    grey = picture()
    wide = grey.astype(np.uint16) * 9
    return [
        dicom_file(grey),
        dicom_file(wide, RescaleSlope="2", RescaleIntercept="-3"),
        dicom_file(wide, ExplicitVRBigEndian),
        dicom_file(wide, ImplicitVRLittleEndian, PhotometricInterpretation="MONOCHROME1"),
        dicom_file(np.stack([wide] * 2), NumberOfFrames="2"),
        dicom_file(wide, Rows=31_623, Columns=31_623),
        dicom_file(wide, PixelSpacing=[0, -1]),
    ]


def zipped_series(data: bytes) -> bytes:
    """Fuzzed bytes as two files of a zip whose names lead out of it."""
    return zipped({"../../outside.dcm": data[: len(data) // 2], "/etc/outside": data[len(data) // 2 :]})


def zips() -> list[bytes]:
    wide = picture().astype(np.uint16) * 9
    series = zipped({f"{'../' * k}{HOSTILE}/{k}.dcm": dicom_file(wide, height=3 * k) for k in range(3)})
    return [series, zipped({"inside.zip": series}), zipped({"zeros.dcm": bytes(2_000_000)})]


# Weights, codes and links of the smallest model there is

SMALL = replace(
    PRESETS["smoke"],
    size=16,
    codebook_size=4,
    code_dim=2,
    channels=(4, 4),
    prior_channels=4,
    prior_layers=1,
    prior_heads=1,
)


@cache
def model() -> OasisVQ:
    torch.manual_seed(0)
    files = {f"{name}.safetensors": {"sha256": "0" * 64} for name in ("vqvae", "prior")}
    return OasisVQ(SMALL, VQVAE(SMALL), PixelCNN(SMALL), {"files": files, "notes": []}, "cpu")


@cache
def weights() -> Path:
    """A whole folder of it."""
    folder = Path(SCRATCH.name) / "weights"
    folder.mkdir()
    save_weights(model().vqvae, folder / "vqvae.safetensors")
    save_weights(model().prior, folder / "prior.safetensors")
    saw = {"name": "nobody", "description": "", "people": {"train": 0}, "slices": {"train": 0}, "fingerprint": "0" * 64}
    made = {"command": "none", "precision": "fp32", "versions": {"torch": "2"}, "threads": 1, "seed": 0}
    write_manifest(folder, SMALL, saw, made)
    return folder


@cache
def manifest() -> bytes:
    return (weights() / "manifest.json").read_bytes()


def read_manifest(file: bytes) -> None:
    manifest()  # before it is written over
    (weights() / "manifest.json").write_bytes(file)
    loaded = verification.load(weights())
    model_card(weights())
    sources.describe(sources.Resolved(weights(), loaded, "folder"))


def read_safetensors(file: bytes) -> None:
    """What comes after size and hash were found to be those of the manifest."""
    expected = model().prior.state_dict()
    for name, tensor in verification.read_tensors(Path("theirs"), file, expected).items():
        assert tensor.shape == expected[name].shape


def check_codes(found: Any) -> None:
    assert tuple(found.shape[1:]) == SMALL.shape
    assert 0 <= found.min() <= found.max() < SMALL.codebook_size


def some_codes() -> np.ndarray:
    return np.arange(3 * SMALL.codes).reshape(3, *SMALL.shape) % SMALL.codebook_size


def code_files() -> list[bytes]:
    objects, huge = io.BytesIO(), io.BytesIO()
    np.save(objects, np.full((1, *SMALL.shape), None, object), allow_pickle=True)
    np.lib.format.write_array_header_1_0(huge, {"descr": "<i8", "fortran_order": False, "shape": (1, 31_623, 31_623)})
    return [codes.write_codes(some_codes(), "0" * 64), *(npz(inside.getvalue()) for inside in (objects, huge))]


def npz(data: bytes) -> bytes:
    """Fuzzed bytes as the array inside."""
    return zipped({"indices.npy": data})


def read_codes(file: bytes) -> None:
    check_codes(codes.read_codes(file, "theirs", SMALL.shape, SMALL.codebook_size, "0" * 64))


@cache
def compressed_slices() -> list[bytes]:
    return compress(model(), torch.from_numpy(some_codes()), levels=[0, 1, 2])


def compressed(data: bytes) -> bytes:
    """Fuzzed bytes where the arithmetic decoder reads, behind a header that belongs to the weights."""
    return compressed_slices()[0][:10] + data


def read_compressed(file: bytes) -> None:
    check_codes(decompress(model(), {"theirs": file}))


def queries() -> list[bytes]:
    before, after = some_codes()[0], some_codes()[0][::-1]
    drawn = links.of_draw({"seed": 7, "draw": 2, "temperature": 0.9, "top_k": 2, "level": 3, "grade": 0.5})
    begun = {"example": "one", "rows": "2", "seed": "1", "draw": "0"}
    bomb = base64.urlsafe_b64encode(zlib.compress(bytes(100_000), 9)).decode()
    made = (
        links.address("http://here/", model(), origin, before, after) for origin in (drawn, begun, {"example": "one"})
    )
    texts = (
        *(link.partition("?")[2] for link in made),
        f"weights=0&example=one&cells={bomb}",
        "weights=0&prior=0&seed=nan&draw=inf",
        "weights=0&prior=0&seed=-1e9&draw=",
    )
    return [text.encode() for text in texts]


def read_link(file: bytes) -> None:
    parameters = dict(parse_qsl(file.decode("utf-8", errors="replace")))
    restored = links.restore(model(), parameters, {"one": some_codes()[0]}.get)
    check_codes(restored.indices[None])


READERS = {
    "png": Reader(read_picture, pngs, (bytes, mended_png, lambda data: png(data[:13], data[13:]))),
    "jpeg": Reader(read_picture, jpegs),
    "tiff": Reader(read_picture, tiffs),
    "nifti": Reader(read_volume(".nii"), niftis),
    "gzip": Reader(read_volume(".nii.gz"), lambda: [gzipped(seed) for seed in niftis()], (bytes, gzipped)),
    "analyze": Reader(read_volume(".hdr"), analyzes),
    "uploaded-nifti": Reader(read_uploaded_nifti, flat_niftis, (bytes, gzipped)),
    "dicom": Reader(read_dicom, dicoms),
    "zip": Reader(read_dicom, zips, (bytes, zipped_series)),
    "codes": Reader(read_codes, code_files, (bytes, npz)),
    "compressed": Reader(read_compressed, compressed_slices, (bytes, compressed)),
    "link": Reader(read_link, queries),
    "manifest": Reader(read_manifest, lambda: [manifest()]),
    "safetensors": Reader(read_safetensors, lambda: [(weights() / "prior.safetensors").read_bytes()]),
}
