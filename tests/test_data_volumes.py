"""Volumes against files written by hand: the right voxels, the right way up, one clear line for what is no brain."""

import csv
import struct

import nibabel
import numpy as np
import pytest

from oasisvq.data.layout import load_split
from oasisvq.data.prepare import prepare_volumes
from oasisvq.data.volumes import axial_slices, find_volumes, read_volume
from oasisvq.errors import OasisVQError

# An ellipsoid the size of a brain: brighter to the front, and to the top, and to the side where x is high.
RADII = np.array([68.0, 87.0, 62.0])


def head(shape=(176, 208, 176), voxel=1.0, radii=RADII, centre=None):
    centre = np.array(shape) / 2 if centre is None else np.array(centre)
    x, y, z = ((np.arange(n) - c) * voxel for n, c in zip(shape, centre, strict=True))
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    inside = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2 <= 1
    return np.where(inside, 1000 + 4 * y + 2 * z + x, 0).astype(np.float32)


def analyze(path, volume, code):
    """An Analyze 7.5 pair as OASIS-1 has it: big-endian 16-bit numbers, a fourth axis of length 1, no orientation."""
    header = bytearray(348)
    struct.pack_into(">i", header, 0, 348)
    struct.pack_into(">i", header, 32, 16384)
    header[38:39] = b"r"
    struct.pack_into(">8h", header, 40, 4, *volume.shape, 1, 0, 0, 0)
    struct.pack_into(">2h", header, 70, code, 16)
    struct.pack_into(">8f", header, 76, 0, 1, 1, 1, 0, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header)
    path.with_suffix(".img").write_bytes(volume.ravel(order="F").astype(">u2").tobytes())


def session(root, number, visit=1, name="mpr_n4_anon_111_t88_masked_gfc"):
    subject = f"OAS1_{number:04d}_MR{visit}"
    return root / f"disc{number % 3}" / subject / "PROCESSED" / "MPRAGE" / "T88_111" / f"{subject}_{name}.hdr"


@pytest.mark.parametrize("code", [4, 132, 512], ids=["int16", "uint16 of SPM", "uint16 of NIfTI"])
def test_analyze_slices_hold_the_right_voxels(tmp_path, code):
    volume = head().round()
    if code != 4:
        volume *= 30  # past what a signed number holds
    file = session(tmp_path, 1)
    analyze(file, volume, code)
    slices = axial_slices(*read_volume(file), name="it")
    assert slices.shape == (32, 256, 256)
    # By hand: the brain reaches from z = 26 to 150 and from y = 1 to 191 around 104 (175 voxels long), so the middle is
    # 0.375 of that below 150 less the specks; levels go up by one voxel; the front (high y) is the first row; nibabel
    # takes the first axis of Analyze to point left, so columns run against it.
    lowest = next(z for z in range(176) if np.array_equal(np.unique(slices[0]), np.unique(volume[:, :, z])))
    assert abs(lowest + 16 - (88 + 62 - 0.375 * 175)) < 4
    for level in (0, 10, 31):
        expected = np.zeros((256, 256))
        expected[24:232, 40:216] = volume[:, :, lowest + level].T[::-1, ::-1]
        rows, columns = (np.flatnonzero(slices[level].any(axis))[[0, -1]].sum() for axis in (1, 0))
        shift = [
            (np.flatnonzero(expected.any(axis))[[0, -1]].sum() - total) // 2
            for axis, total in ((1, rows), (0, columns))
        ]
        assert max(map(abs, shift)) <= 1  # centred
        np.testing.assert_array_equal(np.roll(slices[level], shift, (0, 1)), expected)


def save(path, ras, axes, voxel):
    """Write a volume whose array runs along `axes` (such as "LPS"), with the affine that says so."""
    order = [next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair) for letter in axes]
    signs = [1 if letter in "RAS" else -1 for letter in axes]
    stored = np.transpose(ras, order)[tuple(slice(None, None, sign) for sign in signs)]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[axis, column] = sign * voxel
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "PIR", "ASL"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_comes_out_front_up_whatever_its_axes(tmp_path, axes, suffix):
    ras = head((44, 52, 44), 4.0)
    save(tmp_path / f"a{suffix}", ras, axes, 4.0)
    slices = axial_slices(*read_volume(tmp_path / f"a{suffix}"), name="it")
    np.testing.assert_allclose(slices, axial_slices(ras, np.array([4.0, 4.0, 4.0]), "it"), rtol=1e-6)
    middle = slices[16]
    assert middle[60, 128] > middle[200, 128] > 0  # front up
    assert middle[128, 180] > middle[128, 70] > 0  # columns along x
    assert slices[31, 128, 128] > slices[0, 128, 128]  # lowest first


def test_millimetres_not_voxels():
    fine = axial_slices(head(), np.ones(3), "it")
    shape = (88, 104, 44)
    centre = np.array(shape) / 2
    x, y, z = np.meshgrid(
        *[(np.arange(n) - c) * v for n, c, v in zip(shape, centre, (2, 2, 4), strict=True)], indexing="ij"
    )
    inside = (x / RADII[0]) ** 2 + (y / RADII[1]) ** 2 + (z / RADII[2]) ** 2 <= 1
    coarse = axial_slices(np.where(inside, 1000 + 4 * y + 2 * z + x, 0), np.array([2.0, 2.0, 4.0]), "it")
    for level in (0, 31):
        np.testing.assert_allclose((coarse[level] > 500).sum(), (fine[level] > 500).sum(), rtol=0.05)
    assert coarse[16, 128, 128] == pytest.approx(fine[16, 128, 128], rel=0.02)


def specks(volume):
    """Bright dust outside the brain must not move it."""
    dusty = volume.copy()
    dusty[2, 3, 171:175] = 1500
    dusty[1, 205, 2] = 1500
    return dusty


def test_specks_do_not_move_the_levels():
    volume = head()
    np.testing.assert_array_equal(
        axial_slices(specks(volume), np.ones(3), "it"), axial_slices(volume, np.ones(3), "it")
    )


BAD = {
    "not skull-stripped": head((64, 72, 64), 4.0, RADII * 1.35),
    "litres of brain": head((44, 52, 44), 4.0, RADII * 0.5),
    "whole brain": head((44, 52, 30), 4.0, RADII, (22, 26, 4)) * 1.0,
    "mask": (head((44, 52, 44), 4.0) > 0).astype(np.float32),
    "three dimensions": np.stack([head((44, 52, 44), 4.0)] * 2, axis=-1),
}


@pytest.mark.parametrize("said", BAD)
def test_what_is_no_brain_is_refused_by_name(tmp_path, said):
    file = tmp_path / "sub-01_T1w.nii.gz"
    nibabel.save(nibabel.Nifti1Image(BAD[said], np.diag([4, 4, 4, 1])), file)
    with pytest.raises(OasisVQError) as caught:
        axial_slices(*read_volume(file), name=str(file))
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_unreadable_volumes_are_named(tmp_path):
    save(tmp_path / "a.nii", head((44, 52, 44), 4.0), "RAS", 4.0)
    whole = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.nii").write_bytes(b"not a volume")
    analyze(session(tmp_path, 1), head((44, 52, 44), 4.0), 4)
    session(tmp_path, 1).with_suffix(".img").unlink()
    for file in (tmp_path / "a.nii", tmp_path / "b.nii", session(tmp_path, 1), tmp_path / "none.nii"):
        with pytest.raises(OasisVQError, match="not a readable volume") as caught:
            read_volume(file)
        assert file.name in str(caught.value)


def test_only_masked_volumes_of_oasis_are_found(tmp_path):
    tiny = np.ones((2, 2, 2))
    for number, visit, run in ((7, 1, 3), (7, 2, 4), (42, 1, 5), (43, 1, 6)):
        analyze(session(tmp_path, number, visit, f"mpr_n{run}_anon_111_t88_masked_gfc"), tiny, 4)
        analyze(session(tmp_path, number, visit, f"mpr_n{run}_anon_111_t88_gfc"), tiny, 4)
    found = find_volumes(tmp_path)
    assert sorted((v.case, v.person) for v in found) == [
        ("007", "OAS1_0007"),
        ("007MR2", "OAS1_0007"),
        ("042", "OAS1_0042"),
        ("043", "OAS1_0043"),
    ]
    assert all(v.file.name.endswith("_t88_masked_gfc.hdr") for v in found)
    session(tmp_path, 42, 1, "mpr_n5_anon_111_t88_masked_gfc").unlink()
    with pytest.raises(OasisVQError, match="OAS1_0042_MR1: no skull-stripped"):
        find_volumes(tmp_path)
    for run in (3, 4):
        analyze(session(tmp_path, 42, 1, f"mpr_n{run}_anon_111_t88_masked_gfc"), tiny, 4)
    with pytest.raises(OasisVQError, match="OAS1_0042_MR1: 2 skull-stripped"):
        find_volumes(tmp_path)


def test_nothing_to_find(tmp_path):
    with pytest.raises(OasisVQError, match="neither"):
        find_volumes(tmp_path)
    with pytest.raises(OasisVQError, match="no such folder"):
        find_volumes(tmp_path / "nowhere")


@pytest.fixture
def bids(tmp_path):
    source = tmp_path / "source"
    for person in range(8):
        for visit in range(1 + person % 2):
            brain = head((44, 52, 44), 4.0, RADII * (1 + 0.01 * person))
            save(source / f"sub-{person:02d}" / f"ses-{visit}" / "anat" / "T1w.nii.gz", brain, "LPS", 4.0)
    (source / "subjects.csv").write_text("case,cdr\nsub-00,0.5\nsub-01,1\n")
    return source


def test_prepare_splits_by_person_and_keeps_grades(bids, tmp_path):
    out = prepare_volumes(bids, tmp_path / "out", workers=1, progress=False)
    with (out / "subjects.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 12
    split_of = {row["source"].split("/")[0]: row["split"] for row in rows}
    assert all(split_of[row["source"].split("/")[0]] == row["split"] for row in rows)
    assert sorted(split_of.values()) == ["test"] + ["train"] * 6 + ["validate"]
    assert {row["cdr"] for row in rows if row["source"].startswith("sub-01")} == {"1"}
    assert {row["cdr"] for row in rows if row["source"].startswith("sub-05")} == {""}
    sets = {split: load_split(out, split) for split in ("train", "validate", "test")}
    assert sum(map(len, sets.values())) == 12 * 32
    assert sets["train"].levels[:32].tolist() == list(range(32))
    assert not (tmp_path / "out.partial").exists()

    # The same again is nothing to do; another seed is another set.
    before = (out / "subjects.csv").stat().st_mtime_ns
    assert prepare_volumes(bids, out, workers=1, progress=False) == out
    assert (out / "subjects.csv").stat().st_mtime_ns == before
    with pytest.raises(OasisVQError, match="holds something else"):
        prepare_volumes(bids, out, seed=1, workers=1, progress=False)


def test_a_bad_volume_stops_prepare_and_mending_it_goes_on(bids, tmp_path):
    bad = bids / "sub-06" / "ses-0" / "anat" / "T1w.nii.gz"
    good = bad.read_bytes()
    save(bad, head((64, 72, 64), 4.0, RADII * 1.35), "LPS", 4.0)
    with pytest.raises(OasisVQError, match="sub-06"):
        prepare_volumes(bids, tmp_path / "out", workers=1, progress=False)
    assert not (tmp_path / "out").exists()
    done = (tmp_path / "out.partial" / "subjects.csv").read_text()
    assert done.count("\n") == 10  # the heading and everybody before
    bad.write_bytes(good)
    out = prepare_volumes(bids, tmp_path / "out", workers=1, progress=False)
    assert (out / "subjects.csv").read_text().count("\n") == 13


def test_prepare_rates_oasis_people_from_their_own_table(tmp_path):
    source = tmp_path / "source"
    for name in ("OAS1_0001_MR1", "OAS1_0002_MR1", "OAS1_0002_MR2", "OAS1_0042_MR1"):
        save(source / f"{name}_masked.nii.gz", head((44, 52, 44), 4.0), "RAS", 4.0)
    table = "ID,Age,CDR\nOAS1_0001_MR1,74,0\nOAS1_0002_MR1,80,0.5\nOAS1_0002_MR2,81,\nOAS1_0042_MR1,25,\n"
    (source / "oasis_cross-sectional.csv").write_text(table)
    out = prepare_volumes(source, tmp_path / "out", workers=1, progress=False)
    with (out / "subjects.csv").open() as lines:
        rated = {row["source"][:13]: row["cdr"] for row in csv.DictReader(lines)}
    assert rated == {"OAS1_0001_MR1": "0", "OAS1_0002_MR1": "0.5", "OAS1_0002_MR2": "0.5", "OAS1_0042_MR1": ""}
    assert str(tmp_path) not in (out / "dataset.json").read_text()

    (source / "oasis_cross-sectional.csv").write_text(table.replace("74,0", "74,1"))
    with pytest.raises(OasisVQError, match="holds something else already"):
        prepare_volumes(source, out, workers=1, progress=False)


def test_too_few_people(tmp_path):
    save(tmp_path / "a" / "one.nii", head((44, 52, 44), 4.0), "RAS", 4.0)
    with pytest.raises(OasisVQError, match="at least 3"):
        prepare_volumes(tmp_path / "a", tmp_path / "out", progress=False)
