"""What stands round every page: the page map, the title, the disclaimer, the choice of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st
from streamlit.navigation.page import Page

from oasisvq.app import address, tour, wording
from oasisvq.app.choose import EXAMPLE, SOURCE
from oasisvq.app.models import DEFAULT, Choice, choices, discard, hub, load_model, session_store
from oasisvq.errors import OasisVQError

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from oasisvq.hub.background import Fetch
    from oasisvq.pipeline import OasisVQ

_STYLE = Path(__file__).with_name("frame.css")
_FRAMED = "the frame of this run stands"
_TOURED = "step of the tour that was arrived at"
_BEFORE, _FOLLOWED = "the model before", "weights of the link followed last"


class PageOf(NamedTuple):
    """A page of the app: its file, title, icon, and the keys that its address may hold."""

    path: str
    title: str
    icon: str
    keys: tuple[str, ...] = ("model",)


PAGES = (
    PageOf("pages/home.py", "Home", ":material/home:"),
    PageOf("pages/reconstruct.py", "Reconstruct", ":material/compare:", ("model", "slice")),
    PageOf(
        "pages/generate.py",
        "Generate",
        ":material/draw:",
        ("model", "seed", "level", "temperature", "top_k", "grade", "slice"),
    ),
    PageOf(
        "pages/draw_a_head.py",
        "Draw a head",
        ":material/stacks:",
        ("model", "seed", "grade", "complete", "slice"),
    ),
    PageOf("pages/edit_codes.py", "Edit codes", ":material/grid_on:", ("model", "slice", "weights")),
    PageOf("pages/surprise.py", "Surprise", ":material/thermostat:", ("model", "case", "map")),
    PageOf("pages/real_or_drawn.py", "Real or drawn?", ":material/quiz:"),
    PageOf("pages/model_card.py", "Model card", ":material/description:"),
)


def navigation() -> Page:
    """The page map. Returns the page that the browser asks for."""
    # Before the map: else the browser would fetch the page's icon from a font server, to put it on the tab.
    st.set_page_config(
        page_title="oasisvq",
        page_icon="🧠",
        layout="wide",
        menu_items={"About": f"**oasisvq.** {wording.DISCLAIMER}"},  # the menu holds the choice of a theme, too
    )
    pages = [st.Page(page.path, title=page.title, icon=page.icon, default=page is PAGES[0]) for page in PAGES]
    return st.navigation(pages, position="hidden")


def link(title: str, label: str) -> None:
    """A link to a page, with what is chosen there."""
    page = page_of(title)
    st.page_link(page.path, label=label, icon=page.icon, query_params=address.of(page.keys))


def page_of(title: str) -> PageOf:
    """The page of this title."""
    return next(page for page in PAGES if page.title == title)


def go_to(title: str) -> None:
    """Leave for another page, with what is chosen there."""
    page = page_of(title)
    st.switch_page(page.path, query_params=address.of(page.keys))


class Links:
    """The links to all pages. They carry what is chosen, which a page may change after they were drawn."""

    def __init__(self, places: list[DeltaGenerator]) -> None:
        self.places = places
        self.shown: list[dict[str, str]] = []
        self.draw()

    def draw(self) -> None:
        """Draw them, if anything has changed."""
        wanted = [address.of(page.keys) for page in PAGES]
        if wanted == self.shown:
            return
        self.shown = wanted
        for place, page, query in zip(self.places, PAGES, wanted, strict=True):
            place.page_link(page.path, label=page.title, query_params=query)


def frame(page: Page) -> Links:
    """Links, title and disclaimer: what can be shown before torch is imported and weights are read."""
    st.html(_STYLE)
    with st.container(horizontal=True, key="nav", gap="small", vertical_alignment="center"):
        with st.container(horizontal=True, key="links", gap="small", width="content"):
            links = Links([st.empty() for _ in PAGES])
        models = st.container(horizontal=True, key="models", width="content", gap="small")
    with st.container(horizontal=True, key="head", gap="small", vertical_alignment="center"):
        st.title(wording.TITLE if page.title == "Home" else page.title, anchor=False, width="content")
        banner = st.empty()
    banner.caption(f":material/science: **{wording.DISCLAIMER}**")
    guide(page.title)
    st.session_state[_FRAMED] = (banner, models, st.empty(), page_of(page.title))
    return links


def guide(title: str) -> None:
    """The line of the tour, on a page that is one of its steps."""
    number = tour.step_in(st.query_params.get("tour"))
    if number is None or tour.STEPS[number].page != title:
        st.session_state.pop(_TOURED, None)
        return
    if st.session_state.get(_TOURED) != number:  # what a step says is of an example
        st.session_state[_TOURED] = number
        st.session_state[SOURCE] = EXAMPLE
        st.session_state["begin"] = False
    with st.container(horizontal=True, key="tour", vertical_alignment="center", gap="small"):
        st.markdown(f"**{number + 1} of {len(tour.STEPS)}** {tour.STEPS[number].say}", width="content")
        if number + 1 < len(tour.STEPS):
            start_tour("Next", number + 1)
        st.page_link(page_of(title).path, label="End the tour", query_params=address.of(page_of(title).keys))


def start_tour(label: str, number: int = 0) -> None:
    """A link to a step of the tour."""
    title, query = tour.address_of(number)
    chosen = address.of(("model",))
    st.page_link(
        page_of(title).path, label=f"**{label}**", icon=":material/arrow_forward:", query_params=chosen | query
    )


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
    banner, models, below_title, page = places
    try:
        with below_title, st.spinner("Loading the weights …"):
            name = _choose(models, choices(), page)
            model = load_model() if name == DEFAULT else load_model(name)  # the cache takes () and ("") for two models
    except OasisVQError as error:
        st.error(f"There are no weights to work with: {error}", icon=":material/error:")
        with models:
            _download_status()
        st.stop()
    with models:
        model = _in_use(name, model)
        with st.popover("", icon=":material/info:", help="About these weights", type="tertiary", key="about"):
            about(model)
    banner.caption(f":material/science: **{wording.DISCLAIMER}** {wording.saw(model.info['data'])}")
    return model


def _choose(place: DeltaGenerator, known: Mapping[str, Choice], page: PageOf) -> str:
    """The selector of models, where there is a choice."""
    options = list(known)
    address.follow("model", DEFAULT, address.one_of(options))
    if st.session_state["model"] not in known:
        st.session_state["model"] = DEFAULT
    vqvae, prior = wanted = st.query_params.get("weights"), st.query_params.get("prior", "")
    if vqvae and wanted != st.session_state.get(_FOLLOWED):  # a link that says which weights it was made with
        st.session_state[_FOLLOWED] = wanted
        linked = [
            name for name, choice in known.items() if choice.vqvae.startswith(vqvae) and choice.prior.startswith(prior)
        ]
        if linked and st.session_state["model"] not in linked:
            st.session_state["model"] = linked[0]
        if not linked and "weights" not in page.keys:  # a page that has the key says so itself
            st.toast(
                "This link was made with weights that are not here: what you see is not what it stood for.",
                icon=":material/link_off:",
                duration="infinite",
            )
    name: str = DEFAULT
    if len(options) > 1:
        name = place.selectbox(
            "Model",
            options,
            format_func=lambda option: known[option].label,
            key="model",
            label_visibility="collapsed",
            help="Finer grids keep more of a slice. The codes of one model mean nothing to another.",
        )
    kept = {} if "weights" in page.keys else {"weights": (None, None), "prior": (None, None)}
    address.tell({"model": (name, DEFAULT)} | kept)
    return name


def _in_use(name: str, model: OasisVQ) -> OasisVQ:
    """The model for this session: that of before as long as something made with it would be lost unasked."""
    name_before, before = st.session_state.get(_BEFORE, (name, model))
    # A prior belongs to one VQ-VAE; two priors may share it.
    now = model.info["files"]["prior.safetensors"]["sha256"]
    if before.info["files"]["prior.safetensors"]["sha256"] != now:
        if name == name_before and session_store():
            st.info("New weights have arrived from the Hub.")
            if not st.button("Use them", help="Discards the codes and slices that you made with the current weights."):
                return before
        if discard():
            st.toast("Codes and slices made with the other model were discarded.")
    st.session_state[_BEFORE] = (name, model)
    return model


def about(model: OasisVQ) -> None:
    """Which weights are shown, and on what they run."""
    info = model.info
    st.caption(f"**Device** {info['device']}")
    st.caption(f"**Weights** {info['preset']['name']}, {wording.SOURCES[info['source']]}")
    grids = " and ".join(f"{rows} × {columns}" for rows, columns in model.preset.parts)
    st.caption(f"**Slices** {model.preset.size} × {model.preset.size} pixels, **codes** {grids}")
    if info["repo"]:
        st.caption(f"**Repository** {info['repo']}")
    sha256 = info["files"]["vqvae.safetensors"]["sha256"]
    st.caption(f"**Revision** {info['revision'][:12]}" if info["revision"] else f"**SHA-256** {sha256[:12]}")
    for note in info["notes"]:
        st.caption(f":material/info: {note}")
    _download_status()


def _download_status() -> None:
    """Shows the download of weights from the Hub, while there is one."""
    if (fetch := hub()) is not None and fetch.status:
        _watch_download(fetch)


@st.fragment(run_every=2)
def _watch_download(fetch: Fetch) -> None:
    """The progress of the download, until it is complete: then the page runs again, with the new weights."""
    if not fetch.status:
        st.rerun()
    st.caption(f":material/cloud_download: {fetch.status}")
