"""The slice viewer in the browser (viewer.html, .css, .js): two linked pictures and what is laid over one of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image

from oasisvq.app.choose import SLICE, Chosen
from oasisvq.app.component import component, data_url, packed
from oasisvq.app.pictures import grey_bytes, margin

DIFFERENCE_LIMIT = 0.25  # of the grey range; larger differences show as this
_KEY = "viewer"


class Overlay(NamedTuple):
    """A map that can be laid over a picture.

    Attributes:
        key, label, title: what to call it: to the browser, on its button, in more words.
        low, colours, high: its legend: CSS colours from one end to the other, and what stands at the ends.
        picture: None for "difference" and "similarity", which the browser makes from the pictures.
    """

    key: str
    label: str
    title: str
    low: str
    colours: str
    high: str
    picture: Image.Image | None = None


DIFFERENCE = Overlay(
    "difference",
    "Difference",
    "Where the reconstruction is brighter or darker than the original",
    f"−{DIFFERENCE_LIMIT} darker",
    "rgb(77 163 255), #000, rgb(255 146 46)",
    f"brighter +{DIFFERENCE_LIMIT}",
)
SIMILARITY = Overlay(
    "similarity",
    "SSIM",
    "Where the two are less alike, by structural similarity",
    "SSIM 1, equal",
    "#000, rgb(255 196 77)",
    "0.4 or less",
)


def code_overlay(name: str, colours: NDArray[np.uint8]) -> Overlay:
    """The codes in the colours of `oasisvq.app.pictures.code_colours`."""
    return Overlay(
        name,
        name,
        "The codes from which the reconstruction is made",
        "dark code",
        "#440154, #21918c, #fde725",
        "bright code",
        Image.fromarray(colours, "RGBA"),
    )


_mount = component(__file__)


def viewer(
    page: str,
    chosen: Chosen,
    beside: NDArray[np.floating],
    overlays: Sequence[Overlay],
    names: tuple[str, str],
    mark: str,
    over: Literal["original", "reconstruction"] = "reconstruction",
    first: str = "none",
    similarity: NDArray[np.floating] | None = None,
) -> None:
    """Show a slice and a picture that a model made of it, (S, S) in [0, 1], and maps to lay over one of them.

    Args:
        page: whose choice of an overlay is remembered.
        names: of both pictures. mark: on the second, which is no scan.
        over: which of the two the overlays are laid over. first: the overlay to begin with.
        similarity: the SSIM map (S, S), for that overlay.
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
            "original": packed(grey_bytes(chosen.picture)),
            "reconstruction": packed(grey_bytes(beside)),
            "similarity": "" if similarity is None else packed(grey_bytes(similarity)),
            "page": page,
            "names": names,
            "mark": mark,
            "over": over,
            "first": first,
            "overlays": [
                one._replace(picture=None)._asdict() | {"source": one.picture and _source(one.picture)}
                for one in overlays
            ],
            "limit": DIFFERENCE_LIMIT,
            "edges": chosen.edges,
            "margin": 0.0 if chosen.level is None else margin(np.maximum(chosen.picture, beside)),
        },
        on_slice_change=scrolled,
    )


def _source(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "png")
    return data_url(content.getvalue(), "png")
