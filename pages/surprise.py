"""Surprise: where a slice is unusual for the model, and what the model expected there."""

import numpy as np
import streamlit as st
import torch

from oasisvq.app import address, charts, edits, wording
from oasisvq.app.choose import choose_slice, remarks
from oasisvq.app.codes import join
from oasisvq.app.expected import Expected
from oasisvq.app.frame import model_in_frame
from oasisvq.app.pictures import SYNTHETIC, heat
from oasisvq.app.surprise_map import surprise_map
from oasisvq.app.terms import GLOSSARY, Figure, in_one_line
from oasisvq.app.viewer import Overlay, viewer
from oasisvq.data.examples import with_lesion
from oasisvq.data.slices import CANVAS

BITS, DEVIATIONS = "Bits per code", "Deviation from what was expected"
MEASURES = {BITS: ("bits per code", charts.BITS_LIMIT), DEVIATIONS: ("standard deviations", 8.0)}
MEANING = {
    BITS: "The highest mean of the bits of a cell.",
    DEVIATIONS: "How far the surprise exceeds what the prior itself expected there, in standard deviations.",
}
SCORES = {BITS: "bits", DEVIATIONS: "unusual"}  # in lesions.json
MOST = 0.25  # of the cells may be drawn again: what is left must say what belongs there

model = model_in_frame()
results, lesions = model.info["results"] or {}, model.info.get("lesions")

row = st.container(horizontal=True, vertical_alignment="center", gap="small", key="chooser")
chosen = choose_slice(model.preset.size, row, key="case", first=with_lesion()[0])
if chosen is None:
    st.stop()
painted = chosen.source == with_lesion()[0]
level = row.select_slider(
    "Level of the slice",
    [None, *range(model.preset.levels)],
    value=chosen.level,
    format_func=lambda level: "level unknown" if level is None else f"given level {level}",
    key=f"level of {chosen.source} {chosen.index}",
    label_visibility="collapsed",
    width=180,
    help=f"{GLOSSARY['level']} What the model expects depends on the level that it is given; without one, it goes "
    "by the codes alone.",
)
more = row.popover("More", icon=":material/tune:")
address.follow("map", DEVIATIONS, address.one_of(MEASURES))
measure = more.segmented_control("Map", list(MEASURES), required=True, key="map", persist_state="session") or DEVIATIONS
address.tell({"map": (measure, DEVIATIONS)})
found = surprise_map(model, chosen.tensor, level, measure == DEVIATIONS)
bits, cells = found.bits, found.cells

label, limit = MEASURES[measure]
ordinary = float(np.quantile(cells, 1 - MOST))
mark = more.slider(
    f"Draw cells again above ({label})",
    0.0,
    limit,
    round(float(np.quantile(cells, 0.97).clip(0, limit)), 1),
    0.1,
    key=f"mark {measure} {chosen.source} {chosen.index}",
    help=f"At most a quarter of the cells is drawn again: in this slice, those above {ordinary:.1f}.",
)
seed = more.number_input("Seed", 0, 2**31 - 1, 0, key="seed of the region", help=GLOSSARY["seed"])
region = (cells > mark) & (cells >= ordinary)
coarse, *finer = model.preset.stages
marked = [np.repeat(region, coarse.depth, 1), *(np.zeros(stage.grid, bool) for stage in finer)]
again_here = torch.from_numpy(edits.beneath(model.preset, join(model.preset, marked)))
expected = Expected(found.indices, again_here, seed, level)
again = expected.picture if region.any() else chosen.picture

if not region.any():
    beside_it = "No cell lies above the limit: nothing was drawn again"
elif again is None:
    beside_it = "Drawing what the model expected …"
else:
    beside_it = "Outlined cells drawn again, as the model expected them"

if found.unlike is not None and found.unlike.unlike:
    st.warning(wording.unlike(found.unlike), icon=":material/rule:")
viewer(
    "Surprise",
    chosen,
    chosen.picture if again is None else again,
    [
        Overlay(
            "unusual",
            "Unusual cells",
            "Bright where the slice is unusual for this model; outlined in blue where it was drawn again",
            "0",
            "#000, #781c6d, #ed6925, #fcffa4",
            f"{limit:.0f} {label} or more",
            heat(cells, limit, region),
        )
    ],
    (
        "Slice with a painted lesion" if painted else "Slice",
        beside_it,
    ),
    SYNTHETIC if region.any() and again is not None else "",
    over="original",
    first="unusual",
)

percentiles = results.get("percentiles", {}).get("bits_per_code")
beside = ""
# Held-out slices were measured both ways: what compares depends on whether the level is given.
if level is None and percentiles:
    beside = f" Nine in ten held-out slices: {percentiles[5]:.2f} to {percentiles[95]:.2f} bits."
elif level is not None and "nll_bits_per_code" in results:
    beside = f" Mean of held-out slices, level and grade given: {results['nll_bits_per_code']:.2f} bits."
usual = lesions["scores"][SCORES[measure]]["untouched_percentiles"] if lesions else None
st.html(
    in_one_line(
        (
            Figure("bits per code", f"{bits.mean():.2f}", GLOSSARY["bits"] + beside),
            Figure("all codes", f"{bits.sum():,.0f} bits", f"The {bits.size:,} codes of the slice together."),
            Figure(
                "most unusual cell",
                f"{cells.max():.1f} {label}",
                MEANING[measure]
                + (
                    f" Nine in ten held-out slices, level given: {usual['5']:.1f} to {usual['95']:.1f}."
                    if usual
                    else ""
                ),
            ),
            Figure(
                "drawn again, outlined in blue",
                f"{region.sum()} of {region.size} cells",
                "The prior draws the codes of these cells again, to fit the rest of the slice.",
            ),
        )
    )
)
if painted:
    st.caption("The dark disc was painted into this slice of the template: nobody has this lesion.")
if level is not None and chosen.level not in (None, level):
    st.warning(f"The slice is of level {chosen.level}, and the model is given level {level}: much will seem unusual.")
remarks()
st.markdown(wording.unusual(model.preset))
with st.expander("More: the two maps"):
    st.markdown(wording.MORE_UNUSUAL)

if lesions:
    st.header("How well it finds painted lesions")
    st.markdown(
        "Discs of bright, dark, displaced or missing tissue were painted into slices of "
        f"{lesions['people']} held-out people, {lesions['per_case']} of each kind and size. The table gives the "
        f"probability that such a slice scores higher than one of the {lesions['slices']:,} without (area under the "
        "ROC curve; 0.5 is chance, 1 is perfect). The level was given; lesions that change their pixels by less than "
        f"{100 * lesions['least_change']:.0f} % of the grey range, and real ones, were not tried."
    )
    sizes = list(lesions["scores"]["bits"]["by_size"])
    st.table(
        {"Diameter of the lesion": [f"{int(size) * CANVAS / 80:.0f} mm" for size in sizes]}
        | {
            name: [f"{lesions['scores'][key]['by_size'][size]['auroc_slice']:.2f}" for size in sizes]
            for name, key in SCORES.items()
        }
    )
    st.caption("From `python -m oasisvq benchmark lesions`.")

if again is None:  # last, so that the map is not kept waiting
    expected.draw(model)
    st.rerun()
