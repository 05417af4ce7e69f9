"""Volumes against files written by hand: the right voxels, the right way up, one clear line for what is no brain."""

import csv
import os
import struct
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
from heads import head as template

from oasisvq.cli import main
from oasisvq.data import prepare
from oasisvq.data.layout import load_split
from oasisvq.data.prepare import prepare_volumes, read_refused
from oasisvq.data.volumes import find_volumes, read_volume
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
def test_analyze_gives_the_right_voxels(tmp_path, code):
    volume = head((44, 52, 40), 4.0).round()
    if code != 4:
        volume *= 30  # past what a signed number holds
    file = session(tmp_path, 1)
    analyze(file, volume, code)
    voxels, affine = read_volume(file)
    np.testing.assert_array_equal(voxels, volume)
    # nibabel takes the first axis of Analyze to point left, the second to the front, the third to the top.
    np.testing.assert_array_equal(np.sign(np.diag(affine)[:3]), [-1, 1, 1])


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


def test_people_of_a_bids_set_may_have_letters_in_their_names(tmp_path):
    for place in ("sub-ctrlA1/ses-1", "sub-ctrlA1/ses-2", "sub-ctrlB1/ses-1", "sub-07"):
        (tmp_path / place / "anat").mkdir(parents=True)
        (tmp_path / place / "anat" / "T1w.nii.gz").touch()
    found = [volume.person for volume in find_volumes(tmp_path)]
    assert found == ["sub-07", "sub-ctrlA1", "sub-ctrlA1", "sub-ctrlB1"]


def test_files_of_one_name_in_different_folders_are_different_people(tmp_path):
    for place in ("a/T1.nii.gz", "b/T1.nii.gz", "alone.nii"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    assert [volume.person for volume in find_volumes(tmp_path)] == ["a/T1", "alone", "b/T1"]


def test_nothing_to_find(tmp_path):
    with pytest.raises(OasisVQError, match="neither"):
        find_volumes(tmp_path)
    with pytest.raises(OasisVQError, match="no such folder"):
        find_volumes(tmp_path / "nowhere")


@pytest.fixture
def source(tmp_path):
    """Three people, one of them twice, in voxels of 2 mm; and a map of labels."""
    folder = tmp_path / "source"
    voxels, affine = template()
    for place in ("sub-00", "sub-01/ses-0", "sub-01/ses-1", "sub-02"):
        file = folder / place / "anat" / "T1w.nii.gz"
        file.parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(voxels, affine), file)
    nibabel.save(
        nibabel.Nifti1Image((voxels > 0.1).astype(np.float32) + (voxels > 0.5), affine),
        folder / "sub-02" / "anat" / "labels.nii.gz",
    )
    (folder / "subjects.csv").write_text("case,cdr\nsub-00,0.5\nsub-01,1\n")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("upright")
def test_prepare_splits_by_person_keeps_grades_and_names_what_it_refused(source, tmp_path):
    out = prepare_volumes(source, tmp_path / "out", workers=1)
    with (out / "subjects.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 4
    split_of = {row["source"].split("/")[0]: row["split"] for row in rows}
    assert all(split_of[row["source"].split("/")[0]] == row["split"] for row in rows)
    assert sorted(split_of.values()) == ["test", "train", "validate"]
    assert {row["cdr"] for row in rows if row["source"].startswith("sub-01")} == {"1"}
    assert {row["cdr"] for row in rows if row["source"].startswith("sub-02")} == {""}
    [(refused, why)] = read_refused(out).items()
    assert refused == "sub-02/anat/labels.nii.gz"
    assert "label map" in why
    sets = {split: load_split(out, split) for split in ("train", "validate", "test")}
    assert sum(map(len, sets.values())) == 4 * 32
    assert sets["train"].levels[:32].tolist() == list(range(32))
    assert not (tmp_path / "out.partial").exists()
    assert str(tmp_path) not in (out / "dataset.json").read_text()

    # The same again is nothing to do; another seed, or a corrected table, is another set.
    before = (out / "subjects.csv").stat().st_mtime_ns
    assert prepare_volumes(source, out, workers=1) == out
    assert (out / "subjects.csv").stat().st_mtime_ns == before
    with pytest.raises(OasisVQError, match="holds something else"):
        prepare_volumes(source, out, seed=1, workers=1)
    (source / "subjects.csv").write_text("case,cdr\nsub-00,1\nsub-01,1\n")
    with pytest.raises(OasisVQError, match="holds something else"):
        prepare_volumes(source, out, workers=1)


def test_a_set_without_test_people_is_no_set(tmp_path):
    """Nobody fits: each is refused, at once, and the end says so."""
    for number in range(3):
        save(tmp_path / "source" / f"OAS1_000{number}_MR1.nii.gz", head((44, 52, 4), 4.0), "RAS", 4.0)
    with pytest.raises(
        OasisVQError, match="3 of 3 volumes were refused, nobody is left in train and validate and test"
    ):
        prepare_volumes(tmp_path / "source", tmp_path / "out", workers=1)
    assert len(read_refused(tmp_path / "out.partial")) == 3


def test_too_few_people(tmp_path):
    save(tmp_path / "a" / "one.nii", head((44, 52, 44), 4.0), "RAS", 4.0)
    with pytest.raises(OasisVQError, match="at least 3"):
        prepare_volumes(tmp_path / "a", tmp_path / "out")


def jobs_of(make):
    return [prepare._Job(f"00{n}", split, str(n), make) for n, split in enumerate(prepare.SPLITS, 1)]


def test_processes_that_are_killed_are_said_in_one_line(tmp_path):
    with pytest.raises(OasisVQError, match="again with fewer --workers"):
        prepare._write(tmp_path / "out", {"name": "nobody"}, jobs_of(partial(os._exit, 9)), 2, "volumes")
    assert (tmp_path / "out.partial").is_dir()


@pytest.mark.parametrize("where", [".", "here", "disk"])
def test_no_set_takes_the_place_of_a_current_or_mounted_folder(tmp_path, monkeypatch, capsys, where):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    out = Path(where) if where == "." else tmp_path / where
    assert main(["prepare", "--people", "1", "1", "1", "--out", str(out)]) == 2
    assert "name one in it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
