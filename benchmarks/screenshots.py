"""The pictures in README and docs: the pages of the app, and an animation of a slice being drawn and edited.

    python -m oasisvq benchmark screenshots

Taken in Chromium from a fresh server on the shipped weights. They show only slices that the model drew, Colin 27, the
template and phantoms. Needs Playwright and Chromium.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._parser import new_parser
from benchmarks.system.app import CHROMIUM, FLAGS, PAGES, serve, settle, visit
from oasisvq.app.pictures import animated
from oasisvq.files import HOME, write_atomically

WIDTH = 960  # pixels, of the animation
FRAMES = 49  # of a slice that is drawn
DRAW = "generate?seed=7&level=17"
SHOTS = {
    "reconstruct": "reconstruct",
    "generate": DRAW,
    "edit-codes": "edit_codes",
    "surprise": "surprise",
}
NO_STROKE_ON_ITS_WAY = """() => [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
    .find(host => host.shadowRoot).shadowRoot.querySelector('canvas.picture').dataset.pending === '0'"""

Frame = tuple[Image.Image, int]  # and milliseconds


def shot(tab: Any) -> Image.Image:
    return Image.open(io.BytesIO(tab.screenshot())).convert("RGB")


def pages(tab: Any, address: str) -> Iterator[tuple[str, Image.Image]]:
    """Every page of SHOTS as it comes; Generate in the middle of a draw, Edit codes with an edit."""
    for name, path in SHOTS.items():
        tab.goto(f"{address}/{path}")
        tab.get_by_role("heading", level=1).wait_for(timeout=60_000)
        settle(tab)
        if name == "generate":
            draw_to(tab, 0.7)
        if name == "edit-codes":
            widen(tab)
        tab.mouse.move(0, 0)
        tab.wait_for_timeout(1000)  # overlays fade in
        yield name, shot(tab)


def draw_to(tab: Any, share: float) -> None:
    """Show a draw as it was when this share of its time had passed; each part of the codes takes the same time."""
    counts = tab.locator(".player").evaluate("player => player.dataset.parts.split(' ').map(Number)")
    ends = np.cumsum([0, *counts])
    done = round(float(np.interp(share * len(counts), range(len(ends)), ends)))
    to = "(range, done) => { range.value = done; range.dispatchEvent(new Event('input')); }"
    tab.locator(".player .place").evaluate(to, done)


def widen(tab: Any) -> None:
    """A prepared edit, and all that is said about it."""
    tab.get_by_role("button", name="Wider ventricles").click()
    tab.wait_for_function("() => !['0', undefined].includes(document.querySelector('.figures b')?.innerText)")
    settle(tab)
    tab.mouse.move(0, 0)


def drawing(tab: Any, address: str) -> Iterator[Frame]:
    """A slice grows, code by code."""
    tab.goto(f"{address}/{DRAW}")
    tab.locator(".player").wait_for(timeout=60_000)
    settle(tab)
    for share in np.linspace(0, 1, FRAMES):
        draw_to(tab, float(share))
        yield shot(tab), 1500 if share == 1 else 110


def editing(tab: Any) -> Iterator[Frame]:
    """Ventricles grow wider, are compared with before, and a stroke is painted."""
    visit(tab, "Edit codes")
    tab.locator("canvas.picture").wait_for()
    settle(tab)
    yield shot(tab), 900
    widen(tab)
    yield shot(tab), 1200
    for percent in (*range(0, 101, 10), *range(90, -1, -10)):
        tab.locator("input.line").fill(str(percent))
        yield shot(tab), 90
    palette, picture = (tab.locator(f"canvas.{name}").bounding_box() for name in ("palette", "picture"))
    tab.mouse.click(palette["x"] + 0.5 * palette["width"], palette["y"] + 0.97 * palette["height"])
    settle(tab)
    way = [(0.3 + 0.04 * i, 0.3 + 0.03 * np.sin(i)) for i in range(11)]
    at = [(picture["x"] + x * picture["width"], picture["y"] + y * picture["height"]) for x, y in way]
    tab.mouse.move(*at[0])
    tab.mouse.down()
    for _, after in pairwise(at):
        tab.mouse.move(*after)
        tab.wait_for_timeout(100)
        tab.wait_for_function(NO_STROKE_ON_ITS_WAY)
        yield shot(tab), 120
    tab.mouse.up()
    tab.mouse.move(0, 0)
    tab.wait_for_timeout(500)
    settle(tab)
    yield shot(tab), 2500


def animation(frames: list[Frame]) -> bytes:
    """WebP that plays for ever."""
    images = [image.resize((WIDTH, round(image.height * WIDTH / image.width)), 1) for image, _ in frames]
    return animated(images, [milliseconds for _, milliseconds in frames], quality=70)


def main(arguments: list[str] | None = None) -> None:
    """Take them all."""
    parser = new_parser(__name__, __doc__, None)
    parser.add_argument("--out", type=Path, default=HOME / "docs", help="folder (default: docs)")
    args = parser.parse_args(arguments)
    if not Path(CHROMIUM).exists():
        parser.exit(2, f"error: no browser at {CHROMIUM}: apt-get install chromium\n")
    from playwright.sync_api import sync_playwright

    args.out.mkdir(parents=True, exist_ok=True)
    with (
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as folder,
        serve(Path(folder) / "log") as address,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page()
        tab.set_viewport_size({"width": 1440, "height": 900})
        tab.goto(address)
        tab.get_by_role("heading", name=PAGES["Home"], level=1).wait_for(timeout=60_000)
        found = {f"{name}.webp": webp(image) for name, image in pages(tab, address)}
        tab.set_viewport_size({"width": 1280, "height": 720})
        found["demo.webp"] = animation([*drawing(tab, address), *editing(tab)])
        browser.close()
    for name, content in found.items():
        write_atomically(args.out / name, content)
        print(f"{name:18} {len(content) / 1e6:5.2f} MB")


def webp(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "webp", quality=88, method=6)
    return content.getvalue()
