"""What stands round every page: the page map, the banner, the sidebar."""

from __future__ import annotations

import streamlit as st
from streamlit.navigation.page import Page

from oasisvq.errors import OasisVQError
from oasisvq.pipeline import OasisVQ
from oasisvq.ui import wording
from oasisvq.ui.models import load_model

_FRAMED = "the frame of this run stands"


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


def frame() -> None:
    """Banner and sidebar. Ends the run with one line when there are no weights."""
    banner = st.empty()
    banner.warning(f"**{wording.DISCLAIMER}**", icon=":material/science:")
    try:
        info = load_model().info
    except OasisVQError as error:
        st.error(f"There are no weights to work with: {error}", icon=":material/error:")
        st.stop()
    banner.warning(f"**{wording.DISCLAIMER}** {wording.saw(info['data'])}", icon=":material/science:")
    sha256 = info["files"]["vqvae.safetensors"]["sha256"]
    with st.sidebar:
        st.caption(f"**Device** {info['device']}")
        st.caption(f"**Weights** {info['preset']['name']}, {wording.SOURCES[info['source']]}")
        if info["repo"]:
            st.caption(f"**Repository** {info['repo']}")
        st.caption(f"**Revision** {info['revision'][:12]}" if info["revision"] else f"**SHA-256** {sha256[:12]}")
        for note in info["notes"]:
            st.caption(f":material/info: {note}")
    st.session_state[_FRAMED] = True


def model_in_frame() -> OasisVQ:
    """The model, for a page. A page that Streamlit runs without its frame is run again, in the frame.

    Until `st.navigation` is first called, Streamlit takes `pages/` for an app of the older kind: the first tab that
    asks a fresh server for a page by its address would get it bare.
    """
    if not st.session_state.pop(_FRAMED, False):
        navigation()
        st.rerun()
    return load_model()
