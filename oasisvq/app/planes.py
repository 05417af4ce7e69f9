"""Three planes through a head in the browser (planes.html, .css, .js), linked by a crosshair."""

from __future__ import annotations

import base64
from pathlib import Path

import streamlit as st

from oasisvq.app.drawn_head import DrawnHead
from oasisvq.app.pictures import SYNTHETIC
from oasisvq.data.slices import CANVAS

_HERE = Path(__file__)
_mount = st.components.v2.component(
    "oasisvq_planes",
    html=_HERE.with_suffix(".html").read_text(),
    css=_HERE.with_suffix(".css").read_text(),
    js=_HERE.with_suffix(".js").read_text(),
)


def planes(head: DrawnHead, name: str) -> None:
    """Show a head as far as it is drawn. `name` says which it is."""
    _mount(
        key="planes",
        data={
            "id": str(id(head)),
            "name": name,
            "size": head.model.preset.size,
            "pixel": CANVAS / head.model.preset.size,
            "start": next(iter(head.given), len(head.frames) // 2),
            "frames": [frame and "data:image/webp;base64," + base64.b64encode(frame).decode() for frame in head.frames],
            "drawn": head.drawn,
            "total": head.total,
            "running": head.running,
            "mark": SYNTHETIC,
        },
    )
