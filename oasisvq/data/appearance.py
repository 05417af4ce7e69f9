"""How bright and how sharp training people are, and other heads made so.

Each of OASIS-1's people is the mean of three or four scans, resampled to an atlas: smoother than one fresh scan, with
brightness spread over the whole range. A head that is brighter, darker or sharper than nearly all of them is brought to
the nearer end of their range; others stay as they are. Vessels filled with a contrast agent outshine all tissue, and
would leave it grey: what outshines it is brought down, as far as in training people. `python -m
oasisvq.data.appearance DIR` prints these ranges.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import brentq

from oasisvq.data.slices import WHITE, foreground, normalise
from oasisvq.errors import OasisVQError

# Of the brain of training people after `normalise`. Mean: the 5th and 95th percentile of people; 95th percentile of the
# pixels: the 5th of people; `sharpness`: the 95th of people.
BRIGHTNESS = (0.493, 0.606)
BRIGHT = 0.870
SHARPNESS = 0.352

_EVERY = 4  # of the levels is looked at: all of a person are alike
_RIM = 6  # pixels along the outline that do not count


def as_in_training(values: NDArray[np.floating], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Levels of one person, (N, H, W), of any brightness, to [0, 1] as training slices look, 0 outside the brain.

    Raises OasisVQError when nearly all of it is equally bright.
    """
    stack = _toned(normalise(values * brain))
    blurred = _blurred(stack, brain, _too_sharp(stack[::_EVERY], brain[::_EVERY]))
    return _toned(normalise(blurred))


def _toned(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """Levels as `normalise` gives them, their brightness in the range of training people."""
    if not stack.any():
        return stack
    bright = float(np.percentile(stack[stack > 0], 95))
    if bright < BRIGHT:
        stack = np.interp(stack, (0, bright, WHITE, 1), (0, BRIGHT, WHITE, 1)).astype(np.float32)
    inside = stack[stack > 0] / WHITE
    wanted = min(max(float(inside.mean()), BRIGHTNESS[0] / WHITE), BRIGHTNESS[1] / WHITE)

    def excess(gamma: float) -> float:
        return float((inside**gamma).mean()) - wanted

    if excess(0.1) < 0 or excess(10.0) > 0:
        raise OasisVQError("nearly all of the brain is equally bright: give the scan as the scanner stored it")
    gamma = brentq(excess, 0.1, 10.0)
    return np.clip(WHITE * (stack / WHITE) ** gamma, 0, 1).astype(np.float32)


def sharpness(stack: NDArray[np.floating], brain: NDArray[np.bool_]) -> float:
    """How much of the detail within 5.6 pixels is finer than 1.4: a ratio of standard deviations, away from the rim.

    `stack` is (N, H, W), `brain` what counts of it.
    """
    deep = ndimage.binary_erosion(brain, np.ones((1, 3, 3)), iterations=_RIM)
    if not deep.any():
        return 0.0
    fine, all_of_it = ((stack - ndimage.gaussian_filter(stack, (0, sigma, sigma)))[deep].std() for sigma in (1.4, 5.6))
    return float(fine / max(all_of_it, 1e-6))


def _too_sharp(stack: NDArray[np.float32], brain: NDArray[np.bool_]) -> float:
    """Pixels of the blur (sigma) that makes levels as sharp as the sharpest people; 0 where none is needed."""

    def excess(sigma: float) -> float:
        return sharpness(_blurred(stack, brain, sigma), brain) - SHARPNESS

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, 1.5, xtol=0.02)) if excess(1.5) < 0 else 1.5


def _blurred(stack: NDArray[np.float32], brain: NDArray[np.bool_], sigma: float) -> NDArray[np.float32]:
    """Blurred in the plane, inside the brain alone: the black outside does not bleed in."""
    if sigma == 0:
        return stack
    weight = ndimage.gaussian_filter(brain.astype(np.float32), (0, sigma, sigma))
    return ndimage.gaussian_filter(stack * brain, (0, sigma, sigma)) / np.maximum(weight, 1e-3) * brain


def _main() -> None:
    from oasisvq.data.layout import load_split
    from oasisvq.data.slices import CANVAS

    parser = argparse.ArgumentParser(description="How bright and how sharp training people are.")
    parser.add_argument("data", type=Path, help="folder of slices, as prepare writes it")
    people = load_split(parser.parse_args().data, "train", CANVAS).slices.reshape(-1, 32, CANVAS, CANVAS)
    found = []
    for person in people:
        stack = person[::_EVERY] + np.float32(0.5)
        inside, brain = stack[stack > 0], np.stack([foreground(level) for level in stack])
        found.append((inside.mean(), np.percentile(inside, 95), sharpness(stack, brain)))
    for name, values in zip(("brightness", "bright", "sharpness"), zip(*found, strict=True), strict=True):
        print(f"{name}: 5th, 50th, 95th percentile {np.percentile(values, [5, 50, 95]).round(3)}")


if __name__ == "__main__":
    _main()
