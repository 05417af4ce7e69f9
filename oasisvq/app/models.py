"""The models that all visitors of this server share, what a session keeps of its model, and slots to compute in."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import streamlit as st

from oasisvq.app.slots import Slots, processors
from oasisvq.errors import OasisVQError

if TYPE_CHECKING:  # importing torch would keep a first visitor before a blank page
    from oasisvq.app.palette import Palette
    from oasisvq.hub.background import Fetch
    from oasisvq.pipeline import OasisVQ

DEFAULT = ""  # the model that this server is configured for
_HEADS_WAITING = 4  # to be brought into the frame, beside the one that is
_STORE = "session_store"


class Choice(NamedTuple):
    """A model that a session can choose.

    Attributes:
        label: what the selector shows.
        vqvae, prior: sha256 of both, which links name.
        draws_heads: whether its prior can be given neighbouring levels.
    """

    label: str
    vqvae: str
    prior: str
    draws_heads: bool


@st.cache_resource(show_spinner=False)
def load_model(name: str = DEFAULT) -> OasisVQ:
    """A model of this server: bundled weights by name, or as this server is configured.

    Raises OasisVQError when there are no such weights to be had.
    """
    import torch

    from oasisvq.pipeline import OasisVQ

    # One thread a request: two requests that share threads wait for each other at every layer.
    torch.set_num_threads(1)
    model = OasisVQ.from_pretrained(name or None, wait=False)
    # Streamlit collects garbage after every run. What is loaded by now stays anyway: looking through it each time
    # cost 0.2 s, most of the time from a click to a picture.
    gc.freeze()
    return model


@st.cache_resource(show_spinner=False)
def choices() -> dict[str, Choice]:
    """What a session can choose from: names for `load_model`, the default first.

    Raises OasisVQError when there is no default. Bundled weights that are damaged are left out.
    """
    from oasisvq.hub import sources
    from oasisvq.hub.manifest import read_manifest

    default = load_model().info
    of_hub = default["source"] != "bundled"
    found = {DEFAULT: _choice(default["preset"]["name"] + (" of the Hub" if of_hub else ""), default)}
    for name in sources.bundled():
        if of_hub or name != default["preset"]["name"]:
            try:
                found[name] = _choice(name, read_manifest(sources.BUNDLED / name))
            except OasisVQError:
                continue
    return found


def _choice(name: str, manifest: dict[str, Any]) -> Choice:
    from oasisvq.models.presets import Preset

    preset = Preset.from_dict(manifest["preset"])
    label = f"{name}: {preset.size} px, {preset.codes:,} codes"
    vqvae, prior = (manifest["files"][f"{name}.safetensors"]["sha256"] for name in ("vqvae", "prior"))
    return Choice(label, vqvae, prior, preset.stages[0].prior_neighbours > 0)


def drawer_of_heads(model: OasisVQ) -> OasisVQ | None:
    """A model whose prior can be given neighbouring levels: this one, or one of the same codes, if any."""
    if model.stages[0].prior.near:
        return model
    own = model.info["files"]["vqvae.safetensors"]["sha256"]
    for name, choice in choices().items():
        if choice.draws_heads and choice.vqvae == own:
            with contextlib.suppress(OasisVQError):  # damaged: as if it were not there
                return load_model() if name == DEFAULT else load_model(name)  # the cache takes () and ("") for two
    return None


@st.cache_resource(show_spinner=False)
def hub() -> Fetch | None:
    """The download, in the background, of the Hub's weights that this server is configured for; None if none is needed.

    Once complete they become the default; a session that made something with the default before keeps that model until
    it asks for the new one.
    """
    from oasisvq.hub.background import fetch

    def arrived() -> None:
        load_model.clear()
        choices.clear()

    try:
        in_use = load_model().info["revision"]
    except OasisVQError:  # no weights here: fetch them all the same
        in_use = None
    return fetch(in_use, arrived)


def session_store() -> dict[str, Any]:
    """What this session made with its model: codes, samples, proposals. Discarded when another model is chosen."""
    return st.session_state.setdefault(_STORE, {})


def discard() -> bool:
    """Discard what was made with the previous model. Returns whether there was anything."""
    return bool(st.session_state.pop(_STORE, None))


def load_palette(model: OasisVQ) -> Palette:
    """Every code of a model as a picture; of a cascade those of its last stage."""
    return _load_palette(model.info["files"]["vqvae.safetensors"]["sha256"], len(model.stages), model)


def load_palettes(model: OasisVQ) -> list[Palette]:
    """One for each part of the codes, in the order in which they are drawn."""
    return [load_palette(stage) for stage in model.stages]


@st.cache_resource(show_spinner=False)
def _load_palette(sha256: str, stages: int, _model: OasisVQ) -> Palette:
    from oasisvq.app.palette import make_palette

    with compute_slot(urgent=True):
        return make_palette(_model)


@st.cache_resource(show_spinner=False)
def _slots(what: str, count: int | None = None) -> Slots:
    return Slots(count or processors())


def compute_slot(urgent: bool = False) -> AbstractContextManager[Callable[[], None]]:
    """Hold one of the slots to compute in, see `Slots.slot`."""
    return _slots("models").slot(urgent)


def upload_slot() -> AbstractContextManager[Callable[[], None]]:
    """Hold one of the slots to read an upload, which takes memory: as many as there are processors."""
    return _slots("uploads").slot()


def alignment_slot() -> AbstractContextManager[Callable[[], None]]:
    """Hold the one slot to bring a head into the frame, which takes a gigabyte and a processor.

    Raises OasisVQError when too many wait for it already: each holds its head in memory meanwhile.
    """
    slots = _slots("heads", 1)
    if slots.waiting >= _HEADS_WAITING:
        raise OasisVQError("too many heads wait to be brought into the frame: try again in a minute")
    return slots.slot()
