"""The phantom cohort: the same for a seed whatever the workers, and like a brain in what can be counted."""

import shutil

import numpy as np
import pytest

from oasisvq.data.layout import describe, load_split
from oasisvq.data.phantom import person
from oasisvq.data.prepare import prepare_phantom
from oasisvq.data.slices import foreground
from oasisvq.errors import OasisVQError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def people():
    return [person(0, index, levels=4) for index in range(1, 31)]


def test_a_person_depends_on_seed_and_number_alone(people):
    again, grade = person(0, 3, levels=4)
    np.testing.assert_array_equal(again, people[2][0])
    assert grade == people[2][1]
    assert (person(1, 3, levels=4)[0] != again).any()
    assert person(0, 3, levels=2)[1] == grade


def test_it_is_like_a_brain(people):
    stacks = np.stack([stack for stack, _ in people]) / 255
    assert stacks.shape == (30, 4, 256, 256)
    masks = np.stack([[foreground(image) for image in stack] for stack in stacks])
    area = masks.mean((2, 3))
    assert area.min() > 0.25
    assert area.max() < 0.33
    # Water, grey and white matter: three shares of the brain, none of them empty.
    values = stacks[masks]
    shares = [(values < 0.3).mean(), ((values > 0.4) & (values < 0.65)).mean(), (values > 0.75).mean()]
    assert all(0.07 < share < 0.5 for share in shares)
    # Nearly, not quite, the same on both sides; and the upper half of the picture is the front: narrower.
    mirrored = np.abs(stacks - stacks[..., ::-1])[masks].mean()
    others = np.abs(stacks - np.roll(stacks, 1, axis=0))[masks].mean()
    assert 0.02 < mirrored < 1.2 * others


def test_nobody_is_a_copy(people):
    first = np.stack([stack[2] for stack, _ in people]).astype(float)
    apart = [np.abs(a - b).mean() for i, a in enumerate(first) for b in first[:i]]
    assert min(apart) > 4


def test_ventricles_grow_with_the_grade(people):
    grades = np.array([grade for _, grade in people])
    dark = np.array([(stack[1, 80:190, 90:166] < 75).mean() for stack, _ in people])
    assert set(grades) <= {0, 0.5, 1, 2}
    assert (grades > 0).any()
    assert dark[grades > 0].mean() > dark[grades == 0].mean() * 1.15


def test_workers_and_interruptions_change_nothing(tmp_path):
    one = prepare_phantom(tmp_path / "one", (2, 1, 1), levels=3, workers=1)
    two = prepare_phantom(tmp_path / "two", (2, 1, 1), levels=3, workers=2)
    assert describe(one) == describe(two)
    assert describe(one)["slices"] == {"train": 6, "validate": 3, "test": 3}
    assert describe(one)["name"] == "phantom cohort"
    assert (one / "subjects.csv").read_bytes() == (two / "subjects.csv").read_bytes()

    # A run killed after two people, in the middle of the third.
    half = tmp_path / "two.partial"
    shutil.move(two, half)
    lines = (half / "subjects.csv").read_text().splitlines(keepends=True)
    (half / "subjects.csv").write_text("".join(lines[:3]))
    (half / "keras_png_slices_validate" / "case_003_slice_0.nii.png").write_bytes(b"half a pic")
    shutil.rmtree(half / "keras_png_slices_test")
    (half / "keras_png_slices_test").mkdir()
    untouched = half / "keras_png_slices_train" / "case_001_slice_0.nii.png"
    written = untouched.stat().st_mtime_ns
    resumed = prepare_phantom(tmp_path / "two", (2, 1, 1), levels=3, workers=1)
    assert describe(resumed) == describe(one)
    assert (resumed / untouched.relative_to(half)).stat().st_mtime_ns == written
    assert load_split(resumed, "train").levels.tolist() == [0, 1, 2] * 2

    with pytest.raises(OasisVQError, match="holds something else"):
        prepare_phantom(tmp_path / "two", (3, 1, 1), levels=3)
    with pytest.raises(OasisVQError, match="at least 1"):
        prepare_phantom(tmp_path / "three", (3, 0, 1))
