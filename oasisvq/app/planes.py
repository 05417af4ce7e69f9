"""Three planes through a head in the browser (planes.html, .css, .js), linked by a crosshair."""

from __future__ import annotations

from oasisvq.app.component import component, data_url
from oasisvq.app.drawn_head import DrawnHead
from oasisvq.app.pictures import SYNTHETIC
from oasisvq.data.slices import CANVAS

_mount = component(__file__)


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
            "frames": [frame and data_url(frame) for frame in head.frames],
            "drawn": head.drawn,
            "total": head.total,
            "running": head.running,
            "mark": SYNTHETIC,
        },
    )
