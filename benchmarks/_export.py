"""Plotly figures as picture files, for documents: drawn by Chromium, as the browser tests run it."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import unquote

import plotly.graph_objects as go

from benchmarks.system.app import CHROMIUM
from oasisvq.errors import OasisVQError
from oasisvq.files import write_atomically


def export(figure: go.Figure, path: Path, width: int = 1000, height: int = 440) -> None:
    """Write a figure as SVG, or as PNG of twice as many pixels, by the ending of `path`.

    Raises OasisVQError when Playwright or Chromium is missing.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise OasisVQError("figures are drawn with Playwright: pip install -r requirements-dev.txt") from error

    kind = "svg" if path.suffix == ".svg" else "png"
    page_text = figure.update_layout(template="plotly_white").to_html(include_plotlyjs=True, div_id="figure")
    script = f"Plotly.toImage('figure', {{format: '{kind}', width: {width}, height: {height}, scale: 2}})"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.set_content(page_text)
            picture = page.evaluate(script)
            browser.close()
    except Error as error:
        raise OasisVQError(f"figures are drawn with Chromium: {str(error).splitlines()[0]}") from error
    _, encoded = picture.split(",", 1)
    write_atomically(path, base64.b64decode(encoded) if kind == "png" else unquote(encoded).encode())
