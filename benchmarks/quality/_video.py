"""The levels of a head as frames of a video: what AV1 and HEVC make of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import NamedTuple, cast

import av
import numpy as np
from tqdm import tqdm

from oasisvq.measure import metrics

# The slowest settings that each offers, on one thread; their quality goes from fine to coarse. HEVC is tuned for SSIM,
# AV1 for PSNR: its tuning for SSIM (tune=2) has the lower SSIM on these slices.
SETTINGS: dict[str, tuple[str, dict[str, str], str, tuple[int, ...]]] = {
    "AV1 (SVT-AV1, preset 0)": (
        "libsvtav1",
        {"preset": "0", "svtav1-params": "tune=1:lp=1"},
        "crf",
        (30, 36, 42, 48, 54, 60, 63),
    ),
    "HEVC (x265, placebo)": (
        "libx265",
        {"preset": "placebo", "tune": "ssim", "x265-params": "log-level=none:info=0:pools=1"},
        "crf",
        (22, 26, 30, 34, 38, 42, 46),
    ),
}


class Point(NamedTuple):
    """Means over people at one quality: bytes a slice, SSIM, and SSIM over the brain."""

    quality: int
    bytes: float
    ssim: float
    ssim_foreground: float


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """Gives this thread back the scheduling that it had.

    Run by root, SVT-AV1 makes the thread that opens it a real-time one of the highest priority, and so every process
    that this one starts later.
    """
    if not hasattr(os, "sched_getscheduler"):  # beyond Linux, where SVT-AV1 does no such thing
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


@usual_scheduling()
def code(frames: np.ndarray, encoder: str, options: dict[str, str]) -> tuple[int, np.ndarray]:
    """Frames (L, S, S) in [0, 1] through a codec: bytes of its packets, with no container, and frames (L, S, S)."""
    count, height, width = frames.shape
    writer = cast(av.VideoCodecContext, av.CodecContext.create(encoder, "w"))
    writer.width, writer.height, writer.pix_fmt, writer.time_base = width, height, "yuv420p", Fraction(1, 25)
    writer.options = options
    packets = []
    for i, grey in enumerate(np.round(frames * 255).astype(np.uint8)):
        planes = np.full((height * 3 // 2, width), 128, np.uint8)  # both colour planes are neutral
        planes[:height] = grey
        frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
        frame.pts, frame.color_range = i, 2
        packets += writer.encode(frame)
    packets += writer.encode(None)
    decoder = "libdav1d" if encoder == "libsvtav1" else "hevc"
    reader = cast(av.VideoCodecContext, av.CodecContext.create(decoder, "r"))
    if encoder == "libsvtav1":
        reader.extradata = writer.extradata
    decoded = [frame for packet in [*packets, None] for frame in reader.decode(packet)]
    grey = np.stack([frame.to_ndarray(format="yuv420p")[:height] for frame in decoded])
    assert len(grey) == count
    return sum(packet.size for packet in packets), grey / 255


def curve(people: np.ndarray, name: str) -> list[Point]:
    """Bytes and similarity at every quality of one codec, over heads (N, L, S, S) in [0, 1]."""
    encoder, options, knob, qualities = SETTINGS[name]
    points = []
    for quality in tqdm(qualities, name, disable=None, leave=False):
        rows = []
        for head in people:
            size, shown = code(head, encoder, {**options, knob: str(quality)})
            both = np.array([metrics.similarity(*pair)[:2] for pair in zip(head, shown, strict=True)])
            rows.append([size / len(head), *both.mean(0)])
        points.append(Point(quality, *np.mean(rows, axis=0).tolist()))
    return points
