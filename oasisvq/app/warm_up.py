"""What the server does before its first visitor: import torch, read the weights, start workers, draw a few slices."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from streamlit.starlette import App

from oasisvq.errors import OasisVQError


@asynccontextmanager
async def warm_up(_: App) -> AsyncIterator[None]:
    """Lifespan of the app: the server answers at once, and gets ready behind the scenes."""
    threading.Thread(target=_get_ready, daemon=True).start()
    yield
    from oasisvq.app import workers

    workers.stop()


def _get_ready() -> None:
    from oasisvq.app.models import load_model, load_palettes

    try:
        model = load_model()
        load_palettes(model)
    except OasisVQError:
        return  # the page says so, to whoever opens it
    # Imported here so that no visitor waits for them.
    from oasisvq.app import charts, choose, gallery, pictures, workers  # noqa: F401
    from oasisvq.measure import metrics  # noqa: F401

    gallery.fresh(model, gallery.EIGHT // 2)  # which Home shows: before the workers ask for processors
    workers.start()
    with ThreadPoolExecutor() as threads:
        threads.map(lambda number: gallery.fresh(model, number), range(gallery.EIGHT))
    # Streamlit collects garbage after each run of a page: it need not look through what the server keeps for good.
    gc.collect()
    gc.freeze()
