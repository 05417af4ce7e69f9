"""The slices that were drawn: eight for all who come, made when the server starts, and those of each session."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from oasisvq.app.drawing import Drawn, Upper
from oasisvq.app.models import session_store
from oasisvq.app.workers import draw_apart
from oasisvq.models.presets import TOP_K

if TYPE_CHECKING:
    from oasisvq.pipeline import OasisVQ

GALLERY, STRIPS = "gallery", "strips"  # where a session keeps its own draws, and those beside them; newest last
KEPT = 48  # of each
EIGHT = 8  # side by side
PLAIN = {"temperature": 1.0, "top_k": TOP_K, "grade": None}


def fresh(model: OasisVQ, number: int) -> Drawn:
    """One of the EIGHT draws of different levels that this server made when it started, for all who come."""
    return _fresh(model.info["files"]["prior.safetensors"]["sha256"], number, model)


def fresh_settings(model: OasisVQ) -> list[dict[str, Any]]:
    """The settings of the EIGHT draws, which may still be under way."""
    levels = levels_apart(model.preset.levels)
    return [PLAIN | {"seed": _first_seed() + number, "level": level} for number, level in enumerate(levels)]


@st.cache_resource(show_spinner=False)
def _fresh(sha256: str, number: int, _model: OasisVQ) -> Drawn:
    return draw_apart(_model, fresh_settings(_model)[number])


@st.cache_resource(show_spinner=False)
def _first_seed() -> int:
    return secrets.randbelow(100_000)


def draw_once(model: OasisVQ, settings: Mapping[str, Any], upper: Upper | None = None) -> Drawn:
    """The draw with these settings: that of this server or of this session, if there is one, or a new one."""
    if upper is None and settings in (eight := fresh_settings(model)):
        return fresh(model, eight.index(dict(settings)))
    found = _kept(settings, upper) or draw_apart(model, settings, upper)
    _keep(GALLERY, _key(settings, upper), found)
    return found


def draw_strip(model: OasisVQ, asked: Sequence[Mapping[str, Any]]) -> list[Drawn]:
    """Draws with these settings, made together where there is none of this server or of this session."""
    eight = fresh_settings(model)
    found = [fresh(model, eight.index(dict(one))) if one in eight else _kept(one) for one in asked]
    missing = [settings for settings, one in zip(asked, found, strict=True) if one is None]
    with ThreadPoolExecutor(len(missing) or 1) as threads:
        new = threads.map(partial(draw_apart, model), missing)
    for settings, one in zip(missing, new, strict=True):
        _keep(STRIPS, _key(settings), one)
    return [one or session_store()[STRIPS][_key(settings)] for settings, one in zip(asked, found, strict=True)]


def _kept(settings: Mapping[str, Any], upper: Upper | None = None) -> Drawn | None:
    key = _key(settings, upper)
    kept = (session_store().get(name, {}) for name in (GALLERY, STRIPS))
    return next((draws[key] for draws in kept if key in draws), None)


def _keep(name: str, key: tuple[object, ...], drawn: Drawn) -> None:
    draws = session_store().setdefault(name, {})
    draws.setdefault(key, drawn)
    for oldest in [*draws][:-KEPT]:
        del draws[oldest]


def _key(settings: Mapping[str, Any], upper: Upper | None = None) -> tuple[object, ...]:
    return (*sorted(settings.items()), *((upper.rows, upper.indices.tobytes()) if upper else ()))


def levels_apart(levels: int) -> list[int]:
    """EIGHT levels spread over the head, the outermost left out."""
    return [round(float(level)) for level in np.linspace(0.1, 0.9, EIGHT) * (levels - 1)]
