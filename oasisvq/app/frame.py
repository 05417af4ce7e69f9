"""What stands round every page: the page map, the banner, the title, the sidebar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.navigation.page import Page

from oasisvq.app import wording
from oasisvq.app.models import DEFAULT, Choice, belongings, choices, hub, let_go, load_model
from oasisvq.errors import OasisVQError

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from oasisvq.hub.background import Fetch
    from oasisvq.pipeline import OasisVQ

_STYLE = Path(__file__).with_name("frame.css")
_FRAMED = "the frame of this run stands"
_CHOSEN, _BEFORE = "the chosen model", "the model before"


def navigation() -> Page:
    """The page map. Returns the page that the browser asks for."""
    # Before the map: else the browser would fetch the page's icon from a font server, to put it on the tab.
    st.set_page_config(page_title="oasisvq", page_icon="🧠", layout="wide")
    return st.navigation(
        [
            st.Page("pages/home.py", title="Home", icon=":material/home:", default=True),
            st.Page("pages/reconstruct.py", title="Reconstruct", icon=":material/compare:"),
            st.Page("pages/generate.py", title="Generate", icon=":material/draw:"),
            st.Page("pages/edit_codes.py", title="Edit codes", icon=":material/grid_on:"),
            st.Page("pages/surprise.py", title="Surprise", icon=":material/thermostat:"),
            st.Page("pages/model_card.py", title="Model card", icon=":material/description:"),
        ]
    )


def frame(page: Page) -> None:
    """Banner, title, and a place in the sidebar: what can be shown before torch is imported and weights are read."""
    st.html(_STYLE)
    banner = st.empty()
    banner.warning(f"**{wording.DISCLAIMER}**", icon=":material/science:")
    st.title(wording.TITLE if page.title == "Home" else page.title)
    st.session_state[_FRAMED] = (banner, st.sidebar.container(), st.empty())


def model_in_frame() -> OasisVQ:
    """The model, for a page, and what the frame says about it. Ends the run with one line when there are no weights.

    A page that Streamlit runs without its frame is run again, in the frame: until `st.navigation` is first called,
    Streamlit takes `pages/` for an app of the older kind, and the first tab that asks a fresh server for a page by its
    address would get it bare.
    """
    places = st.session_state.pop(_FRAMED, None)
    if places is None:
        navigation()
        st.rerun()
    banner, sidebar, below_title = places
    try:
        with below_title, st.spinner("Loading the weights …"):
            name = _choose(sidebar, choices())
            model = load_model() if name == DEFAULT else load_model(name)  # the cache takes () and ("") for two models
    except OasisVQError as error:
        st.error(f"There are no weights to work with: {error}", icon=":material/error:")
        with sidebar:
            _coming()
        st.stop()
    with sidebar:
        model = _in_use(name, model)
        about(model)
    banner.warning(f"**{wording.DISCLAIMER}** {wording.saw(model.info['data'])}", icon=":material/science:")
    return model


def _choose(sidebar: DeltaGenerator, known: Mapping[str, Choice]) -> str:
    """The selector of models, where there is a choice."""
    options = list(known)
    if len(options) == 1:
        return DEFAULT
    # Each page has a selector of its own, which begins where that of the page before stood, or where a link leads.
    wanted = st.query_params.get("weights") or "-"
    linked = (name for name, choice in known.items() if choice.sha256.startswith(wanted))
    kept: str = next(linked, st.session_state.get(_CHOSEN, DEFAULT))
    name: str = sidebar.selectbox(
        "Model",
        options,
        index=options.index(kept) if kept in known else 0,
        format_func=lambda option: known[option].label,
        key="model",
        help="Finer grids keep more of a slice. Codes of one model mean nothing to another.",
    )
    st.session_state[_CHOSEN] = name
    return name


def _in_use(name: str, model: OasisVQ) -> OasisVQ:
    """The model for this session: that of before as long as something made with it would be lost unasked."""
    name_before, before = st.session_state.get(_BEFORE, (name, model))
    now = model.info["files"]["vqvae.safetensors"]["sha256"]
    if before.info["files"]["vqvae.safetensors"]["sha256"] != now:
        if name == name_before and belongings():
            st.info("Other weights have come from the Hub.")
            if not st.button("Use them", help="What you made with those in use is let go: it means nothing to others."):
                return before
        if let_go():
            st.toast("Codes and draws made with the other model were let go: they mean nothing to this one.")
    st.session_state[_BEFORE] = (name, model)
    return model


def about(model: OasisVQ) -> None:
    """Which weights are shown, and on what they run."""
    info = model.info
    st.caption(f"**Device** {info['device']}")
    st.caption(f"**Weights** {info['preset']['name']}, {wording.SOURCES[info['source']]}")
    if info["repo"]:
        st.caption(f"**Repository** {info['repo']}")
    sha256 = info["files"]["vqvae.safetensors"]["sha256"]
    st.caption(f"**Revision** {info['revision'][:12]}" if info["revision"] else f"**SHA-256** {sha256[:12]}")
    for note in info["notes"]:
        st.caption(f":material/info: {note}")
    _coming()


def _coming() -> None:
    """Says so, where weights are on their way from the Hub."""
    if (fetch := hub()) is not None and fetch.status:
        _on_its_way(fetch)


@st.fragment(run_every=2)
def _on_its_way(fetch: Fetch) -> None:
    """What is being fetched from the Hub, until it is here: then the page is run again, with it."""
    if not fetch.status:
        st.rerun()
    st.caption(f":material/cloud_download: {fetch.status}")
