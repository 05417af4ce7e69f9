"""The PNG layout: what is read, in which order, and one clear line for everything that is wrong."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from oasisvq.data import layout
from oasisvq.data.layout import describe, load_split
from oasisvq.data.slices import normalise, to_model
from oasisvq.errors import OasisVQError


def picture(seed: int, shape: tuple[int, int] = (256, 256)) -> np.ndarray:
    """A blocky head: background 0, random grey values inside."""
    image = np.zeros(shape, np.uint8)
    blocks = np.random.default_rng(seed).integers(60, 250, (10, 10), dtype=np.uint8)
    top, left = shape[0] // 2 - 80, shape[1] // 2 - 60
    image[top : top + 160, left : left + 120] = np.kron(blocks, np.ones((16, 12), np.uint8))
    return image


def write(root, split, case, numbers, suffix=".nii.png", shape=(256, 256)):
    folder = root / f"keras_png_slices_{split}"
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(picture(int(case) * 100 + number, shape)).save(folder / f"case_{case}_slice_{number}{suffix}")
    return folder


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "train", "001", range(12))
    write(tmp_path, "train", "002", range(12))
    write(tmp_path, "validate", "003", range(3))
    write(tmp_path, "test", "004", range(3))
    return tmp_path


def test_slices_levels_and_cases_in_order(root):
    data = load_split(root, "train")
    assert len(data) == 24
    assert data.cases == ["001"] * 12 + ["002"] * 12
    assert data.levels.tolist() == [*range(12)] * 2  # 2 comes before 10
    assert data.grades.tolist() == [4] * 24  # unknown
    stack = np.stack([picture(200 + number) for number in range(12)])
    np.testing.assert_array_equal(data.slices[12:], to_model(normalise(stack), 80))
    item = data[13]
    assert item["slice"].shape == (1, 80, 80)
    assert item["level"] == 1
    assert item["grade"] == 4
    np.testing.assert_array_equal(item["slice"][0].numpy(), data.slices[13])


def test_a_large_split_is_decoded_once_and_read_from_disk(root, monkeypatch):
    small = load_split(root, "train")
    monkeypatch.setattr(layout, "IN_MEMORY", 0)
    large = load_split(root, "train")
    (file,) = (root / "decoded").glob("*.float32")
    assert file.stat().st_size == 24 * 80 * 80 * 4
    np.testing.assert_array_equal(large.slices, small.slices)
    np.testing.assert_array_equal(large.about, small.about)
    assert isinstance(large.about, np.memmap)
    for i in (0, 13, 23):
        item = large[i]
        np.testing.assert_array_equal(item["slice"][0].numpy(), small.slices[i])
        assert (item["level"], item["grade"]) == (small.levels[i], small.grades[i])
        item["slice"] += 1  # a copy, not the file
    np.testing.assert_array_equal(load_split(root, "train").slices, small.slices)
    assert describe(root)["slices"]["train"] == 24, "what was decoded is no slice of the set"


def test_a_decoded_split_lasts_until_a_file_changes(root, monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "IN_MEMORY", 0)
    monkeypatch.setenv("OASISVQ_CACHE", str(tmp_path / "elsewhere"))
    load_split(root, "train")
    monkeypatch.setattr(layout, "to_model", lambda *_: pytest.fail("decoded again"))
    load_split(root, "train")
    monkeypatch.undo()
    monkeypatch.setattr(layout, "IN_MEMORY", 0)
    monkeypatch.setenv("OASISVQ_CACHE", str(tmp_path / "elsewhere"))
    Image.fromarray(picture(999)).save(root / "keras_png_slices_train" / "case_002_slice_5.nii.png")
    fresh = load_split(root, "train")
    assert len(list((tmp_path / "elsewhere").glob("*.float32*"))) == 1
    monkeypatch.setattr(layout, "IN_MEMORY", 2**31)
    np.testing.assert_array_equal(fresh.slices, load_split(root, "train").slices)


def test_a_decoded_split_is_decoded_again_when_slices_are_read_in_another_way(root, monkeypatch):
    monkeypatch.setattr(layout, "IN_MEMORY", 0)
    load_split(root, "train")
    (before,) = (root / "decoded").glob("*.float32")
    monkeypatch.setattr(layout, "VERSION", layout.VERSION + 1)
    load_split(root, "train")
    (after,) = (root / "decoded").glob("*.float32")
    assert before != after


def test_grades_told_later_leave_the_decoded_pictures(root, monkeypatch):
    monkeypatch.setattr(layout, "IN_MEMORY", 0)
    load_split(root, "train")
    monkeypatch.setattr(layout, "to_model", lambda *_: pytest.fail("decoded again"))
    (root / "subjects.csv").write_text("case,cdr\n001,0.5\n")
    assert load_split(root, "train").grades.tolist() == [1] * 12 + [4] * 12
    assert len(list((root / "decoded").glob("*.records"))) == 1


def test_people_whose_names_differ_in_length(tmp_path):
    write(tmp_path, "train", "7", [0])
    write(tmp_path, "train", "1234", [0, 1])
    data = load_split(tmp_path, "train")
    assert data.cases == ["1234", "1234", "7"]
    assert torch.from_numpy(data.levels).tolist() == [0, 1, 0]  # aligned whatever the names


def test_a_set_that_is_open_stays_whole_when_another_run_decodes_anew(root, monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "IN_MEMORY", 0)
    first, slices = load_split(root, "train"), load_split(root, "train").slices.copy()
    (root / "subjects.csv").write_text("case,cdr\n001,0.5\n")
    Image.fromarray(picture(999)).save(root / "keras_png_slices_train" / "case_002_slice_5.nii.png")
    second = load_split(root, "train")
    assert (first[3]["grade"], second[3]["grade"]) == (4, 1)
    np.testing.assert_array_equal(first[17]["slice"][0].numpy(), slices[17])
    assert not np.array_equal(second[17]["slice"][0].numpy(), slices[17])


def test_sets_share_a_folder_for_what_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "IN_MEMORY", 0)
    monkeypatch.setenv("OASISVQ_CACHE", str(tmp_path / "cache"))
    for name, case in (("one", "001"), ("two", "0002")):
        write(tmp_path / name, "train", case, range(2))
    for name in ("one", "two"):
        load_split(tmp_path / name, "train")
    assert len(list((tmp_path / "cache").glob("*.float32"))) == 2
    assert len(list((tmp_path / "cache").glob("*.records"))) == 2


@pytest.mark.slow
def test_no_room_to_sort_names_is_one_clear_line(root):
    # In a process of its own, whose files may not grow: the database spills to disk.
    for number in range(4000):
        os.link(root / "keras_png_slices_test" / "case_004_slice_0.nii.png", root / f"{number}")
        os.rename(root / f"{number}", root / "keras_png_slices_train" / f"case_{number + 1000}_slice_0.nii.png")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from oasisvq.data.layout import load_split; load_split(sys.argv[1], 'train')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True)
    assert "OasisVQError: names cannot be sorted" in done.stderr
    assert "SQLITE_TMPDIR" in done.stderr


def test_no_room_for_a_large_split_is_one_clear_line(root, monkeypatch):
    monkeypatch.setattr(layout, "IN_MEMORY", 0)
    (root / "decoded").write_text("in the way")
    with pytest.raises(OasisVQError, match=r"decoded: File exists.*OASISVQ_CACHE"):
        load_split(root, "train")


def test_two_spellings_of_a_case_are_refused(root):
    folder = root / "keras_png_slices_train"
    os.rename(folder / "case_002_slice_5.nii.png", folder / "CASE_002_slice_5.nii.png")
    with pytest.raises(OasisVQError, match="case 002 is also spelt"):
        load_split(root, "train")


def test_brightness_is_normalised_by_person_not_by_slice(tmp_path):
    folder = write(tmp_path, "train", "001", range(2))
    dim = folder / "case_001_slice_1.nii.png"
    Image.fromarray(np.asarray(Image.open(folder / "case_001_slice_0.nii.png")) // 2).save(dim)
    data = load_split(tmp_path, "train")
    bright, dim_slice = data.slices + 0.5
    assert dim_slice.max() == pytest.approx(bright.max() / 2, rel=0.02)


@pytest.mark.parametrize("suffix", [".nii.png", ".png", ".jpg", ".jpeg"])
def test_every_suffix(tmp_path, suffix):
    write(tmp_path, "test", "001", range(2), suffix)
    reference = to_model(normalise(np.stack([picture(100), picture(101)])), 80)
    lossy = "jp" in suffix
    difference = np.abs(load_split(tmp_path, "test").slices - reference)
    assert difference.mean() < (0.02 if lossy else 1e-7)


def test_smaller_slices_sit_on_the_same_canvas(tmp_path):
    write(tmp_path / "big", "train", "001", [0])
    write(tmp_path / "small", "train", "001", [0], shape=(208, 176))
    big, small = (load_split(tmp_path / name, "train").slices for name in ("big", "small"))
    np.testing.assert_array_equal(big, small)


def test_sixteen_bits(tmp_path):
    folder = write(tmp_path, "train", "001", [0])
    reference = load_split(tmp_path, "train").slices
    Image.fromarray(picture(100).astype(np.uint16) * 200).save(folder / "case_001_slice_0.nii.png")
    np.testing.assert_allclose(load_split(tmp_path, "train").slices, reference, atol=1e-6)


def test_grey_saved_as_colour_is_grey(tmp_path):
    folder = write(tmp_path, "train", "001", [0])
    reference = load_split(tmp_path, "train").slices
    for mode in ("RGB", "RGBA", "P", "LA"):
        Image.fromarray(picture(100)).convert(mode).save(folder / "case_001_slice_0.nii.png")
        np.testing.assert_array_equal(load_split(tmp_path, "train").slices, reference)


def test_other_numbers_become_ranks(tmp_path):
    write(tmp_path, "train", "001", range(100, 164))
    write(tmp_path, "test", "002", [3, 7, 11])
    assert load_split(tmp_path, "train").levels.tolist() == [i // 2 for i in range(64)]
    assert load_split(tmp_path, "test").levels.tolist() == [0, 10, 21]  # one rule for the whole set


def test_grades_from_subjects_csv(root):
    (root / "subjects.csv").write_text("case,split,cdr\n001,train,0.5\n002,train\n003,validate,2\n")  # 002: no cell
    assert load_split(root, "train").grades.tolist() == [1] * 12 + [4] * 12
    assert load_split(root, "validate").grades.tolist() == [3] * 3
    assert load_split(root, "test").grades.tolist() == [4] * 3


def test_grades_from_the_table_of_oasis(root):
    table = "\ufeffID,M/F,Age,CDR\nOAS1_0001_MR1,F,74,1\nOAS1_0002_MR1,F,20,\nOAS1_0003_MR2,M,26,0\n"
    (root / "oasis_cross-sectional.csv").write_text(table, encoding="utf-8")
    assert load_split(root, "train").grades.tolist() == [2] * 12 + [4] * 12


def test_describe_counts_and_fingerprints(root):
    said = describe(root)
    assert said["people"] == {"train": 2, "validate": 1, "test": 1}
    assert said["slices"] == {"train": 24, "validate": 3, "test": 3}
    again = root.parent / "again" / "keras_png_slices_data"
    shutil.copytree(root, again)
    assert describe(again.parent)["fingerprint"] == said["fingerprint"]
    (again / "dataset.json").write_text('{"name": "mine", "description": "six people"}')
    assert describe(again) | {"name": "mine", "description": "six people"} == describe(again)
    Image.fromarray(picture(7)).save(again / "keras_png_slices_test" / "case_004_slice_0.nii.png")
    assert describe(again)["fingerprint"] != said["fingerprint"]


def empty(root, train):
    for file in train.iterdir():
        file.unlink()


def cut_short(root, train):
    file = train / "case_002_slice_3.nii.png"
    file.write_bytes(file.read_bytes()[:200])


def no_image(root, train):
    (train / "case_002_slice_3.nii.png").write_bytes(b"not a picture")


def other_size(root, train):
    Image.fromarray(picture(1, (208, 176))).save(train / "case_002_slice_3.nii.png")


def other_depth(root, train):
    Image.fromarray(picture(1).astype(np.uint16)).save(train / "case_002_slice_3.nii.png")


def coloured(root, train):
    red = np.stack([picture(1), picture(2), picture(3)], axis=-1)
    Image.fromarray(red).save(train / "case_002_slice_3.nii.png")


def two_splits(root, train):
    shutil.copy(train / "case_002_slice_3.nii.png", root / "keras_png_slices_test")


def same_slice_twice(root, train):
    shutil.copy(train / "case_002_slice_3.nii.png", train / "case_002_slice_3.png")


def odd_name(root, train):
    shutil.copy(train / "case_002_slice_3.nii.png", train / "brain.png")


def odd_letter(root, train):
    shutil.copy(train / "case_002_slice_3.nii.png", train / "ca\u017fe_002_slice_3.nii.png")  # a long s


def odd_grade(root, train):
    (root / "subjects.csv").write_text("case,split,cdr\n001,train,7\n")


def no_grade_column(root, train):
    (root / "subjects.csv").write_text("case,age\n001,70\n")


def other_people(root, train):
    (root / "subjects.csv").write_text("case,cdr\n1,0.5\n2,0\n")  # as a spreadsheet writes 001 and 002


@pytest.mark.parametrize(
    ("spoil", "named", "said"),
    [
        (empty, "keras_png_slices_train", "empty"),
        (cut_short, "case_002_slice_3.nii.png", "not a readable image"),
        (no_image, "case_002_slice_3.nii.png", "not a readable image"),
        (other_size, "case_002_slice_3.nii.png", "176x208"),
        (other_depth, "case_002_slice_3.nii.png", "16 bits"),
        (coloured, "case_002_slice_3.nii.png", "greyscale"),
        (two_splits, "case_002_slice_3.nii.png", "also in train"),
        (same_slice_twice, "case_002_slice_3.png", "keep one"),
        (odd_name, "brain.png", "rename"),
        (odd_letter, "ca\u017fe_002_slice_3.nii.png", "rename"),
        (odd_grade, "subjects.csv", "CDR 7"),
        (no_grade_column, "subjects.csv", "cdr"),
        (other_people, "but 1, for example", "as they stand in the names of the files"),
    ],
)
def test_bad_data_is_named_in_one_line(root, spoil, named, said):
    spoil(root, root / "keras_png_slices_train")
    with pytest.raises(OasisVQError) as caught:
        load_split(root, "train")
    message = str(caught.value)
    assert named in message
    assert said in message
    assert "\n" not in message


def test_missing_folders_are_named(root, tmp_path):
    shutil.rmtree(root / "keras_png_slices_validate")
    with pytest.raises(OasisVQError, match="keras_png_slices_validate"):
        load_split(root, "validate")
    assert len(load_split(root, "test")) == 3
    with pytest.raises(OasisVQError, match="no such folder"):
        load_split(tmp_path / "nowhere", "train")
    (tmp_path / "void").mkdir()
    with pytest.raises(OasisVQError, match="keras_png_slices_train"):
        describe(tmp_path / "void")


def test_leftovers_of_file_browsers_are_no_slices(root):
    (root / "keras_png_slices_test" / ".DS_Store").write_bytes(b"x")
    (root / "keras_png_slices_test" / "Thumbs.db").write_bytes(b"x")
    assert len(load_split(root, "test")) == 3


def test_a_second_visit_is_the_same_person(root):
    for file in (root / "keras_png_slices_train").glob("case_002_*"):
        file.rename(file.with_name(file.name.replace("case_002", "case_001MR2")))
    assert describe(root)["people"]["train"] == 1
    train = load_split(root, "train")
    assert train.cases == ["001"] * 24
    (root / "keras_png_slices_test" / "case_004_slice_0.nii.png").rename(
        root / "keras_png_slices_test" / "case_001MR3_slice_0.nii.png"
    )
    with pytest.raises(OasisVQError, match="also in train"):
        load_split(root, "test")
