"""Surprise: how many bits the prior needs for each code of a slice."""

import streamlit as st

from oasisvq import figures
from oasisvq.ui import wording
from oasisvq.ui.choose import choose_slice
from oasisvq.ui.frame import model_in_frame
from oasisvq.ui.models import turn

model = model_in_frame()
results = model.info["results"] or {}

st.markdown(wording.UNUSUAL)

chosen = choose_slice(model.preset.size)
if chosen is None:
    st.stop()
level = st.select_slider(
    "Level of the slice",
    [None, *range(model.preset.levels)],
    format_func=lambda level: "not given" if level is None else str(level),
    help="0 is the lowest. What is expected depends on the level; without it the model goes by the codes alone.",
)
with turn():
    bits = model.surprise(model.encode(chosen.tensor), level=level)[0].numpy()

columns = st.columns(3)
# Held-out people were measured with level and rating told: without the level the two would not compare.
told = level is not None and "nll_bits_per_code" in results
beside = f"held-out {results['nll_bits_per_code']:.2f}, level and rating known" if told else None
columns[0].metric(
    "Bits per code",
    f"{bits.mean():.2f}",
    delta=beside,
    delta_color="off",
    delta_arrow="off",
    border=True,
    height="stretch",
)
columns[1].metric("Bits for the slice", f"{bits.sum():,.0f}", border=True, height="stretch")
columns[2].metric(
    "Most unusual code", f"{bits.max():.1f} bits", help="unusual for this model", border=True, height="stretch"
)

st.plotly_chart(
    figures.surprise(chosen.picture, bits),
    key="surprise",
    config={"displaylogo": False, "scrollZoom": True},
    alt=f"{chosen.name}, and over it a heat map of bits per code; bright cells are unusual for this model",
)
st.caption(
    f"{chosen.name}. The scale is the same for every slice, 0 to {figures.BITS_LIMIT:.0f} bits; more shows as the "
    "brightest colour. When a code is scored only those above and to the left of it are known, so something new scores "
    "highest where it begins. The white line is the outline of the slice."
)
