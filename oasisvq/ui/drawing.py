"""Drawing in front of the user's eyes: the sampler's steps as pictures that grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from oasisvq.pipeline import OasisVQ
from oasisvq.ui.models import load_palette, turn
from oasisvq.ui.pictures import SYNTHETIC, marked, png
from oasisvq.ui.wording import provenance

PAUSE = 0.1  # seconds between two pictures inside a row


class Growing(NamedTuple):
    """A draw under way.

    Attributes:
        pictures: (n, S, S) in [0, 1].
        indices: (n, h, w), background where nothing is drawn yet.
        known: bool (h, w), the cells that are drawn.
        entropy: (n,) bits by which the code just drawn was open.
        seconds_left: until all are drawn, at the pace so far.
    """

    pictures: NDArray[np.floating]
    indices: NDArray[np.int64]
    known: NDArray[np.bool_]
    entropy: NDArray[np.float64]
    seconds_left: float


class Drawn(NamedTuple):
    """A finished draw: codes (h, w), the marked picture as PNG, bits under the prior, and what it was asked with."""

    indices: NDArray[np.int64]
    file: bytes
    bits: float
    settings: Mapping[str, Any]


def draw(model: OasisVQ, count: int, settings: Mapping[str, Any], show: Callable[[Growing], None]) -> list[Drawn]:
    """Draw `count` slices with the settings of `OasisVQ.sample`, calling `show` at least once a row of the grid.

    What `show` raises ends the draw; between steps others get their turn.
    """
    background = load_palette().background
    grid = model.preset.grid
    started = shown = time.monotonic()

    with turn() as pass_on:

        def step(position: int, indices: Tensor, entropy: Tensor) -> None:
            nonlocal shown
            pass_on()
            done = position + 1
            if done % grid and time.monotonic() - shown < PAUSE:
                return
            known = (np.arange(grid * grid) < done).reshape(grid, grid)
            codes = indices.cpu()
            so_far = codes.where(codes.new_tensor(known).bool(), background)
            pictures = model.decode(so_far)[:, 0].numpy() + 0.5
            left = (time.monotonic() - started) * (grid * grid - done) / done
            show(Growing(pictures, so_far.numpy(), known, entropy.cpu().numpy(), left))
            shown = time.monotonic()

        coded = model.sample(count, **settings, on_step=step)
        bits = model.surprise(coded.indices, settings["level"], settings["grade"]).sum((1, 2)).tolist()
    drawn = []
    for i, (codes, picture, cost) in enumerate(
        zip(coded.indices.numpy(), coded.slices[:, 0].numpy(), bits, strict=True)
    ):
        asked = dict(settings) | {"draw": i}
        file = png(marked(picture + 0.5, SYNTHETIC), provenance(model.info, SYNTHETIC) | asked)
        drawn.append(Drawn(codes, file, cost, asked))
    return drawn
