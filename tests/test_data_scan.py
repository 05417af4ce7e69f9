"""Scans from strangers: every format and orientation gives the same slices, what is no brain scan gets one sentence."""

import gzip
import io
import struct
import time

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from scans import as_bytes, dicom_series, dicom_slice, head, nifti, turned, zipped

from oasisvq.data import dicom, upload
from oasisvq.data.examples import examples
from oasisvq.data.scan import skull_on
from oasisvq.errors import OasisVQError


@pytest.fixture(scope="module")
def brain():
    return head()


@pytest.fixture(scope="module")
def straight(brain):
    return upload.read(nifti(*turned(brain, "RAS")), "scan.nii")


def series(brain: np.ndarray, codes: str = "LPS", step: int = 10) -> list[Dataset]:
    """Every tenth slice: enough to tell, quick to write."""
    volume, affine = turned(np.ascontiguousarray(brain[:, :, ::step]), codes, (1, 1, step))
    return dicom_series(volume, affine)


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL", "AIL"])
def test_a_volume_stored_any_way_gives_the_same_slices(brain, straight, codes):
    data = gzip.compress(
        nifti(*turned(brain, codes), kind=nibabel.Nifti2Image if codes == "SAL" else nibabel.Nifti1Image), 1
    )
    scan = upload.read(data, "scan.nii.gz")
    np.testing.assert_array_equal(scan.stack, straight.stack)
    assert (scan.edges, scan.spacing, scan.levels) == (straight.edges, straight.spacing, straight.levels)


def test_slices_lie_as_they_did_and_know_their_level(brain, straight):
    """Against the voxels themselves, which have 1 mm: moved, never stretched."""
    assert straight.levels[straight.first] == 20
    assert straight.stack.shape[1:] == (256, 256)
    lowest = next(z for z in range(150) if (brain[:, :, z] > 0).sum() > 0.04 * (brain[:, :, 75] > 0).sum())
    for index in (30, 60):
        shown = straight.stack[index]
        voxels = brain[:, :, lowest + index].T[::-1]
        assert shown.sum() / voxels.sum() == pytest.approx(
            straight.stack[45].sum() / brain[:, :, lowest + 45].sum(), rel=0.02
        )


def test_letters_stand_where_the_header_puts_them(straight):
    """The made-up brain is brighter on its right side and in front."""
    picture = straight.stack[straight.first]
    left, right = picture[:, :110].sum(), picture[:, 146:].sum()
    front, back = picture[:110].sum(), picture[146:].sum()
    assert straight.edges == ("L", "R", "A", "P")
    assert right > left
    assert front > back


def test_without_orientation_there_are_no_letters(brain):
    scan = upload.read(nifti(*turned(brain, "RAS"), code=0), "scan.nii")
    assert scan.edges is None
    assert any("does not say how the volume lies" in note for note in scan.notes)


def test_voxels_of_any_size_keep_the_size_of_the_head(brain, straight):
    z = straight.first + 14
    fine = np.kron(brain[:, :, z : z + 16 : 4], np.ones((2, 2, 1), np.int16))
    scan = upload.read(nifti(*turned(fine, "RAS", (0.5, 0.5, 4))), "scan.nii")
    assert scan.spacing == (4, 1, 1)
    assert any("0.5 × 0.5 × 4 mm" in note for note in scan.notes)
    for mine, theirs in zip(
        scan.stack > 0.2, straight.stack[straight.first : straight.first + 16 : 4] > 0.2, strict=True
    ):
        assert abs(mine.sum() / theirs.sum() - 1) < 0.02


@pytest.mark.parametrize("codes", ["LPS", "PIR"])
def test_a_zipped_series_equals_the_volume(brain, codes):
    slices = series(brain, codes, 1 if codes == "PIR" else 10)[:: 3 if codes == "PIR" else 1]
    np.random.default_rng(0).shuffle(slices)
    names = {f"DICOM/IM{i}": as_bytes(one) for i, one in enumerate(slices)} | {"../../readme.txt": b"hello", "x/": b""}
    scan = upload.read(zipped(names), "series.zip")
    same = brain[::3] if codes == "PIR" else brain[:, :, ::10]
    voxel = (3, 1, 1) if codes == "PIR" else (1, 1, 10)
    expected = upload.read(nifti(*turned(np.ascontiguousarray(same), "RAS", voxel)), "scan.nii")
    assert scan.edges == ("L", "R", "A", "P")
    np.testing.assert_allclose(scan.stack, expected.stack, atol=0.25 if codes == "PIR" else 1e-6)
    assert np.abs(scan.stack - expected.stack).mean() < 0.005


def test_rows_and_columns_of_dicom_have_their_own_spacing(brain):
    """The first number is between rows, which lie one below the other (PS3.3, 10.7.1.3)."""
    wide = np.ascontiguousarray(brain[::2, :, ::10])  # X, Y, Z: half as many columns, 2 mm wide
    volume, affine = turned(wide, "LPS", (2, 1, 10))
    files = dicom_series(volume, affine)
    assert list(files[0].PixelSpacing) == [1, 2]
    found = dicom.read(zipped([as_bytes(one) for one in files]))
    np.testing.assert_allclose(np.linalg.norm(found.affine[:3, :3], axis=0), [2, 1, 10])
    expected = upload.read(nifti(*turned(wide, "RAS", (2, 1, 10))), "scan.nii")
    scan = upload.read(zipped([as_bytes(one) for one in files]), "series.zip")
    np.testing.assert_allclose(scan.stack, expected.stack, atol=1e-6)


def test_more_litres_than_a_brain_has_are_a_skull_even_where_a_slice_shows_none(brain):
    usual = upload.read(nifti(*turned(brain, "RAS")), "scan.nii")
    assert usual.warnings == ()
    large = upload.read(nifti(*turned(brain, "RAS", (1.25, 1.25, 1.25))), "scan.nii")  # 2.5 litres
    assert not skull_on(large.stack[large.first])
    assert ["skull" in warning for warning in large.warnings] == [True]
    assert set(large.levels) == {None}


def test_one_dicom_slice_is_placed_by_its_header(brain):
    one = upload.read(as_bytes(series(brain)[8]), "slice.dcm")
    mirrored = upload.read(as_bytes(series(brain, "RAS")[8]), "slice.dcm")
    assert one.stack.shape == (1, 256, 256)
    assert one.edges == ("L", "R", "A", "P")
    np.testing.assert_array_equal(one.stack, mirrored.stack)


def test_inverted_signed_and_rescaled_pictures_are_the_same_slice(brain):
    picture = np.ascontiguousarray(brain[:, :, 80].T)
    plain = dicom.read(as_bytes(dicom_slice(picture))).voxels
    inverted = dicom.read(as_bytes(dicom_slice(2000 - picture, PhotometricInterpretation="MONOCHROME1"))).voxels
    rescaled = dicom_slice((picture + 500).astype(np.uint16), RescaleSlope=2, RescaleIntercept=-1000)
    np.testing.assert_array_equal(plain[..., 0], picture.T)
    np.testing.assert_array_equal(inverted, plain)
    np.testing.assert_array_equal(dicom.read(as_bytes(rescaled)).voxels, 2 * plain)


def test_a_negative_picture_is_turned_back():
    content = io.BytesIO()
    example = (list(examples().values())[2] * 255).astype(np.uint8)
    Image.fromarray(255 - example).save(content, "png")
    scan = upload.read(content.getvalue(), "slice.png")
    shown = list(examples().values())[2]  # dimmer than pictures are when they are read
    brightness = float((scan.stack[0] * shown).sum() / (shown**2).sum())
    np.testing.assert_allclose(scan.stack[0], brightness * shown, atol=0.03)
    assert any("inverted" in note for note in scan.notes)
    assert scan.edges is None
    assert scan.spacing is None


def test_enhanced_multi_frame_is_a_volume(brain):
    slices = series(brain)
    whole = dicom_slice(np.concatenate([one.pixel_array for one in slices]), NumberOfFrames=len(slices))
    whole.Rows = slices[0].Rows

    def item(**values) -> Dataset:
        holder = Dataset()
        for key, value in values.items():
            setattr(holder, key, value)
        return holder

    whole.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=slices[0].ImageOrientationPatient)],
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=10)],
        )
    ]
    whole.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=one.ImagePositionPatient)]) for one in slices
    ]
    one, many = dicom.read(as_bytes(whole)), dicom.read(zipped([as_bytes(each) for each in slices]))
    np.testing.assert_array_equal(one.voxels, many.voxels)
    np.testing.assert_allclose(one.affine, many.affine)


def test_the_largest_series_of_a_zip_is_taken_and_said(brain):
    locator = series(brain, "PIR", 2)[:3]
    for one in locator:
        one.SeriesInstanceUID = "9.9"
    volume = dicom.read(zipped([as_bytes(one) for one in locator + series(brain)]))
    assert volume.voxels.shape[2] == 15
    assert any("3 pictures of another series" in note for note in volume.notes)


@pytest.mark.parametrize("name", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit"])
def test_compressed_and_other_transfer_syntaxes(name):
    with open(get_testdata_file(f"MR_small_{name}.dcm"), "rb") as file:
        packed = dicom.read_apart(file.read())
    with open(get_testdata_file("MR_small.dcm"), "rb") as file:
        np.testing.assert_array_equal(packed.voxels, dicom.read(file.read()).voxels)


def test_lossless_jpeg_as_archives_send_it(brain, tmp_path):
    gdcm = pytest.importorskip("gdcm")
    plain = dicom_slice(np.ascontiguousarray(brain[:, :, 80].T).astype(np.uint16))
    (tmp_path / "plain.dcm").write_bytes(as_bytes(plain))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(tmp_path / "plain.dcm"))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "packed.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    packed = (tmp_path / "packed.dcm").read_bytes()
    assert pydicom.dcmread(io.BytesIO(packed)).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    np.testing.assert_array_equal(dicom.read_apart(packed).voxels, dicom.read(as_bytes(plain)).voxels)


def bomb_zip() -> bytes:
    """A small zip whose only file says that it unpacks to 4 GB."""
    data = bytearray(zipped([b"x" * 200]))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
    return bytes(data)


def locked_zip() -> bytes:
    data = bytearray(zipped([b"x" * 200]))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    return bytes(data)


def of_series(change, codes: str = "LPS") -> bytes:
    small = np.tile(np.arange(64, dtype=np.int16), (64, 1))
    slices = dicom_series(*turned(np.stack([small] * 6, 2), codes))
    return zipped([as_bytes(one) for one in (change(slices) or slices)])


def each(**header):
    def change(slices: list[Dataset]) -> None:
        for one in slices:
            for key, value in header.items():
                setattr(one, key, value)

    return change


SMALL = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
COLOURED = np.stack([SMALL, SMALL.T, SMALL], -1)
DEFLATED = as_bytes(dicom_slice(SMALL)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0"[:20], 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (of_series(lambda s: [s[0], *s[2:]]), "missing"),
        (of_series(lambda s: [*s, s[2]]), "same place"),
        (of_series(each(Modality="CT")), "not an MR"),
        (of_series(each(ImagePositionPatient=None)), "no place in space"),
        (of_series(each(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])), "right angles"),
        (of_series(each(Rows=60_000, Columns=60_000)), "pixels"),
        (of_series(each(PixelData=b"\0\0")), "not a readable DICOM"),
        (as_bytes(dicom_slice(SMALL, PhotometricInterpretation="PALETTE COLOR")), "colour"),
        (
            as_bytes(dicom_slice(COLOURED, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)),
            "colour",
        ),
        (as_bytes(dicom_slice(np.concatenate([SMALL] * 4), NumberOfFrames=4, Rows=64)), "4 frames without a place"),
        (as_bytes(dicom_slice(SMALL, NumberOfFrames=10**8)), "too many"),
        (zipped([b"no picture" * 30]), "no DICOM picture"),
        (zipped([b""] * 2001), "2001 files"),
        (locked_zip(), "password"),
        (bomb_zip(), "unpacks to over"),
        (zipped([as_bytes(dicom_slice(SMALL))])[:-30], "not a readable DICOM"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 500, "no DICOM picture"),
    ],
)
def test_dicom_refused_in_one_sentence(data, said):
    started = time.perf_counter()
    with pytest.raises(OasisVQError) as caught:
        dicom.read(data)
    assert time.perf_counter() - started < 2
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def header(**fields) -> bytes:
    """A small volume whose header says something else."""
    image = nibabel.Nifti1Image(np.arange(64**3, dtype=np.int16).reshape(64, 64, 64), np.eye(4))
    for key, value in ({"vox_offset": 352} | fields).items():
        image.header[key] = value
    return image.header.binaryblock + bytes(4) + image.get_fdata().astype(np.int16).tobytes("F")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (nifti(np.zeros((40, 40, 40, 3), np.int16), np.eye(4)), "three dimensions"),
        (nifti(np.zeros((40, 40, 40), np.complex64), np.eye(4)), "complex"),
        (nifti(np.zeros((40, 40, 40), np.int16), np.eye(4)), "equally bright"),
        (nifti(np.random.default_rng(0).integers(0, 4, (40, 40, 40), dtype=np.int16), np.eye(4)), "label map"),
        (nifti(np.ones((8, 40, 40), np.int16), np.diag([5.0, 1, 1, 1])), "sagittal slices 5.0 mm"),
        (nifti(np.ones((1, 64, 64), np.int16), np.eye(4)), "a sagittal slice"),
        (nifti(np.ones((64, 1, 64), np.int16), np.eye(4)), "a coronal slice"),
        (header(dim=[3, 30_000, 30_000, 30_000, 1, 1, 1, 1]), "too many"),
        (header(dim=[3, -5, 64, 64, 1, 1, 1, 1]), "three dimensions"),
        (header(magic=b"ni1"), "two files"),
        (header(vox_offset=1e9), "begin nowhere"),
        (header(sform_code=1, srow_x=[np.nan] * 4, srow_y=[0, 1, 0, 0], srow_z=[0, 0, 1, 0]), "no voxel size"),
        (header(sform_code=1, srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0], srow_z=[0, 0, 1, 0]), "fall together"),
        (nifti(np.ones((64, 64, 64), np.int16), np.eye(4))[:-1], "ends early"),
        (gzip.compress(b"\0" * 50_000_000), "not a NIfTI"),
        (gzip.compress(header(dim=[3, 400, 400, 400, 1, 1, 1, 1])), "ends early"),
        (struct.pack("<i", 348) + b"\xff" * 400, "NIfTI|files"),
    ],
)
def test_nifti_refused_in_one_sentence(data, said):
    started = time.perf_counter()
    with pytest.raises(OasisVQError, match=said) as caught:
        upload.read(data, "theirs.nii")
    assert time.perf_counter() - started < 2
    assert str(caught.value).startswith("theirs.nii: ")
    assert "\n" not in str(caught.value)


def test_a_decoder_that_dies_takes_nothing_along(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(OasisVQError, match=r"slice\.dcm: not a readable DICOM"):
        upload.read(as_bytes(dicom_slice(SMALL)), "slice.dcm")


def test_headers_reach_no_log(capfd, brain):
    one = series(brain)[8]
    one.add_new((0x0010, 0x0030), "DA", "not a date of Doe")
    upload.read(as_bytes(one), "slice.dcm")
    dicom.read(as_bytes(one))
    assert "".join(capfd.readouterr()) == ""


def test_a_skull_and_a_crop_are_noticed_and_a_brain_is_not(straight):
    skull = upload.read(nifti(*turned(head(skull=True), "RAS")), "scan.nii")
    assert any("skull" in warning for warning in skull.warnings)
    assert set(skull.levels) == {None}
    assert skull_on(skull.stack[skull.first])
    assert straight.warnings == ()
    content = io.BytesIO()
    Image.fromarray((straight.stack[straight.first, 90:160, 90:160] * 255).astype(np.uint8)).save(content, "png")
    assert any("up to its edge" in warning for warning in upload.read(content.getvalue(), "crop.png").warnings)
    assert not any(skull_on(picture) for picture in examples().values())
