"""What strangers send: every reader takes it or refuses it in one printable line, soon, in little memory.

Readers and the small files that they read are shared with the fuzzer, `benchmarks/system/fuzz.py`, whose long runs go
deeper.
"""

import contextlib
import gzip
import io
import json
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from readers import PNG, READERS, check_scan, chunk

from oasisvq.app.choose import harmless
from oasisvq.data import upload
from oasisvq.errors import OasisVQError

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """A reader that believes a header's 10^9 pixels meets this limit, not the machine's."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 1_500_000_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("name", READERS)
def test_each_reader_takes_its_own_files(name):
    reader = READERS[name]
    for seed in reader.seeds():
        assert reader.wrong(seed) is None
    assert any(
        map(reader.accepts, reader.seeds())
    )  # else the other tests would never get beyond the first line of the reader


@pytest.mark.parametrize("name", READERS)
def test_files_cut_short_anywhere(name):
    """At every byte of the smallest file that is taken, or at 600 of them, the headers' all among them."""
    reader = READERS[name]
    whole = min((seed for seed in reader.seeds() if reader.accepts(seed)), key=len)
    ends = sorted({*range(min(len(whole), 400)), *range(0, len(whole), max(1, len(whole) // 200))})
    for end in ends:
        assert reader.wrong(whole[:end]) is None, end


NUMBERS = (0, 1, -1, 2**15 - 1, 2**31 - 1, -(2**31), float("nan"), float("inf"), -1e38)


@st.composite
def spoilt(draw: st.DrawFn, name: str) -> bytes:
    """A file of the reader with bytes changed, numbers put in that hurt, pieces cut out or doubled, then dressed."""
    reader = READERS[name]
    data = bytearray(draw(st.sampled_from(reader.seeds())))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)) | st.integers(0, min(len(data), 400)))
        match draw(st.sampled_from(("byte", "number", "cut", "double"))):
            case "byte":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "number":
                number, order = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from("<>"))
                size = "f" if isinstance(number, float) else draw(st.sampled_from("iq"))
                data[at : at + struct.calcsize(size)] = struct.pack(order + size, number)
            case "cut":
                del data[at : at + draw(st.integers(1, 64))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
    return draw(st.sampled_from(reader.dressings))(bytes(data))


@pytest.mark.parametrize("name", READERS)
def test_spoilt_files_are_taken_or_refused(name):
    @QUICK
    @given(spoilt(name))
    def check(file: bytes) -> None:
        assert READERS[name].wrong(file) is None

    check()


@QUICK
@given(st.binary(max_size=200))
@example(b"")
@example(b"\x1f\x8b")
@example(b"PK\x03\x04")
@example(bytes(128) + b"DICM")
@example(b"II*\0\x08\0\0\0\xff\xff")
def test_bytes_that_mean_nothing(file):
    for reader in READERS.values():
        assert reader.wrong(file) is None


# Bombs: small files that claim, or unpack to, far more than a server has.


def gzip_of_zeros() -> bytes:
    header = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_bytes()[:352])
    struct.pack_into("<4h", header, 40, 3, 2000, 2000, 2000)
    return gzip.compress(bytes(header) + bytes(200_000_000), 9)


def many_thin_slices() -> bytes:
    """70,000 slices of 32 x 32 voxels are no more voxels than others have, and 18 GB as pictures."""
    header = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([3, 3, 0.1, 1])).to_bytes()[:352])
    struct.pack_into("<4h", header, 40, 3, 32, 32, 32_000)
    plane = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 4
    return gzip.compress(bytes(header) + plane.tobytes() * 32_000, 1)


def zip_of_zeros() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.dcm", bytes(450_000_000))
    return buffer.getvalue()


def zip_that_lies() -> bytes:
    """It says that a member unpacks to one byte."""
    data = bytearray(zip_of_zeros())
    directory = data.rindex(b"PK\1\2")
    struct.pack_into("<I", data, directory + 24, 1)
    return bytes(data)


def zip_of_many() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(2001):
            archive.writestr(f"{i}", b"")
    return buffer.getvalue()


def png(width: int, height: int, content: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def test_an_unsigned_analyze_header_that_promises_gigabytes_costs_none():
    """Found by the fuzzer: unsigned numbers were read before their size was judged."""
    header = nibabel.AnalyzeHeader(endianness="<")
    header.set_data_shape((700, 700, 700))
    block = bytearray(header.binaryblock)
    block[70:72] = (132).to_bytes(2, "little")  # SPM's code for uint16
    reader = READERS["analyze"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reader.wrong(bytes(block) + bytes(100)) is None
    assert not reader.accepts(bytes(block) + bytes(100))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


BOMBS = {
    "picture of 10^9 pixels": lambda: png(31_623, 31_623, zlib.compress(bytes(1000))),
    "picture that unpacks to more than it says": lambda: png(64, 64, zlib.compress(bytes(100_000_000))),
    "text that unpacks to 100 MB": lambda: (
        png(64, 64, zlib.compress(bytes(5000)))[:-12]
        + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
        + chunk(b"IEND", b"")
    ),
    "gzip of zeros": gzip_of_zeros,
    "many thin slices": many_thin_slices,
    "zip of zeros": zip_of_zeros,
    "zip that lies": zip_that_lies,
    "zip of many": zip_of_many,
}


OPEN_BOMBS = """
import json, os, resource, sys
from pathlib import Path
import oasisvq.data.upload as upload
from oasisvq.errors import OasisVQError

def peak(who): return resource.getrusage(who).ru_maxrss / 1e3

told = {}
for path in map(Path, sys.argv[1:]):
    data, held, began = path.read_bytes(), peak(resource.RUSAGE_SELF), os.times()
    try:
        upload.read(data, "theirs")
        said = "taken"
    except OasisVQError as error:
        said = str(error)
    ended = os.times()
    used = sum(ended[:2]) - sum(began[:2]), sum(ended[2:4]) - sum(began[2:4])
    told[path.name] = [said, peak(resource.RUSAGE_SELF) - held, peak(resource.RUSAGE_CHILDREN), *used]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """What came of each bomb in a process of its own: words, MB more, MB of what it started, seconds of both."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, make in BOMBS.items():
        (folder / name).write_bytes(make())
    words = [sys.executable, "-c", OPEN_BOMBS, *(str(folder / name) for name in BOMBS)]
    done = subprocess.run(words, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_do_not_go_off(name, opened):
    said, grew, apart, seconds, seconds_apart = opened[name]
    assert said == "taken" or said.startswith("theirs: ")
    assert grew < 1000
    assert apart < 1500
    assert seconds < 2
    assert seconds_apart < 6  # a process of its own takes two to start


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uploaded-nifti", "dicom", "zip"])
def test_words_of_a_header_reach_no_page(kind):
    for file in READERS[kind].seeds():
        try:
            scan = upload.read(file, "theirs")
        except OasisVQError as error:
            said = str(error)
        else:
            check_scan(scan)
            said = " ".join((*scan.notes, *scan.warnings, *(scan.edges or ())))
        assert "<" not in said
        assert said.isprintable()


def test_a_zip_leaves_nothing_on_the_disk(tmp_path, monkeypatch):
    (tmp_path / "deep" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "here")
    for file in READERS["zip"].seeds():
        with contextlib.suppress(OasisVQError):
            upload.read(file, "theirs.zip")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "here"]


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>.png", "![x](http://elsewhere/x.png)", "a\n\x1b[31m`b`.nii"]
)
def test_a_file_name_loses_its_markup(name):
    assert not set(harmless(name)) & set("<>[]()!`\n\x1b:/")


@pytest.mark.parametrize(
    "manifest",
    [
        b"[" * 100_000,
        b'{"format": 1, "preset": ' + b'{"a":' * 50_000,
        b'{"format": "' + b"x" * 100_000 + b'"}',
        b'{"format": 1e999}',
        b"\xff\xfe{}",
        b"null",
    ],
    ids=["nested lists", "nested objects", "long", "infinite", "utf-16", "null"],
)
def test_manifests_that_are_meant_to_hurt(manifest):
    assert READERS["manifest"].wrong(manifest) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("blocks", [10**6, 10**6]),
        ("channels", [64] * 2000),
        ("prior_layers", 10**9),
        ("size", 10**9),
        ("size", -80),
        ("size", 0),
        ("codebook_size", 0),
        ("weight_decay", float("nan")),
        ("grades", "0123"),
        ("levels", True),
        ("name", "x" * 1000),
    ],
)
def test_presets_that_are_meant_to_hurt(field, value):
    manifest = json.loads(READERS["manifest"].seeds()[0])
    manifest["preset"][field] = value
    file = json.dumps(manifest).encode()
    assert READERS["manifest"].wrong(file) is None
    assert not READERS["manifest"].accepts(file)


@pytest.mark.parametrize("method", [1, 9, 12, 14, 99])
def test_codes_in_a_zip_of_another_kind(method):
    """Found by the fuzzer: bzip2 and LZMA raise errors of their own on what they did not pack."""
    whole = bytearray(READERS["codes"].seeds()[0])
    struct.pack_into("<H", whole, whole.index(b"PK\1\2") + 10, method)
    assert READERS["codes"].wrong(bytes(whole)) is None


@pytest.mark.parametrize("code", [1792, 2048, 128], ids=["complex", "long complex", "colour"])
def test_volumes_of_other_numbers(code):
    whole = bytearray(READERS["nifti"].seeds()[0])
    struct.pack_into("<hh", whole, 70, code, {1792: 128, 2048: 256, 128: 24}[code])
    assert READERS["nifti"].wrong(bytes(whole)) is None
    assert not READERS["nifti"].accepts(bytes(whole))
