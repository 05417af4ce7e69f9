"""How long people wait for the app, in a real browser on a fresh server.

    python -m oasisvq benchmark app --json app.json

First paint counts from the moment that the server's health check answers: until the banner and the title of the first
page stand, and until the page is complete. A page change is warm: the page was open before. A stroke counts from the
moment that it is sent (when it ends, or 60 ms after it began) until the server's picture is drawn. Needs Playwright and
Chromium.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._parser import new_parser
from oasisvq import OasisVQ
from oasisvq.app.guard import THEME
from oasisvq.errors import OasisVQError
from oasisvq.files import HOME
from oasisvq.measure.record import write_record

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGES = {
    "Home": "Brain slices as discrete codes",
    "Reconstruct": "Reconstruct",
    "Generate": "Generate",
    "Draw a head": "Draw a head",
    "Edit codes": "Edit codes",
    "Surprise": "Surprise",
    "Real or drawn?": "Real or drawn?",
    "Model card": "Model card",
}
STROKES = 15
PATIENCE = 60.0  # seconds from its start to its first answer
DESKTOP = {"width": 1440, "height": 900}

# As somebody who chose "System" in the menu, so that a tab follows the colour scheme that it is given.
FOLLOW_SYSTEM = f"""localStorage.setItem("{THEME}", '"System"')"""

# What `python -m streamlit` does, on the weights in a folder.
WITH_WEIGHTS = """
import sys, pathlib
from oasisvq.hub import sources
from streamlit.web.cli import main
sources.BUNDLED = pathlib.Path(sys.argv.pop(1))
main()
"""

# Milliseconds from the first moment with a stroke on its way to the picture with none.
WATCH = """() => {
    const host = [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')].find(h => h.shadowRoot);
    const canvas = host.shadowRoot.querySelector('canvas.picture');
    window.strokes = [];
    let start = null;
    new MutationObserver(() => {
        if (canvas.dataset.pending !== '0') start ??= performance.now();
        else if (start !== null) { window.strokes.push(performance.now() - start); start = null; }
    }).observe(canvas, {attributes: true, attributeFilter: ['data-pending']});
}"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], port: int, cwd: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a command that serves the app on a port, from when it is healthy; what it says goes to `log`.

    Raises OasisVQError with the end of the log when it does not start.
    """
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://localhost:{port}/_stcore/health")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() - started > PATIENCE:
                    raise OasisVQError(f"the app did not start: {log.read_text()[-500:]}") from None
                time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def serve(log: Path, bundled: Path | None = None) -> Iterator[str]:
    """Address of a fresh server of the app; `bundled` takes the place of the folder of bundled weights."""
    port = free_port()
    start = ["-m", "streamlit"] if bundled is None else ["-c", WITH_WEIGHTS, str(bundled)]
    options = ["--server.port", str(port), "--server.headless", "true"]
    with running([sys.executable, *start, "run", "app.py", *options], port, HOME, log):
        yield f"http://localhost:{port}"
    assert "Traceback" not in log.read_text(), log.read_text()


SETTLED = """() => document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'
    && !document.querySelector('[data-testid=stSkeleton]')"""


def settle(tab: Any) -> None:
    """Wait until the server has nothing more to say, and all that it said is on the page."""
    tab.wait_for_function(SETTLED, timeout=120_000)


def page_link(tab: Any, title: str) -> Any:
    """The link to a page at the top."""
    return tab.locator(".st-key-nav").get_by_text(title, exact=True)


def visit(tab: Any, title: str) -> None:
    """Open a page by its link."""
    page_link(tab, title).click()
    tab.get_by_role("heading", name=PAGES[title], level=1).wait_for()
    settle(tab)


def first_paint(browser: Any, address: str) -> tuple[float, float]:
    """Seconds until banner and title stand, and until the page is complete, in a fresh tab."""
    started = time.monotonic()
    tab = browser.new_page(viewport=DESKTOP)
    tab.goto(address)
    tab.get_by_role("heading", name=PAGES["Home"], level=1).wait_for(timeout=60_000)
    tab.get_by_text("not for diagnosis").first.wait_for()
    painted = time.monotonic() - started
    tab.get_by_text("Trained on").first.wait_for(timeout=60_000)
    settle(tab)
    complete = time.monotonic() - started
    tab.close()
    return painted, complete


def page_changes(tab: Any) -> list[float]:
    """Seconds from the click on a link to the title of its page, pages open before."""
    for title in PAGES:
        visit(tab, title)
    seconds = []
    for title in PAGES:
        started = time.monotonic()
        page_link(tab, title).click()
        tab.get_by_role("heading", name=PAGES[title], level=1).wait_for()
        seconds.append(time.monotonic() - started)
        settle(tab)
    return seconds


def strokes(tab: Any) -> list[float]:
    """Seconds from a stroke to its picture, one after the other."""
    visit(tab, "Edit codes")
    tab.locator("canvas.picture").wait_for()
    settle(tab)
    box = tab.locator("canvas.picture").bounding_box()
    tab.evaluate(WATCH)
    for i in range(STROKES):
        at = box["width"] * (0.2 + 0.6 * i / STROKES)
        tab.mouse.move(box["x"] + at, box["y"] + box["height"] * 0.4)
        tab.mouse.down()
        tab.mouse.move(box["x"] + at, box["y"] + box["height"] * 0.5)
        tab.mouse.up()
        tab.wait_for_function("count => window.strokes.length > count", arg=i)
        settle(tab)
    return [ms / 1000 for ms in tab.evaluate("window.strokes")]


def measure(browser: Any, folder: Path, starts: int) -> dict[str, Any]:
    """Every figure, in seconds."""
    painted, complete = [], []
    for i in range(starts):
        with serve(folder / f"log{i}") as address:
            seconds = first_paint(browser, address)
            painted.append(seconds[0])
            complete.append(seconds[1])
            if i == starts - 1:
                tab = browser.new_page(viewport=DESKTOP)
                tab.goto(address)
                tab.get_by_role("heading", name=PAGES["Home"], level=1).wait_for()
                changes, painting = page_changes(tab), strokes(tab)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "starts": starts,
        "first_paint_s": statistics.median(painted),
        "first_page_complete_s": statistics.median(complete),
        "page_change_s": statistics.median(changes),
        "page_change_slowest_s": max(changes),
        "strokes": len(painting),
        "stroke_s": statistics.median(painting),
        "stroke_slowest_s": max(painting),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes what was asked for."""
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--starts", type=int, default=3, help="fresh servers to time the first page on (default 3)")
    args = parser.parse_args(arguments)
    if not Path(CHROMIUM).exists():
        parser.exit(2, f"error: no browser at {CHROMIUM}: apt-get install chromium\n")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        figures = measure(browser, Path(folder), args.starts)
        browser.close()
    for name, value in figures.items():
        print(f"{name:24}{value:8.3f}" if isinstance(value, float) else f"{name:24}{value:8}")
    if args.json:
        served = OasisVQ.from_pretrained(device="cpu").weights_sha256
        write_record(args.json, figures | {"weights_sha256": served})
