"""Reconstruct: a slice, what its codes make of it, and the difference."""

import math

import streamlit as st

from oasisvq.app import charts, wording
from oasisvq.app.choose import choose_slice, remarks, uploaded
from oasisvq.app.codes import PARTS, split
from oasisvq.app.examine import as_csv, codes_file, examine, examine_scan, figures_of, rank, report
from oasisvq.app.frame import model_in_frame
from oasisvq.app.models import load_palettes
from oasisvq.app.pictures import RECONSTRUCTION, code_colours, marked, png
from oasisvq.app.terms import in_one_line
from oasisvq.app.viewer import DIFFERENCE, SIMILARITY, code_overlay, viewer

model = model_in_frame()
results = model.info["results"] or {}
percentiles = results.get("percentiles", {})

row = st.container(horizontal=True, vertical_alignment="center", gap="small", key="chooser")
chosen = choose_slice(model.preset.size, row)
if chosen is None:
    st.stop()
kept = uploaded()
[examined] = examine(model, chosen.picture[None])
again = examined.reconstruction

if examined.unlike is not None and examined.unlike.unlike:
    st.warning(wording.unlike(examined.unlike), icon=":material/rule:")
parts = split(model.preset, examined.indices)
codes = zip(PARTS[len(parts)], parts, load_palettes(model), strict=True)
viewer(
    "Reconstruct",
    chosen,
    again,
    (
        DIFFERENCE,
        SIMILARITY,
        *(code_overlay(name, code_colours(part, palette.rank, palette.background)) for name, part, palette in codes),
    ),
    ("Original", "Reconstruction"),
    RECONSTRUCTION,
    similarity=examined.similarity,
)
st.html(in_one_line(figures_of(examined, results, model.preset)))
remarks()
st.caption(wording.about_slice(chosen.name, model.preset.size, chosen.edges))

more = st.expander("More: this slice among others, downloads, the mathematics")
panels = [
    (label, examined.measured[key], percentiles[key])
    for key, label in wording.STANDING.items()
    if key in percentiles and not math.isnan(examined.measured[key])
]
if panels:
    more.subheader(f"Compared with {results['slices']:,} slices of {results['people']} test people")
    more.plotly_chart(
        charts.standing(panels),
        key="standing",
        config={"displaylogo": False},
        alt="For each measure, the share of test slices below each value, and this slice on that curve: "
        + "; ".join(f"{label} above {rank(value, curve)} %" for label, value, curve in panels),
    )
    more.caption("The curve gives the share of test slices below each value; the dot is this slice.")

more.subheader("Downloads")
for column, (label, content, name, kind) in zip(
    more.columns(3),
    (
        (
            "Reconstruction, PNG",
            png(marked(again, RECONSTRUCTION), wording.provenance(model.info, RECONSTRUCTION)),
            "oasisvq-reconstruction.png",
            "image/png",
        ),
        ("Codes, npz", codes_file(model.info, examined), "oasisvq-codes.npz", "application/octet-stream"),
        ("Report, JSON", report(model.info, chosen, examined, kept), "oasisvq-report.json", "application/json"),
    ),
    strict=True,
):
    column.download_button(
        label, content, file_name=name, mime=kind, on_click="ignore", icon=":material/download:", width="stretch"
    )
more.caption("The picture is marked as a reconstruction. All three files name the weights, and none names your file.")
more.markdown(wording.MORE_RECONSTRUCT)

if kept is not None and chosen.count > 1:
    st.header("The whole volume")
    weights = model.info["files"]["prior.safetensors"]["sha256"]
    if st.button(f"Reconstruct all {chosen.count} slices", icon=":material/stacks:"):
        bar = st.progress(0.0, "Reconstructing …")

        def progress(done: int, of: int) -> None:
            bar.progress(done / of, f"Reconstructing … {done} of {of} slices")

        kept.found[weights] = examine_scan(model, kept, progress)
        bar.empty()
    if weights in kept.found:
        found, levels = kept.found[weights], kept.scan.levels
        st.plotly_chart(
            charts.by_slice({"SSIM": found["ssim"], "SSIM, brain only": found["ssim_foreground"]}, chosen.index),
            key="by slice",
            config={"displaylogo": False},
            alt=f"SSIM of all {chosen.count} slices, from {min(found['ssim']):.3f} to {max(found['ssim']):.3f}",
        )
        st.caption(wording.whole_volume(found, levels))
        st.download_button(
            "Figures of all slices, CSV",
            as_csv(found, levels),
            file_name="oasisvq-volume.csv",
            mime="text/csv",
            on_click="ignore",
            icon=":material/download:",
        )
