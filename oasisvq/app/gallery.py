"""The slices that were drawn: eight for all who come, made when the server starts, and those of each session."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from oasisvq.app.drawing import Drawn, Upper
from oasisvq.app.models import session_store
from oasisvq.app.workers import draw_apart
from oasisvq.models.presets import TOP_K

if TYPE_CHECKING:
    from oasisvq.pipeline import OasisVQ

GALLERY = "gallery"  # where a session keeps its draws, newest first
KEPT = 48  # of them
EIGHT = 8  # side by side
PLAIN = {"temperature": 1.0, "top_k": TOP_K, "grade": None}


def fresh(model: OasisVQ, number: int) -> Drawn:
    """One of the EIGHT draws of different levels that this server made when it started, for all who come."""
    return _fresh(model.info["files"]["prior.safetensors"]["sha256"], number, model)


@st.cache_resource(show_spinner=False)
def _fresh(sha256: str, number: int, _model: OasisVQ) -> Drawn:
    level = levels_apart(_model.preset.levels)[number]
    return draw_apart(_model, PLAIN | {"seed": _first_seed() + number, "level": level})


@st.cache_resource(show_spinner=False)
def _first_seed() -> int:
    return secrets.randbelow(100_000)


def draw_once(model: OasisVQ, settings: Mapping[str, Any], upper: Upper | None = None) -> Drawn:
    """The draw with these settings: that of this server or of this session, if there is one, or a new one."""
    if upper is None:
        for number in range(EIGHT):
            if (one := fresh(model, number)).settings == settings:
                return one
    gallery, key = session_store().setdefault(GALLERY, {}), _key(settings, upper)
    if key not in gallery:
        gallery[key] = draw_apart(model, settings, upper)
        for oldest in [*gallery][:-KEPT]:
            del gallery[oldest]
    return gallery[key]


def _key(settings: Mapping[str, Any], upper: Upper | None) -> tuple[object, ...]:
    return (*sorted(settings.items()), *((upper.rows, upper.indices.tobytes()) if upper else ()))


def levels_apart(levels: int) -> list[int]:
    """EIGHT levels spread over the head, the outermost left out."""
    return [round(float(level)) for level in np.linspace(0.1, 0.9, EIGHT) * (levels - 1)]
