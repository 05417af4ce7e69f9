"""The slice viewer in the browser (viewer.html, .css, .js): two linked pictures and what is laid over one of them."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from oasisvq.app.choose import SLICE, Chosen
from oasisvq.app.pictures import grey_bytes

DIFFERENCE_LIMIT = 0.25  # of the grey range; larger differences show as this
_KEY = "viewer"

_HERE = Path(__file__)
_mount = st.components.v2.component(
    "oasisvq_viewer",
    html=_HERE.with_suffix(".html").read_text(),
    css=_HERE.with_suffix(".css").read_text(),
    js=_HERE.with_suffix(".js").read_text(),
)


def viewer(
    chosen: Chosen,
    reconstruction: NDArray[np.floating],
    similarity: NDArray[np.floating],
    codes: NDArray[np.uint8],
) -> None:
    """Show a slice beside its reconstruction (S, S) in [0, 1].

    Their difference, their SSIM map (S, S), or the codes as `code_colours` makes them can be laid over it.
    """

    def scrolled() -> None:  # a callback runs before the page, so that the slider there already stands right
        wanted = st.session_state[_KEY]["slice"]
        if wanted["source"] == chosen.source:
            st.session_state[SLICE] = min(max(int(wanted["index"]), 0), chosen.count - 1) + 1

    _mount(
        key=_KEY,
        data={
            "source": chosen.source,
            "name": chosen.name,
            "index": chosen.index,
            "count": chosen.count,
            "size": len(chosen.picture),
            "original": _packed(chosen.picture),
            "reconstruction": _packed(reconstruction),
            "similarity": _packed(similarity),
            "codes": {
                "rgba": base64.b64encode(codes.tobytes()).decode(),
                "width": codes.shape[1],
                "height": codes.shape[0],
            },
            "limit": DIFFERENCE_LIMIT,
            "edges": chosen.edges,
        },
        on_slice_change=scrolled,
    )


def _packed(picture: NDArray[np.floating]) -> str:
    return base64.b64encode(grey_bytes(picture).tobytes()).decode()
