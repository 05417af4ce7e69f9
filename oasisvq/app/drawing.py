"""Drawing: slices from the prior, with what a browser needs to play how it grew.

The whole slice is computed first and played afterwards, so that no visitor waits for the pictures of another.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oasisvq.app.codes import below
from oasisvq.app.links import Origin, of_draw
from oasisvq.app.models import compute_slot, load_palette, load_palettes
from oasisvq.app.pictures import SYNTHETIC, animated, grey_bytes, marked, webp

if TYPE_CHECKING:
    from torch import Tensor

    from oasisvq.pipeline import OasisVQ

STOPS = 5  # decoded pictures of a part under way


class Upper(NamedTuple):
    """What a draw begins from: the first `rows` rows of cells of a slice's codes. `example` names a bundled one."""

    indices: NDArray[np.int64]
    rows: int
    example: str | None


class Drawn(NamedTuple):
    """A finished draw and how it grew.

    Attributes:
        indices: (h, w), all codes.
        picture: (S, S) in 0 to 255.
        frames: WebP of the picture at each stop, the finished one last.
        at: how many codes were there at each stop. What comes between two stops is drawn over the one before, cell by
            cell.
        entropy: (h * w,) bits, of the distribution that each code was sampled from; NaN where it was given.
        settings: of the request.
        origin: what a link may hold about it; None if it began from an upload.
    """

    indices: NDArray[np.int64]
    picture: NDArray[np.uint8]
    frames: tuple[bytes, ...]
    at: tuple[int, ...]
    entropy: NDArray[np.float64]
    settings: Mapping[str, Any]
    origin: Origin | None

    @property
    def id(self) -> str:
        """Distinguishes it from any other draw."""
        return hashlib.sha256(self.indices.tobytes()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Its settings in words."""
        chosen = {key: value for key, value in self.settings.items() if value is not None}
        return ", ".join(f"{key.replace('_', '-')} {value}" for key, value in sorted(chosen.items()))


def known_grades(model: OasisVQ) -> list[float]:
    """The grades that these weights tell apart: one that no slice came with during training is still all zeros."""
    rows = model.prior.grade.weight.abs().sum(1)
    return [grade for grade, weight in zip(model.preset.grades, rows.tolist(), strict=False) if weight > 0]


def draw(model: OasisVQ, asked: Sequence[Mapping[str, Any]], upper: Upper | None = None) -> list[Drawn]:
    """Draw slices together, each with its own settings of `OasisVQ.sample`: seed, level, temperature, top_k and grade.

    Temperature and top_k are those of all, as is whether a level is given. A slice is the same in any company.
    """
    import torch

    preset = model.preset
    given = mask = None
    entropy = np.full((len(asked), preset.codes), np.nan)
    load_palettes(model)  # which takes a slot itself
    with compute_slot() as give_way:
        if upper:
            given, mask = torch.from_numpy(upper.indices), torch.from_numpy(below(preset, upper.rows))

        def step(position: int, _: Tensor, bits: Tensor) -> None:
            give_way()
            entropy[:, position] = bits.cpu().numpy()

        levels = [settings["level"] for settings in asked]
        coded = model.sample(
            len(asked),
            seed=[settings["seed"] for settings in asked],
            temperature=asked[0]["temperature"],
            top_k=asked[0]["top_k"],
            level=None if levels[0] is None else levels,
            grade=[settings["grade"] for settings in asked],
            on_step=step,
            given=given,
            mask=mask,
        )
        pictures = coded.slices[:, 0].numpy() + np.float32(0.5)
        grown = [growth(model, coded.indices[i, None], picture) for i, picture in enumerate(pictures)]
    found = []
    for settings, indices, picture, (at, frames), bits in zip(
        asked, coded.indices.numpy(), pictures, grown, entropy, strict=True
    ):
        own = dict(settings) | ({"upper rows": upper.rows} if upper else {})
        origin: Origin | None = of_draw(own | {"draw": 0})
        if upper:
            origin = of_draw(own | {"draw": 0}, upper.example, upper.rows) if upper.example else None
        small = tuple(webp(frame) for frame in frames)
        found.append(Drawn(indices, grey_bytes(picture), small, at, bits, own, origin))
    return found


def growth(
    model: OasisVQ, indices: Tensor, finished: NDArray[np.floating]
) -> tuple[tuple[int, ...], tuple[NDArray[np.floating], ...]]:
    """The slice of `indices` (1, h, w) as it looks on the way: numbers of codes, and pictures (S, S) in [0, 1].

    A single part is decoded with the background where no code is yet. Of two, the first is shown as it decodes alone;
    the second ends in the finished slice.
    """
    if model.coarse is None:
        at, frames = _rows_appear(model, indices)
        return tuple(at), (*frames[:-1], finished)
    at, frames = _rows_appear(model.coarse, model.preset.split(indices)[0])
    return (*at, model.preset.codes), (*(_enlarged(frame, len(finished)) for frame in frames), finished)


def _rows_appear(model: OasisVQ, indices: Tensor) -> tuple[list[int], list[NDArray[np.floating]]]:
    """Codes (1, h, w) decoded with their first rows only, some rows more each time, and all of them at last."""
    import torch

    background = torch.from_numpy(load_palette(model).background)
    height, width = indices.shape[1:]
    step = -(-height // STOPS)
    stops = [*range(step, height, step), height]
    known = torch.arange(height)[:, None] < torch.tensor(stops)[:, None, None]  # (stops, h, 1)
    pictures = model.decode(indices.where(known, background))[:, 0].numpy() + np.float32(0.5)
    return [stop * width for stop in stops], list(pictures)


def _enlarged(picture: NDArray[np.floating], side: int) -> NDArray[np.floating]:
    image = Image.fromarray(grey_bytes(picture)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 255


def animation(drawn: Drawn, side: int = 320, milliseconds: int = 180) -> bytes:
    """How the slice grew, as an animated WebP whose every picture carries the mark; the finished one stays for 2 s."""
    pictures = [np.asarray(Image.open(io.BytesIO(frame)).convert("L")) / 255 for frame in drawn.frames]
    if drawn.at[-1] - drawn.at[-2] > drawn.at[0]:  # a finer part, which covers the coarse one from the top
        *before, coarse, finished = pictures
        cuts = np.linspace(0, len(finished), 2 * STOPS + 1)[1:-1].round().astype(int)
        pictures = [*before, coarse, *(np.concatenate([finished[:cut], coarse[cut:]]) for cut in cuts), finished]
    images = [marked(picture, SYNTHETIC, max(side, len(picture))) for picture in pictures]
    return animated(images, [*[milliseconds] * (len(images) - 1), 2000])
