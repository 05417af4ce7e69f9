"""Heads in any position come to the same place, and what is no T1 head is refused."""

import gzip

import nibabel
import numpy as np
import pytest
from heads import Volume, head, stored, template, with_skull
from scipy import ndimage
from scipy.spatial.transform import Rotation

from oasisvq.data import appearance, nifti
from oasisvq.data.align import Aligned, BadFit, align, find_brain
from oasisvq.data.frame import (
    DRAWN,
    FRAME,
    FRAME_TO_MNI,
    LEVELS,
    as_image,
    as_matrix,
    as_nifti,
    as_transform,
    canvas,
    cut,
    reference,
)
from oasisvq.data.slices import normalise
from oasisvq.errors import OasisVQError

pytestmark = pytest.mark.slow

TRUTH = np.linalg.inv(FRAME_TO_MNI)
MIDDLE = np.array([0, 0, 16, 1.0])
ATLAS = canvas(176, lowest=-80)  # slices of a whole head in the frame


@pytest.fixture(scope="module")
def straight() -> Aligned:
    return align(*head())


def off(found: Aligned, change: np.ndarray) -> tuple[float, float]:
    """Degrees and millimetres between the affine found and the known one, at the middle of the levels."""
    left = found.fit.matrix @ change @ FRAME_TO_MNI
    turn, _ = Rotation.align_vectors(left[:3, :3].T, np.eye(3))
    return np.degrees(turn.magnitude()), float(np.linalg.norm((left @ MIDDLE - MIDDLE)[:3]))


def moved(degrees: tuple[float, float, float], shift: tuple[float, float, float], scale: float = 1.0) -> np.ndarray:
    change = np.eye(4)
    change[:3, :3] = scale * Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    change[:3, 3] = shift
    return change


def test_the_template_is_found_where_it_is(straight: Aligned) -> None:
    degrees, millimetres = off(straight, np.eye(4))
    assert degrees < 0.5
    assert millimetres < 0.5
    assert straight.fit.dice > 0.95
    assert straight.fit.likeness > 0.95
    assert straight.levels.shape == (32, 256, 256)
    assert straight.levels.dtype == np.float32
    again = align(*head())
    # Sums in another order leave other last digits.
    np.testing.assert_allclose(again.levels, straight.levels, atol=1e-4)
    np.testing.assert_allclose(again.fit.matrix, straight.fit.matrix, atol=1e-6)


@pytest.mark.parametrize(
    ("voxel", "axes", "change"),
    [
        ((1.2, 1.2, 3), "PIR", moved((15, 8, -10), (20, -15, 10))),
        ((3, 1.5, 1.5), "LPS", moved((-20, 0, 15), (0, 0, 40), 0.9)),
    ],
)
def test_turned_moved_scaled_and_thick_heads_give_the_same_levels(
    straight: Aligned, voxel: tuple[float, float, float], axes: str, change: np.ndarray
) -> None:
    found = align(*stored(head(voxel, change), axes))
    degrees, millimetres = off(found, change)
    assert degrees < 1
    assert millimetres < 1.5
    both = (found.levels > 0) & (straight.levels > 0)
    assert 2 * both.sum() / ((found.levels > 0).sum() + (straight.levels > 0).sum()) > 0.97
    assert np.abs(found.levels - straight.levels)[both].mean() < 0.05
    assert found.fit.litres == pytest.approx(straight.fit.litres * np.linalg.det(change[:3, :3]), rel=0.1)


def test_a_head_with_its_skull_on_shows_its_brain_and_nothing_else(straight: Aligned) -> None:
    """The network and all: a made-up skull, scalp and face round the template."""
    steps = []
    found = align(*with_skull(head()), on_step=lambda name, share: steps.append((name, share)))
    assert [share for _, share in steps] == sorted(share for _, share in steps)
    assert len(steps) == 3
    degrees, millimetres = off(found, np.eye(4))
    assert degrees < 1.5
    assert millimetres < 1.5
    brain = head()[0] > 0.1
    assert 2 * (found.mask & brain).sum() / (found.mask.sum() + brain.sum()) > 0.92
    assert not found.levels[:, ~reference().levels.any(0)].any()


def test_three_voxel_sizes_are_one_cut() -> None:
    """Straight through a known affine: what is shown does not depend on the voxels, nor on the way they are stored."""
    shown = []
    for voxel in ((1, 1, 1), (2, 2, 2), (0.5, 1, 3)):
        voxels, affine = head(voxel)
        shown.append(
            cut(as_image(ndimage.gaussian_filter(voxels, 2 / np.array(voxel)), affine), canvas(), FRAME_TO_MNI)
        )
    for other in shown[1:]:
        assert np.abs(other - shown[0]).max() < 0.15
        assert np.abs(other - shown[0]).mean() < 0.004


def test_level_row_and_column_are_the_millimetres_that_the_frame_says() -> None:
    """One bright voxel at a known place of the template lights one pixel of one level."""
    target = FRAME @ [150, 90, 20, 1]  # column 150, row 256 - 1 - 90, level 20
    x, y, z, _ = FRAME_TO_MNI @ target
    dot = np.zeros((200, 200, 200), np.float32)
    dot[100, 100, 100] = 1
    place = np.eye(4)
    place[:3, 3] = np.array([x, y, z]) - 100
    seen = cut(as_image(dot, place), canvas(), FRAME_TO_MNI)
    assert np.unravel_index(seen.argmax(), seen.shape) == (20, 165, 150)


def test_matrices_survive_transforms() -> None:
    matrix = moved((10, 20, 30), (1, 2, 3), 1.2)
    np.testing.assert_allclose(as_matrix(as_transform(matrix, np.array([5.0, -7, 9]))), matrix, atol=1e-12)
    point = np.array([4.0, 5, 6])
    np.testing.assert_allclose(as_transform(matrix, point).TransformPoint(point), (matrix @ [*point, 1])[:3])


def test_a_stripped_brain_is_taken_at_its_word() -> None:
    voxels, affine = head()
    mask = find_brain(voxels, affine)
    assert mask[voxels > 0.1].all()
    assert not mask[ndimage.binary_dilation(voxels > 0, iterations=1) == 0].any()


@pytest.mark.usefixtures("upright")
def test_a_volume_that_lies_in_the_frame_is_cut_and_nothing_else() -> None:
    """As OASIS-1's volumes are: the outline of the levels, moved by whole voxels, numbers of another unit."""
    voxels, affine = template()
    outline = cut(as_image(ndimage.gaussian_filter((voxels > 0.02).astype(np.float32), 6), affine), ATLAS, FRAME_TO_MNI)
    brain = cut(as_image(voxels, affine), ATLAS, FRAME_TO_MNI)
    outline[80 : 80 + LEVELS] = reference().levels
    volume = np.where(outline > 0.4, 500 * np.maximum(brain, 0.1), 0)[:, ::-1].T
    place = np.eye(4)
    place[:3, 3] = (-120, -130, -70)
    found = align(volume, place)
    shift = np.eye(4)
    shift[:3, 3] = -(place[:3, 3] - (-127.5, -127.5, -80))
    np.testing.assert_allclose(found.fit.matrix, shift, atol=1e-6)
    levels = normalise(volume.T[80 : 80 + LEVELS, ::-1])
    np.testing.assert_allclose(found.levels, levels, atol=1e-5)


def test_air_with_noise_in_it_is_no_sign_of_a_stripped_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A skull in a small field of view: as few voxels as a brain has, and the network is asked all the same."""
    voxels, affine = head((4, 4, 4))
    asked = []

    class Network:
        def run(self, image: nibabel.Nifti1Image) -> tuple[None, nibabel.Nifti1Image, None]:
            asked.append(image)
            return None, nibabel.Nifti1Image((voxels > 0.1).astype(np.float32), affine), None

    monkeypatch.setattr("oasisvq.data.align._network", Network)
    find_brain(voxels, affine)
    assert not asked
    find_brain(voxels + np.random.default_rng(0).uniform(0, 0.02, voxels.shape).astype(np.float32), affine)
    assert len(asked) == 1


def without_contrast(volume: Volume) -> Volume:
    """Water bright, white matter dark, as T2 shows them."""
    voxels, affine = volume
    return np.where(voxels > 0.05, 1.1 - voxels, 0).astype(np.float32), affine


def upper_half(volume: Volume) -> Volume:
    voxels, affine = volume
    half = voxels.copy()
    half[:, :, : voxels.shape[2] // 2] = 0
    return half, affine


@pytest.mark.usefixtures("upright")
@pytest.mark.parametrize(("spoilt", "said"), [(without_contrast, "not that of a T1"), (upper_half, ".")])
def test_what_does_not_fit_is_refused_with_its_figures(spoilt, said: str) -> None:
    with pytest.raises(BadFit, match=said) as caught:
        align(*spoilt(head()))
    assert "\n" not in str(caught.value)
    assert caught.value.fit.figures()["matrix"][3] == [0, 0, 0, 1]


COARSE = template()[0][::4, ::4, ::4]
FOURS = np.diag([4.0, 4, 4, 1])


@pytest.mark.parametrize(
    ("voxels", "affine", "said"),
    [
        (COARSE, np.diag([0.0, 4, 4, 1]), "no voxel size"),
        (COARSE, np.full((4, 4), np.nan), "no voxel size"),
        (COARSE, np.array([[4, 4, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1.0]]), "right angles"),
        (COARSE[:, :, 20:21], FOURS, "whole brain"),
        (COARSE[:, :, 20:30], FOURS, "whole brain"),
        (np.zeros_like(COARSE), FOURS, "equally bright"),
        (np.full_like(COARSE, np.nan), FOURS, "equally bright"),
        ((COARSE > 0.1) + 2.0 * (COARSE > 0.6), FOURS, "label map"),
    ],
)
def test_what_is_no_head_is_refused_at_once(voxels: np.ndarray, affine: np.ndarray, said: str) -> None:
    with pytest.raises(OasisVQError, match=said) as caught:
        align(voxels, affine)
    assert "\n" not in str(caught.value)


def people(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four levels of the template in the frame, and where the brain is."""
    shown = cut(as_image(*template()), canvas(), FRAME_TO_MNI)[::8]
    return shown, (shown > 0.05) & reference().levels[::8]


def test_usual_looks_stay_and_others_come_to_the_nearer_end() -> None:
    shown, brain = people()
    made = appearance.as_in_training(shown, brain)
    assert made[made > 0].mean() == pytest.approx(appearance.BRIGHTNESS[1], abs=0.01)
    np.testing.assert_allclose(appearance.as_in_training(made, brain), made, atol=0.021)
    np.testing.assert_allclose(appearance.as_in_training(1000 * shown, brain), made, atol=1e-4)
    grainy = shown + np.random.default_rng(0).normal(0, 0.08, shown.shape)
    assert appearance.sharpness(grainy * brain, brain) > appearance.SHARPNESS
    calm = appearance.as_in_training(grainy, brain)
    assert appearance.sharpness(calm, brain) < appearance.SHARPNESS + 0.03
    assert not calm[~brain].any()
    assert not appearance.as_in_training(np.zeros_like(shown), brain).any()


def test_a_brain_cut_off_at_white_is_refused() -> None:
    shown, brain = people()
    with pytest.raises(OasisVQError, match="equally bright"):
        appearance.as_in_training(np.minimum(shown, 0.01), brain)


def test_vessels_with_a_contrast_agent_do_not_leave_the_tissue_grey() -> None:
    shown, brain = people()
    plain = appearance.as_in_training(shown, brain)
    vessels = np.zeros(shown.shape, bool)
    vessels[:, 100:160, 126:130] = vessels[:, 80:180:3, 100:104] = True  # 2 % of the brain
    made = appearance.as_in_training(np.where(vessels & brain, 2.5 * shown.max(), shown), brain)
    tissue = brain & ~ndimage.binary_dilation(vessels, iterations=4)
    np.testing.assert_allclose(made[tissue].mean(), plain[tissue].mean(), atol=0.05)
    assert made[tissue].std() > 0.75 * plain[tissue].std()


@pytest.mark.usefixtures("upright")
def test_the_order_of_the_axes_changes_nothing_but_the_order() -> None:
    """Left and right are those of the header: a mark on the right of the person is on the right of the level."""
    voxels, affine = head()
    marked = voxels.copy()
    right = affine[0, 3] + 2 * np.arange(voxels.shape[0]) > 20
    marked[right] *= 1.5
    image = nibabel.Nifti1Image(*stored((marked, affine), "ASL"))
    levels = align(np.asarray(image.dataobj), image.affine).levels
    assert levels[:, :, 160:].sum() > 1.05 * levels[:, :, :96].sum()


@pytest.mark.parametrize("side", [256, 80])
def test_a_drawn_head_lies_where_the_training_slices_do(side: int) -> None:
    levels = np.linspace(0, 1, 32 * side * side).reshape(32, side, side)
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(as_nifti(levels)))
    row, column, level = 7, 60, 20
    values = np.rint(levels * 255)
    # Where that pixel lies: the canvas is 256 mm wide, its middle is the origin, front up.
    there = [(column + 0.5) * 256 / side - 128, 128 - (row + 0.5) * 256 / side, level, 1]
    voxel = np.linalg.solve(image.affine, there)[:3]
    np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-6)
    assert image.dataobj[tuple(np.rint(voxel).astype(int))] == values[level, row, column]
    assert as_nifti(levels) == as_nifti(levels)
    if side == 256:
        np.testing.assert_allclose(image.affine, FRAME)


def test_a_drawn_head_says_that_it_is_nobody() -> None:
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(as_nifti(np.zeros((32, 16, 16)))))
    assert bytes(image.header["descrip"]).rstrip(b"\0").decode() == DRAWN
    assert DRAWN.startswith("SYNTHETIC, drawn by a model: not a person.")
    assert nifti.read(as_nifti(np.zeros((32, 16, 16)))).voxels.shape == (16, 16, 32)
