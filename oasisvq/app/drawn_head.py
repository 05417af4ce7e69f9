"""A whole head, drawn level by level in a thread of its own: its page shows what is there while the rest grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image

from oasisvq.app.codes import Codes
from oasisvq.app.models import compute_slot, session_store
from oasisvq.app.pictures import SYNTHETIC, animated, grey_bytes, marked, webp

if TYPE_CHECKING:
    from torch import Tensor

    from oasisvq.pipeline import OasisVQ

FIRST = {"seed": 0, "grade": None}  # what a bare address shows
_HEAD = "head"  # where a session keeps the one that it looks at
_UNWATCHED = 30.0  # seconds after which a draw ends that nobody looks at


class _Ended(Exception):
    """Raised in a draw to end it."""


class DrawnHead:
    """A head, under way from the moment that it is made until it is whole, or stopped.

    Args:
        model: whose prior knows neighbours.
        settings: of `OasisVQ.sample_head`: seed and grade.
        given: codes, (h, w), of levels to keep.
        link: parameters that draw it again; None: it began from an upload.

    Attributes:
        pictures: of each level, the lowest first: (s, s) in 0 to 255, or None where none is drawn. Those of a cascade
            are small until its finer stage comes to them.
        frames: the same as WebP.
        drawn, total: levels, those of each stage of a cascade counted.
    """

    def __init__(
        self,
        model: OasisVQ,
        settings: Mapping[str, Any],
        given: Mapping[int, Codes],
        link: Mapping[str, object] | None,
    ) -> None:
        self.model, self.settings, self.given, self.link = model, settings, given, link
        levels = model.preset.levels
        self.pictures: list[NDArray[np.uint8] | None] = [None] * levels
        self.frames: list[bytes | None] = [None] * levels
        self.drawn, self.total = 0, (levels - len(given)) * len(model.stages)
        self._failed: Exception | None = None
        self._stop, self._over = threading.Event(), threading.Event()
        self.look()
        threading.Thread(target=self._draw, args=(compute_slot(),), daemon=True).start()

    @property
    def running(self) -> bool:
        """Whether more levels come."""
        return not self._over.is_set()

    @property
    def whole(self) -> bool:
        """Whether all levels are there."""
        return self.drawn == self.total

    @property
    def stopping(self) -> bool:
        """Whether it ends with the level under way."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End with the level under way; what is there is kept."""
        self._stop.set()

    def look(self) -> None:
        """Say that somebody looks at it. Raises what the draw failed with, if it did."""
        self._seen = time.monotonic()
        if self._failed:
            raise self._failed

    def levels(self) -> NDArray[np.float32]:
        """(L, S, S) in [0, 1], black where nothing is drawn."""
        size = self.model.preset.size
        shown = np.zeros((len(self.pictures), size, size), np.float32)
        for level, picture in enumerate(self.pictures):
            if picture is not None:
                image = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
                shown[level] = np.asarray(image, np.float32) / 255
        return shown

    def _draw(self, place: AbstractContextManager[Callable[[], None]]) -> None:
        import torch

        try:
            with place as pass_on:

                def on_level(level: int, slices: Tensor) -> None:
                    self._show(level, slices)
                    self.drawn += 1
                    pass_on()
                    go_on()

                def go_on() -> None:
                    if self._stop.is_set() or time.monotonic() - self._seen > _UNWATCHED:
                        raise _Ended

                go_on()
                given = {level: torch.from_numpy(codes) for level, codes in self.given.items()}
                for level, codes in given.items():
                    self._show(level, self.model.decode(codes[None]))
                self.model.sample_head(**self.settings, given=given, on_level=on_level)
        except _Ended:
            pass
        except Exception as error:  # shown to whoever looks
            self._failed = error
        finally:
            self._over.set()

    def _show(self, level: int, slices: Tensor) -> None:
        picture = slices[0, 0].float().numpy() + np.float32(0.5)
        self.pictures[level], self.frames[level] = grey_bytes(picture), webp(picture)


def head_of(
    model: OasisVQ,
    settings: Mapping[str, Any],
    given: Mapping[int, Codes],
    link: Mapping[str, object] | None,
    again: bool = False,
) -> DrawnHead:
    """The head with these settings: that of this session, or of all for FIRST; begun if there is none, or `again`."""
    kept: DrawnHead | None = session_store().get(_HEAD)
    for_all = _first(model.info["files"]["prior.safetensors"]["sha256"])
    is_first = settings == FIRST and not given
    if kept and kept.model is model and not again and kept.settings == settings and _same(kept.given, given):
        if is_first and kept.whole:
            for_all.setdefault(_HEAD, kept)
        return kept
    if kept:
        kept.stop()
    if is_first and _HEAD in for_all:
        session_store()[_HEAD] = for_all[_HEAD]
    else:
        session_store()[_HEAD] = DrawnHead(model, settings, given, link)
    return session_store()[_HEAD]


def forget_private() -> None:
    """Let go of a head that began from an upload."""
    head: DrawnHead | None = session_store().get(_HEAD)
    if head and head.link is None:
        head.stop()
        del session_store()[_HEAD]


@st.cache_resource(show_spinner=False)
def _first(sha256: str) -> dict[str, DrawnHead]:
    """The head of FIRST, once somebody has had it drawn."""
    return {}


def _same(one: Mapping[int, Codes], other: Mapping[int, Codes]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(codes, other[level]) for level, codes in one.items())


def scroll(head: DrawnHead, side: int = 384, milliseconds: int = 90) -> bytes:
    """Up and down through the levels that are there, as an animated WebP whose every picture carries the mark."""
    there = [level for level, picture in enumerate(head.pictures) if picture is not None]
    levels = head.levels()
    images = [marked(levels[level], SYNTHETIC, side) for level in (*there, *there[-2:0:-1])]
    return animated(images, milliseconds)
