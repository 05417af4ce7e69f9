"""Drawing in front of the user's eyes: the sampler's steps as pictures that grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oasisvq.app.links import Origin, of_draw
from oasisvq.app.models import load_palette, turn, waiting
from oasisvq.app.pictures import SYNTHETIC, marked, png
from oasisvq.app.wording import provenance

if TYPE_CHECKING:
    from torch import Tensor

    from oasisvq.pipeline import OasisVQ

GALLERY = "gallery"  # where a session keeps its finished draws
PAUSE = 0.1  # seconds between two pictures inside a row
SLOW = 0.2  # seconds: pictures that take longer wait at a row's end too, so that most time goes into drawing


class Upper(NamedTuple):
    """What a draw begins from: the first `rows` rows of codes (h, w) of a slice. `example` names a bundled one."""

    indices: NDArray[np.int64]
    rows: int
    example: str | None


class Growing(NamedTuple):
    """A draw under way.

    Attributes:
        pictures: (n, S, S) in [0, 1].
        indices: (n, h, w), background where nothing is drawn yet.
        known: bool (h, w), the cells that are drawn or given.
        entropy: (n, h, w) bits by which each code was open before it was drawn; NaN where none was drawn.
        done, total: codes drawn and to draw, a slice.
        seconds_left: until all are drawn, at the pace so far.
    """

    pictures: NDArray[np.floating]
    indices: NDArray[np.int64]
    known: NDArray[np.bool_]
    entropy: NDArray[np.float64]
    done: int
    total: int
    seconds_left: float


class Drawn(NamedTuple):
    """A finished draw: codes (h, w), the marked picture as PNG, bits under the prior, what it was asked with, and what
    a link may say about it (None: it began from an upload)."""

    indices: NDArray[np.int64]
    file: bytes
    bits: float
    settings: Mapping[str, Any]
    origin: Origin | None


def known_grades(model: OasisVQ) -> list[float]:
    """The grades that these weights tell apart: one that no slice came with during training is still all zeros."""
    rows = model.prior.grade.weight.abs().sum(1)
    return [grade for grade, weight in zip(model.preset.grades, rows.tolist(), strict=False) if weight > 0]


def draw(
    model: OasisVQ,
    count: int,
    settings: Mapping[str, Any],
    show: Callable[[Growing], None],
    upper: Upper | None = None,
) -> list[Drawn]:
    """Draw `count` slices with the settings of `OasisVQ.sample`, calling `show` at least once a row of the grid.

    Where a picture takes longer than SLOW, or others wait, time goes into drawing first, and rows go by unseen.

    What `show` raises ends the draw; between steps others get their turn.
    """
    import torch

    background = torch.from_numpy(load_palette(model).background)
    height, width = model.preset.grid
    rows = upper.rows if upper else 0
    total = (height - rows) * width
    open_by = np.full((count, height, width), np.nan)
    given = mask = None
    if upper:
        given = torch.from_numpy(upper.indices)
        mask = torch.arange(height)[:, None].expand(height, width) >= rows

    with turn() as pass_on:
        started = shown = time.monotonic()
        took = 0.0

        def step(position: int, indices: Tensor, entropy: Tensor) -> None:
            nonlocal shown, took
            pass_on()
            open_by.reshape(count, -1)[:, position] = entropy.cpu().numpy()
            done = position + 1 - rows * width
            begun = time.monotonic()
            pause, others = PAUSE if done % width else 0.0, waiting()
            if took > SLOW or others:
                pause = max(pause, (1 + others) * took)
            if done < total and begun - shown < pause:
                return
            known = (np.arange(height * width) <= position).reshape(height, width)
            codes = indices.cpu()
            so_far = codes.where(torch.from_numpy(known), background)
            pictures = model.decode(so_far)[:, 0].numpy() + 0.5
            left = (time.monotonic() - started) * (total - done) / done
            show(Growing(pictures, so_far.numpy(), known, open_by, done, total, left))
            shown = time.monotonic()
            took = shown - begun

        coded = model.sample(count, **settings, on_step=step, given=given, mask=mask)
        bits = model.surprise(coded.indices, settings["level"], settings["grade"]).sum((1, 2)).tolist()
    drawn = []
    for i, (codes, picture, cost) in enumerate(
        zip(coded.indices.numpy(), coded.slices[:, 0].numpy(), bits, strict=True)
    ):
        asked = dict(settings) | {"draw": i}
        if upper is None:
            origin: Origin | None = of_draw(asked)
        else:
            asked |= {"upper rows": rows}
            origin = of_draw(asked, upper.example, rows) if upper.example else None
        file = png(marked(picture + 0.5, SYNTHETIC), provenance(model.info, SYNTHETIC) | asked)
        drawn.append(Drawn(codes, file, cost, asked, origin))
    return drawn
