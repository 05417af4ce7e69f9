"""Made-up scans in the formats of the real ones: a head of ellipsoids in any orientation, NIfTI and DICOM as bytes."""

import io
import zipfile

import nibabel
import numpy as np
import pydicom
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SHAPE = (150, 180, 150)  # 1 mm voxels, right, front, up


def head(skull: bool = False) -> np.ndarray:
    """A stripped brain of 1.3 litres with two ventricles, brighter on its right and in front; RAS+, int16."""
    x, y, z = np.mgrid[tuple(slice(0, n) for n in SHAPE)].astype(np.float32)
    x, y, z = x - 75, y - 90, z - 75

    def ball(a: float, b: float, c: float, at: float = 0.0) -> np.ndarray:
        return ((x - at) / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1

    brain = ball(62, 80, 62)
    grain = np.random.default_rng(0).normal(0, 12, SHAPE)
    values = np.where(brain, 500 + x * 1.5 + y * 0.7 + grain, 0)
    values[ball(9, 25, 15, 14) | ball(9, 25, 15, -14)] = 120
    if skull:
        values[ball(74, 89, 74) & ~ball(68, 86, 68)] = 900
    return values.astype(np.int16)


def turned(
    volume: np.ndarray, codes: str, voxel: tuple[float, float, float] = (1, 1, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """The same brain stored with other axes: (array, affine), e.g. codes "LPS"."""
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = -np.array(volume.shape) * voxel / 2
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    return nibabel.apply_orientation(volume, change), affine @ inv_ornt_aff(change, volume.shape)


def nifti(volume: np.ndarray, affine: np.ndarray | None, kind: type = nibabel.Nifti1Image, code: int = 1) -> bytes:
    image = kind(volume, affine)
    image.header.set_xyzt_units("mm")
    if affine is not None:
        image.set_sform(affine, code)
        image.set_qform(affine, code)
    return image.to_bytes()


def dicom_slice(picture: np.ndarray, **header) -> pydicom.Dataset:
    """One file of a series, uncompressed: picture (rows, columns)."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "12345"
    dataset.Modality, dataset.SeriesInstanceUID = "MR", "1.2.3"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = picture.shape[:2]
    dataset.BitsAllocated = 8 * picture.itemsize
    dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
    dataset.PixelRepresentation = int(picture.dtype.kind == "i")
    dataset.PixelData = picture.tobytes()
    for key, value in header.items():
        setattr(dataset, key, value)
    return dataset


def dicom_series(volume: np.ndarray, affine: np.ndarray) -> list[pydicom.Dataset]:
    """Slices along the third axis of a volume (X, Y, Z) whose affine leads to RAS+."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    size = np.linalg.norm(lps[:3, :3], axis=0)
    return [
        dicom_slice(
            np.ascontiguousarray(volume[:, :, k].T),
            ImageOrientationPatient=[*(lps[:3, 0] / size[0]), *(lps[:3, 1] / size[1])],
            ImagePositionPatient=list((lps @ [0, 0, k, 1])[:3]),
            PixelSpacing=[size[1], size[0]],
            SliceThickness=size[2],
        )
        for k in range(volume.shape[2])
    ]


def as_bytes(dataset: pydicom.Dataset) -> bytes:
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def zipped(files: dict[str, bytes] | list[bytes]) -> bytes:
    named = files if isinstance(files, dict) else {f"{i:04}.dcm": data for i, data in enumerate(files)}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in named.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # which knows no time of day
    return content.getvalue()
