"""Brightness, canvas and size of a slice, against arrays made by hand."""

import numpy as np
import pytest

from oasisvq.data.slices import FOREGROUND, VERSION, foreground, normalise, resize, square, to_model


def brain(scale: float, dtype: type = np.float64) -> np.ndarray:
    """A 3-slice stack: background 0, a block of 1 to 1000 times scale, in one corner."""
    stack = np.zeros((3, 40, 40))
    stack[:, :20, :25] = np.random.default_rng(0).integers(100, 1001, (3, 20, 25))
    return (stack * scale).astype(dtype)


def test_the_995th_percentile_of_the_foreground_becomes_095():
    stack = brain(1)
    out = normalise(stack)
    white = np.percentile(stack[stack > 0], 99.5)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, np.minimum(stack * 0.95 / white, 1), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_unit_and_type_do_not_matter(dtype):
    top = {np.uint8: 0.25, np.uint16: 60, np.int16: 30, np.float32: 1e-4}[dtype]
    np.testing.assert_allclose(
        normalise(brain(top, dtype)), normalise(brain(1)), atol=6e-3 if dtype == np.uint8 else 1e-4
    )


def test_twice_is_once():
    once = normalise(brain(1))
    np.testing.assert_allclose(normalise(once), once, atol=2e-3)


def test_a_hot_pixel_does_not_darken_the_person():
    stack = brain(1)
    spiked = stack.copy()
    spiked[0, 0, 0] = 1e6
    np.testing.assert_allclose(normalise(spiked)[1:], normalise(stack)[1:], atol=0.02)
    assert normalise(spiked).max() == 1


def test_haze_becomes_background():
    stack = brain(1)
    hazy = np.where(stack == 0, 3, stack)
    out = normalise(hazy)
    assert (out[stack == 0] == 0).all()
    np.testing.assert_allclose(out, normalise(stack), atol=1e-5)


@pytest.mark.parametrize("bad", [0.0, -5.0, np.nan, np.inf])
def test_nothing_above_zero_gives_zeros(bad):
    out = normalise(np.full((2, 4, 4), bad))
    assert out.shape == (2, 4, 4)
    assert (out == 0).all()


def test_constant_and_single_pixel():
    np.testing.assert_allclose(normalise(np.full((4, 4), 7)), 0.95, rtol=1e-6)
    lonely = np.zeros((4, 4), np.uint16)
    lonely[1, 2] = 65535
    np.testing.assert_allclose(normalise(lonely), lonely / 65535 * 0.95, rtol=1e-6)


def test_square_centres_and_keeps_millimetres():
    assert square(np.ones((208, 176))).shape == (256, 256)
    assert np.flatnonzero(square(np.ones((208, 176))).any(1))[[0, -1]].tolist() == [24, 231]
    assert np.flatnonzero(square(np.ones((208, 176))).any(0))[[0, -1]].tolist() == [40, 215]
    assert square(np.ones((80, 60))).shape == (80, 80)
    assert square(np.ones((300, 512))).shape == (512, 512)


def test_resize_is_antialiased_and_stays_in_range():
    checkers = (np.indices((256, 256)).sum(0) % 2).astype(np.float32)
    np.testing.assert_allclose(resize(checkers, 80)[2:-2, 2:-2], 0.5, atol=0.03)
    noise = np.random.default_rng(0).random((256, 256)).astype(np.float32)
    edge = np.zeros((256, 256), np.float32)
    edge[:, 128:] = 1
    for image in (noise, edge):
        small = resize(image, 80)
        assert small.shape == (80, 80)
        assert small.dtype == np.float32
        assert small.min() >= 0
        assert small.max() <= 1 + 1e-6
        assert small.mean() == pytest.approx(image.mean(), abs=0.005)
    # Nothing moves: the edge is where it was, in the middle.
    assert resize(edge, 80)[:, :39].max() < 0.02
    assert resize(edge, 80)[:, 41:].min() > 0.98


def test_to_model():
    images = np.stack([np.zeros((256, 256)), np.ones((256, 256))])
    out = to_model(images, 80)
    assert out.shape == (2, 80, 80)
    assert out.dtype == np.float32
    assert (out[0] == -0.5).all()
    np.testing.assert_allclose(out[1], 0.5, atol=1e-6)


def test_foreground_fills_ventricles():
    image = np.zeros((20, 20))
    image[4:16, 4:16] = 0.8
    image[8:10, 8:12] = 0
    image[0, 0] = FOREGROUND
    mask = foreground(image)
    assert mask.dtype == bool
    assert mask.sum() == 144
    assert not mask[0, 0]


def test_slices_are_read_as_this_version_says() -> None:
    """Where pixels have changed on purpose, raise VERSION, so that decoded splits are made again, and the numbers."""
    y, x = np.mgrid[:208, :176]
    inside = ((y - 104) / 70) ** 2 + ((x - 88) / 60) ** 2 < 1
    picture = np.where(inside, 60 + (7 * x + 3 * y) % 150, 1).astype(np.uint8)
    pixels = to_model(normalise(picture[None]))[0]
    found = VERSION, pixels.mean(), pixels.std(), pixels[40, 40], pixels[30, 50]
    assert found == pytest.approx((1, -0.37724, 0.25289, -0.04996, -0.13954), abs=2e-5)
