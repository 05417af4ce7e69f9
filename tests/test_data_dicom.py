"""DICOM from bytes: where the limits lie, and what the words of a header make of the pixels."""

import io
import json
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom.dataset import Dataset
from scans import as_bytes, dicom_slice, zipped

from oasisvq.data import dicom
from oasisvq.errors import OasisVQError

PICTURE = np.arange(32 * 40, dtype=np.int16).reshape(32, 40)
PLACE = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [2, 3], "SliceThickness": 7}


def placed(*heights: float, **header: object) -> list[Dataset]:
    """A slice at each height, its picture brighter by one from slice to slice."""
    return [
        dicom_slice(PICTURE + i, **(PLACE | {"ImagePositionPatient": [10, 20, height]} | header))
        for i, height in enumerate(heights)
    ]


def read(datasets: list[Dataset]) -> dicom.Volume:
    return dicom.read(zipped([as_bytes(one) for one in datasets]))


def test_a_volume_lies_where_its_header_says():
    found = read(placed(5, 9, 1))
    np.testing.assert_array_equal(found.voxels, np.stack([PICTURE.T + 2, PICTURE.T, PICTURE.T + 1], 2))
    np.testing.assert_allclose(found.affine, [[-3, 0, 0, -10], [0, -2, 0, -20], [0, 0, 4, 1], [0, 0, 0, 1]])
    assert found.oriented
    assert found.notes == []


@pytest.mark.parametrize(("header", "thickness"), [({}, 7), ({"SliceThickness": None}, 1), ({"SliceThickness": 0}, 1)])
def test_one_slice_is_as_thick_as_it_says(header, thickness):
    found = dicom.read(as_bytes(placed(5, **header)[0]))
    np.testing.assert_allclose(found.affine[:, 2], [0, 0, thickness, 0])
    np.testing.assert_allclose(found.affine[:, 3], [-10, -20, 5, 1])


NOWHERE = [
    {"ImageOrientationPatient": None},
    {"PixelSpacing": None},
    {"PixelSpacing": [0, 1]},
    {"ImagePositionPatient": None},
]


@pytest.mark.parametrize("header", NOWHERE, ids=str)
def test_without_a_place_one_slice_is_a_picture_and_several_are_refused(header):
    found = dicom.read(as_bytes(placed(5, **header)[0]))
    np.testing.assert_array_equal(found.voxels[..., 0], PICTURE.T)
    assert found.affine is None
    assert not found.oriented
    with pytest.raises(OasisVQError, match="no place in space"):
        read(placed(5, 9, **header))


@pytest.mark.parametrize("heights", [(0, 1, 2, 3.4), (0, 0.02, 0.04), (0, 5)])
def test_slices_may_lie_a_little_apart(heights):
    assert read(placed(*heights)).voxels.shape[2] == len(heights)


@pytest.mark.parametrize(
    ("heights", "said"), [((0, 1, 2, 3.6), "missing"), ((0, 0.005, 1), "same place"), ((0, 0), "same place")]
)
def test_slices_that_lack_or_share_a_place_are_refused(heights, said):
    with pytest.raises(OasisVQError, match=said):
        read(placed(*heights))


def test_slices_of_one_series_agree_up_to_rounding():
    slices = placed(0, 1, 2)
    slices[1].PixelSpacing = [2.00001, 3]
    slices[2].ImageOrientationPatient = [1, 0.0001, 0, 0, 1, 0]
    assert read(slices).voxels.shape[2] == 3


@pytest.mark.parametrize("header", [{"PixelSpacing": [2.01, 3]}, {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0.005]}])
def test_slices_that_differ_are_of_another_series(header):
    found = read([*placed(0, 1, 2), *placed(3, 4, **header)])
    assert found.voxels.shape[2] == 3
    [note] = found.notes
    assert note.startswith("2 pictures")
    assert "3 slices" in note


def test_rows_and_columns_may_miss_the_right_angle_by_rounding_alone():
    assert read(placed(0, 1, ImageOrientationPatient=[1, 0, 0, 0.005, 1, 0])).oriented
    with pytest.raises(OasisVQError, match="right angles"):
        read(placed(0, 1, ImageOrientationPatient=[1, 0, 0, 0.02, 1, 0]))


@pytest.mark.parametrize(("rows", "columns"), [(32, 1024), (1024, 32)])
def test_the_sides_of_a_slice_have_limits(rows, columns):
    assert dicom.read(as_bytes(dicom_slice(np.zeros((rows, columns), np.uint8)))).voxels.shape == (columns, rows, 1)
    beyond = (31, 64), (64, 31), (1025, 64), (64, 1025)
    for shape in beyond:
        with pytest.raises(OasisVQError, match="pixels: a slice has 32 to 1024"):
            dicom.read(as_bytes(dicom_slice(np.zeros(shape, np.uint8))))


def test_the_largest_volume_is_read_and_one_voxel_more_refused(monkeypatch):
    monkeypatch.setattr(dicom, "MAX_VOXELS", 2 * PICTURE.size)
    assert read(placed(0, 1)).voxels.size == 2 * PICTURE.size
    with pytest.raises(OasisVQError, match="3 slices of 40x32 pixels are too many"):
        read(placed(0, 1, 2))
    monkeypatch.setattr(dicom, "MAX_VOXELS", PICTURE.size - 1)
    with pytest.raises(OasisVQError, match="1 frames of 40x32 pixels are too many"):
        read(placed(0))


def test_a_zip_holds_at_most_so_many_files_and_bytes(monkeypatch):
    files = [as_bytes(one) for one in placed(0, 1)]
    monkeypatch.setattr(dicom, "MAX_FILES", 2)
    monkeypatch.setattr(dicom, "MAX_UNPACKED", sum(map(len, files)))
    assert dicom.read(zipped(files)).voxels.shape[2] == 2
    monkeypatch.setattr(dicom, "MAX_UNPACKED", sum(map(len, files)) - 1)
    with pytest.raises(OasisVQError, match="unpacks to over 0 MB:"):
        dicom.read(zipped(files))
    with pytest.raises(OasisVQError, match="3 files in the zip"):
        dicom.read(zipped([b"", b"", b""]))


def test_the_files_of_a_folder_are_read_as_a_series(tmp_path, monkeypatch):
    (tmp_path / "in" / "it").mkdir(parents=True)
    files = [as_bytes(one) for one in placed(0, 1)]
    for path, content in zip((tmp_path / "one", tmp_path / "in" / "it" / "two"), files, strict=True):
        path.write_bytes(content)
    monkeypatch.setattr(dicom, "MAX_FILES", 2)
    monkeypatch.setattr(dicom, "MAX_UNPACKED", sum(map(len, files)))
    content = dicom.packed(tmp_path)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert sorted(archive.read(name) for name in archive.namelist()) == sorted(files)
    assert dicom.read(content).voxels.shape[2] == 2
    monkeypatch.setattr(dicom, "MAX_UNPACKED", sum(map(len, files)) - 1)
    with pytest.raises(OasisVQError, match="2 files, 0 MB"):
        dicom.packed(tmp_path)
    monkeypatch.setattr(dicom, "MAX_UNPACKED", 400_000_000)
    (tmp_path / "three").write_bytes(b"")
    with pytest.raises(OasisVQError, match=r"3 files.*at most 2 and 400 MB"):
        dicom.packed(tmp_path)


@pytest.mark.parametrize("modality", ["MR", "OT", "SC", "", None])
def test_what_may_hold_an_mr_picture_is_read(modality):
    assert dicom.read(as_bytes(placed(0, Modality=modality)[0])).voxels.shape == (40, 32, 1)


@pytest.mark.parametrize("modality", ["CT", "PT", "M"])
def test_other_scans_are_refused(modality):
    with pytest.raises(OasisVQError, match="not an MR scan"):
        dicom.read(as_bytes(placed(0, Modality=modality)[0]))


def test_values_are_scaled_with_or_without_an_intercept():
    plain, scaled = (dicom.read(as_bytes(placed(0, **header)[0])).voxels for header in ({}, {"RescaleSlope": 3}))
    np.testing.assert_array_equal(scaled, 3 * plain)
    both = dicom.read(as_bytes(placed(0, RescaleSlope=3, RescaleIntercept=5)[0])).voxels
    np.testing.assert_array_equal(both, 3 * plain + 5)


@pytest.mark.parametrize(("apart", "taken"), [(0, True), (2, True), (3, False)])
def test_a_grey_picture_in_three_channels_is_read(apart, taken):
    grey = np.tile(np.arange(3, 67, dtype=np.uint8), (64, 1))
    channels = np.stack([grey - 1, grey, grey + apart - 1], -1) if apart else np.stack([grey] * 3, -1)
    file = as_bytes(dicom_slice(channels, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0))
    if taken:
        np.testing.assert_array_equal(dicom.read(file).voxels[..., 0], grey.T)
    else:
        with pytest.raises(OasisVQError, match="colour"):
            dicom.read(file)


def test_a_deflated_file_is_named():
    file = as_bytes(placed(0)[0])
    deflated = file[:400] + b"1.2.840.10008.1.2.1.99" + file[400:]
    with pytest.raises(OasisVQError, match="deflated"):
        dicom.read(deflated)


@pytest.mark.parametrize(
    ("value", "length", "wanted"),
    [
        ([1, 2], 2, [1, 2]),
        (3, 1, [3]),
        ([1, 2], 3, None),
        ([1, np.nan], 2, None),
        ([np.inf, 1], 2, None),
        ("", 1, None),
        (None, 1, None),
    ],
)
def test_numbers_of_a_header_are_as_many_as_asked_and_finite(value, length, wanted):
    found = dicom._numbers(value, length)
    assert (found is None) if wanted is None else found.tolist() == wanted


def in_a_process_of_its_own(data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, list[tuple[int, object]]]:
    """What the reader's process writes, run here; and the limits that it sets itself."""
    import resource

    out, limits = io.BytesIO(), []
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out))
    dicom._main()
    monkeypatch.undo()
    return out.getvalue(), limits


def test_the_process_that_reads_has_bounded_time_and_memory_and_leaves_no_core(monkeypatch):
    import resource

    _, limits = in_a_process_of_its_own(as_bytes(placed(0)[0]), monkeypatch)
    assert limits == [
        (resource.RLIMIT_CPU, (20, 20)),
        (resource.RLIMIT_AS, (4_000_000_000, 4_000_000_000)),
        (resource.RLIMIT_CORE, (0, 0)),
    ]


@pytest.mark.parametrize("header", [{}, {"ImagePositionPatient": None}], ids=["placed", "not placed"])
def test_what_the_process_writes_is_the_volume(header, monkeypatch):
    file = as_bytes(placed(5, **header)[0])
    written, _ = in_a_process_of_its_own(file, monkeypatch)
    asked = {}

    def run(command: list[str], **options: object) -> SimpleNamespace:
        asked.update(options, command=command)
        return SimpleNamespace(returncode=0, stdout=written)

    monkeypatch.setattr(subprocess, "run", run)
    apart, here = dicom.read_apart(file), dicom.read(file)
    np.testing.assert_array_equal(apart.voxels, here.voxels)
    assert apart.oriented == here.oriented
    assert (apart.affine is None) == (here.affine is None)
    if here.affine is not None:
        np.testing.assert_array_equal(apart.affine, here.affine)
    assert asked["input"] == file
    assert asked["timeout"] == 60
    assert asked["stderr"] == subprocess.DEVNULL


def test_a_refusal_comes_back_from_the_process(monkeypatch):
    written, _ = in_a_process_of_its_own(as_bytes(placed(0, Modality="CT")[0]), monkeypatch)
    assert "not an MR scan" in json.loads(written)["refused"]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=written))
    with pytest.raises(OasisVQError, match="not an MR scan"):
        dicom.read_apart(b"")


def test_a_process_that_takes_too_long_is_given_up(monkeypatch):
    def run(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("dicom", 60)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(OasisVQError, match="takes too long"):
        dicom.read_apart(b"")
