"""Surprise: where a slice is unusual for the model, and what the model would have drawn there."""

import numpy as np
import streamlit as st
import torch

from oasisvq.app import figures, wording
from oasisvq.app.choose import choose_slice
from oasisvq.app.frame import model_in_frame
from oasisvq.app.models import turn
from oasisvq.measure.atypical import unusual

BITS, DEVIATIONS = "Bits per code", "Deviation from what was expected"
MEASURES = {BITS: ("bits per code", figures.BITS_LIMIT), DEVIATIONS: ("standard deviations", 8.0)}
SCORES = {BITS: "bits", DEVIATIONS: "unusual"}  # in lesions.json
MOST = 0.25  # of the cells may be drawn again: what is left must say what belongs there

model = model_in_frame()
results, lesions = model.info["results"] or {}, model.info.get("lesions")

st.markdown(wording.UNUSUAL)

chosen = choose_slice(model.preset.size, st.container(horizontal=True, vertical_alignment="center"))
if chosen is None:
    st.stop()
left, right = st.columns(2)
level = left.select_slider(
    "Level of the slice",
    [None, *range(model.preset.levels)],
    value=chosen.level,
    format_func=lambda level: "not given" if level is None else str(level),
    key=f"level of {chosen.source} {chosen.index}",
    help="0 is the lowest. What is expected depends on the level; without it the model goes by the codes alone.",
)
measure = right.segmented_control(
    "Map", list(MEASURES), default=BITS, required=True, key="map", persist_state="session"
)
with turn():
    indices = model.encode(chosen.tensor)
    bits = model.surprise(indices, level=level)[0].numpy()
    depth = model.preset.depth
    of_cells = bits.reshape(len(bits), -1, depth).mean(2).repeat(depth, 1)  # those of a cell alike
    values = of_cells if measure == BITS else unusual(model, chosen.tensor, level)[0].numpy()

columns = st.columns(3)
# Held-out slices were measured both ways: what compares depends on whether the level is told.
beside, percentiles = None, results.get("percentiles", {}).get("bits_per_code")
if level is None and percentiles:
    beside = f"nine of ten held-out slices: {percentiles[5]:.2f} to {percentiles[95]:.2f}"
elif level is not None and "nll_bits_per_code" in results:
    beside = f"held-out {results['nll_bits_per_code']:.2f}, level and rating known"
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
label, limit = MEASURES[measure]
usual = lesions["scores"][SCORES[measure]]["untouched_percentiles"] if lesions else None
columns[2].metric(
    f"Most unusual cell, {label}",
    f"{values.max():.1f}",
    delta=f"held-out slices: {usual['5']:.1f} to {usual['95']:.1f}" if usual else None,
    delta_color="off",
    delta_arrow="off",
    help="Unusual for this model. The range is that of the highest cell in nine of ten slices of held-out people, "
    "their level told.",
    border=True,
    height="stretch",
)

least, seed_column = st.columns([3, 1], vertical_alignment="bottom")
ordinary = float(np.quantile(values, 1 - MOST))
mark = least.slider(
    f"Draw again where the map is above ({label})",
    0.0,
    limit,
    round(float(np.quantile(values, 0.97).clip(0, limit)), 1),
    0.1,
    key=f"mark {measure} {chosen.source} {chosen.index}",
    help=f"At most a quarter of the cells: here, those above {ordinary:.1f}.",
)
seed = seed_column.number_input("Seed", 0, 2**31 - 1, 0, key="seed of the region")
region = (values > mark) & (values >= ordinary)
again = None
if region.any():
    with turn(), st.spinner("Drawing the region again …"):
        filled = model.refill(indices, torch.from_numpy(region), seed=seed, level=level)
    again = filled.slices[0, 0].numpy() + 0.5

panels = figures.surprise(chosen.picture, values, label, limit, region, again)
told = (
    chosen.name,
    f"Heat map of {label} over the slice, bright where unusual for this model",
    "The slice with the outlined region drawn again; synthetic",
)
for column, (title, figure), alt in zip(st.columns(len(panels)), panels.items(), told, strict=False):
    column.markdown(f"**{title}**")
    column.plotly_chart(figure, key=title, config={"displaylogo": False}, alt=alt)
st.caption(
    f"{chosen.name}. The scale is the same for every slice, 0 to {limit:.0f} {label}; more shows as the brightest "
    "colour. When a code is scored only those above and to the left of it are known, so something new scores highest "
    "where it begins. The white line is the outline of the slice. **Blue: drawn again** by the PixelCNN to fit the "
    f"rest, {region.sum()} of {region.size} cells: what this model would have expected there, nobody's anatomy."
)
if depth > 1:
    st.caption(f"{wording.SIDE_BY_SIDE.format(depth=depth)} The map shows their mean.")
with st.expander("More: the two maps"):
    st.markdown(wording.MORE_UNUSUAL)

if lesions:
    st.header("How well it finds lesions that were painted in")
    st.markdown(
        f"Discs, bright, dark, displaced or missing tissue, were painted into {lesions['slices']:,} slices of "
        f"{lesions['people']} held-out people. The figure is the chance that a slice with a lesion scores above one "
        "without (AUROC; 0.5 is guessing, 1 is perfect). Real lesions were not tried: this says nothing about a person."
    )
    sizes = list(lesions["scores"]["bits"]["by_size"])
    st.table(
        {"Lesion, pixels across of 80": sizes}
        | {
            name: [f"{lesions['scores'][key]['by_size'][size]['auroc_slice']:.2f}" for size in sizes]
            for name, key in SCORES.items()
        }
    )
    st.caption("From `python -m oasisvq benchmark lesions`.")
