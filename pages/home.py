"""Home: a slice grows code by code, and what is behind it in three sentences."""

import math
import secrets

import streamlit as st

from oasisvq.app import wording
from oasisvq.app.frame import link, model_in_frame, start_tour
from oasisvq.app.gallery import EIGHT, PLAIN, draw_once, fresh, levels_apart
from oasisvq.app.models import session_store
from oasisvq.app.player import player
from oasisvq.app.terms import term

SHOWN, ASKED = "draw on Home", "draw to come on Home"

model = model_in_frame()
info, preset = model.info, model.preset


def draw_another() -> None:
    """Ask for a live draw in the place of the one that was ready."""
    level = secrets.choice(levels_apart(preset.levels))
    st.session_state[ASKED] = PLAIN | {"seed": secrets.randbelow(2**31), "level": level}


stage, words = st.columns([13, 7], gap="medium", vertical_alignment="center")
sentences = words.container(key="sentences")
if asked := st.session_state.pop(ASKED, None):
    with words, st.spinner("Drawing another slice …"):  # below the button that asked for it
        session_store()[SHOWN] = draw_once(model, asked)
drawn = session_store().get(SHOWN) or fresh(model, EIGHT // 2)
with stage:
    player(
        model,
        drawn,
        names=(
            "1. The prior draws codes",
            f"2. The decoder turns them into a slice, level {drawn.settings['level']}",
        ),
        low=True,
    )
first, *finer = preset.stages
then = "".join(
    f" {math.prod(first.grid)} coarse codes are drawn first, then {math.prod(fine.grid):,} fine ones, from a codebook "
    f"of {fine.codebook_size}, for texture."
    for fine in finer
)
with sentences:
    st.html(
        f"<p>This slice is of no real person: a model drew it, as you see here. Each cell of the grid is a "
        f"{term('code')} for a small patch, violet for a dark one to yellow for a bright one, from a "
        f"{term('codebook')} of {first.codebook_size} that the model learned.{then}</p>"
        f"<p>The {term('prior')} draws the codes one by one, each to fit those before it. It learned how from "
        f"{info['data']['slices'].get('train', 0):,} slices of {info['data']['people'].get('train', 0):,} people.</p>"
        f"<p>The {term('decoder')} turns the codes into a slice. Scans can be turned into codes, too: then compared, "
        "edited, and searched for what the model did not expect.</p>"
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Draw another", icon=":material/draw:", type="primary", on_click=draw_another)
        start_tour("Take the tour: one minute")

with st.container(key="ways"):
    for column, (title, what) in zip(
        st.columns(4),
        (
            ("Reconstruct", "See what the codes of a slice keep and lose."),
            ("Generate", "Watch new slices grow, code by code."),
            ("Edit codes", "Paint with codes. Widen a ventricle."),
            ("Surprise", "See where a slice surprises the model."),
        ),
        strict=True,
    ):
        with column.container(border=True, height="stretch"):
            link(title, label=f"**{title}**")
            st.caption(what)

with st.expander("More: the mathematics in four lines"):
    st.markdown(wording.MORE)

st.header("What the model learned from")
st.markdown(f"{wording.saw(info['data'])} {info['data']['description']}")

st.header("What was measured")
results = info["results"]
if results:
    st.caption(
        f"On {results['slices']:,} slices of {results['people']} people whom the model never saw (split "
        f"`{results['split']}` of {results['data']['name']})."
    )
    shown = [m for m in wording.MEASURES if m.key in results][:8]
    for row in (shown[:4], shown[4:]):
        for column, measure in zip(st.columns(4), row, strict=False):
            interval = measure.interval(results)
            column.metric(
                measure.label,
                measure.value(results),
                delta=f"95 %: {interval}" if interval else None,
                delta_color="off",
                delta_arrow="off",
                help=measure.meaning,
                border=True,
                height="stretch",
            )
    link("Model card", label="All results and how they were measured")
else:
    st.info("Nothing has been measured with these weights yet.")
st.caption(f"Computed on: {info['device']}.")
