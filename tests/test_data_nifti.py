"""NIfTI from bytes: which headers are taken, and what they make of the voxels."""

import gzip
import tracemalloc

import nibabel
import numpy as np
import pytest
from scans import nifti

from oasisvq.data import nifti as reader
from oasisvq.errors import OasisVQError

VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def with_header(voxels: np.ndarray = VOXELS, kind: type = nibabel.Nifti1Image, **fields: object) -> bytes:
    """A file whose header says what is asked for, whatever its voxels are."""
    header = kind(voxels, np.eye(4)).header
    header["magic"] = {nibabel.Nifti1Image: b"n+1"}.get(kind, b"n+2\0\r\n\x1a\n")
    header["vox_offset"] = 352 if kind is nibabel.Nifti1Image else 544
    for key, value in fields.items():
        header[key] = value
    binary = header.binaryblock
    return binary + bytes(int(header["vox_offset"]) - len(binary)) + voxels.tobytes("F")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "packed"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_voxels_come_back_where_they_lay(pack, kind, order):
    affine = np.array([[0, 2, 0, -3], [1, 0, 0, 5], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    image = kind(VOXELS, affine, kind.header_class(endianness=order))
    file = pack(image.to_bytes())
    assert reader.is_nifti(file)
    found = reader.read(file)
    assert found.voxels.dtype == np.float32
    np.testing.assert_array_equal(found.voxels, VOXELS)
    np.testing.assert_array_equal(found.affine, affine)


def test_several_gzip_members_are_one_file():
    """As bgzip writes them, and as joining packed files gives."""
    plain = nibabel.Nifti1Image(VOXELS, np.eye(4)).to_bytes()
    parts = [gzip.compress(plain[start : start + 100]) for start in range(0, len(plain), 100)]
    np.testing.assert_array_equal(reader.read(b"".join(parts)).voxels, VOXELS)
    with pytest.raises(OasisVQError, match="ends early"):
        reader.read(b"".join(parts[:-1]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.float32, np.float64])
def test_every_plain_type_of_number_is_read(dtype):
    found = reader.read(nibabel.Nifti1Image(VOXELS.astype(dtype), np.eye(4), dtype=dtype).to_bytes())
    np.testing.assert_array_equal(found.voxels, VOXELS.astype(dtype))


def test_numbers_of_two_parts_are_refused():
    with pytest.raises(OasisVQError, match="one brightness"):
        reader.read(nibabel.Nifti1Image(VOXELS.astype(np.complex64), np.eye(4)).to_bytes())


def test_values_are_scaled_as_the_header_says():
    np.testing.assert_array_equal(reader.read(with_header(scl_slope=2, scl_inter=-100)).voxels, 2 * VOXELS - 100.0)


@pytest.mark.parametrize("shape", [(4, 5, 1), (4, 5, 6, 1), (4, 5, 6, 1, 1)])
def test_dimensions_of_one_are_dropped_behind_the_third_alone(shape):
    found = reader.read(nifti(np.zeros(shape, np.int16), np.eye(4)))
    assert found.voxels.shape == shape[:3]


@pytest.mark.parametrize("dim", [[2, 24, 5, 1, 1, 1, 1, 1], [4, 2, 2, 5, 6, 1, 1, 1], [3, 4, 0, 6, 1, 1, 1, 1]])
def test_other_than_three_dimensions_are_refused(dim):
    with pytest.raises(OasisVQError, match="three dimensions"):
        reader.read(with_header(dim=dim))


def test_the_largest_volume_is_read_and_one_voxel_more_refused(monkeypatch):
    monkeypatch.setattr(reader, "MAX_VOXELS", VOXELS.size)
    assert reader.read(with_header()).voxels.size == VOXELS.size
    monkeypatch.setattr(reader, "MAX_VOXELS", VOXELS.size - 1)
    with pytest.raises(OasisVQError, match="too many"):
        reader.read(with_header())


def test_what_follows_the_voxels_is_not_unpacked():
    bomb = gzip.compress(with_header(np.zeros((64, 64, 64), np.int16)) + bytes(50_000_000), 1)
    tracemalloc.start()
    assert reader.read(bomb).voxels.shape == (64, 64, 64)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10_000_000


def test_voxels_begin_where_the_header_says_and_not_too_far_in(monkeypatch):
    monkeypatch.setattr(reader, "_MAX_OFFSET", 368)
    np.testing.assert_array_equal(reader.read(with_header(vox_offset=368)).voxels, VOXELS)
    with pytest.raises(OasisVQError, match="begin nowhere"):
        reader.read(with_header(vox_offset=384))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_file_cut_anywhere_is_refused(kind):
    whole = with_header(kind=kind)
    for end in (3, 100, len(whole) - 241, len(whole) - 240, len(whole) - 1):
        with pytest.raises(OasisVQError):
            reader.read(whole[:end])


@pytest.mark.parametrize(("qform", "sform"), [(0, 0), (1, 0), (0, 1), (2, 4)])
def test_either_form_of_the_header_says_how_a_volume_lies(qform, sform):
    assert reader.read(with_header(qform_code=qform, sform_code=sform)).oriented == bool(qform or sform)


@pytest.mark.parametrize("start", [b"", b"\x1f", b"\x8b\x1f", b"PK\3\4", (349).to_bytes(4, "little")])
def test_other_files_are_not_taken_for_nifti(start):
    assert not reader.is_nifti(start + bytes(600))
