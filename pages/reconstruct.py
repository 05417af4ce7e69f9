"""Reconstruct: a slice, what its codes make of it, and the difference."""

import math

import streamlit as st

from oasisvq.app import figures, wording
from oasisvq.app.choose import choose_slice, uploaded
from oasisvq.app.examine import as_csv, codes_file, examine, examine_scan, rank, report
from oasisvq.app.frame import model_in_frame
from oasisvq.app.pictures import RECONSTRUCTION, marked, png
from oasisvq.app.viewer import DIFFERENCE_LIMIT, viewer
from oasisvq.measure import metrics

model = model_in_frame()
preset, results = model.preset, model.info["results"] or {}
percentiles = results.get("percentiles", {})

st.markdown("What do the codes keep of a slice, and what do they lose?")

chosen = choose_slice(preset.size)
if chosen is None:
    st.stop()
kept = uploaded()
[examined] = examine(model, chosen.picture[None])
again, measured = examined.reconstruction, examined.measured

viewer(chosen, again, metrics.ssim_map(chosen.picture, again))
sides = (
    "The letters come from the file's header: R and L are the person's right and left, A is the front, P the back."
    if chosen.edges
    else "Which side is left is not known: the file does not say."
)
st.caption(
    f"{chosen.name} at the model's size of {preset.size} × {preset.size} pixels. {sides} Original and reconstruction "
    f"share one grey scale; differences beyond ±{DIFFERENCE_LIMIT} show as that."
)

if examined.unlike is not None:
    box = st.warning if examined.unlike.unlike else st.info
    box(wording.unlike(examined.unlike), icon=":material/rule:")


def standing(key: str, held_out: str, form: str) -> str | None:
    """Where the slice stands among those of held-out people; their mean where nothing more was measured."""
    if key in percentiles and not math.isnan(measured[key]):
        return f"above {rank(measured[key], percentiles[key])} % of test slices"
    return f"held-out {results[held_out]:{form}}" if held_out in results else None


plain = preset.codes * math.log2(preset.codebook_size)
for column, (label, value, beside, meaning) in zip(
    st.columns(5),
    (
        ("SSIM", f"{examined.ssim:.3f}", standing("ssim", "ssim_mean", ".3f"), "1 = equal pictures"),
        (
            "SSIM, brain only",
            "–" if math.isnan(examined.ssim_foreground) else f"{examined.ssim_foreground:.3f}",
            standing("ssim_foreground", "ssim_foreground_mean", ".3f"),
            "the same without the easy black background",
        ),
        ("PSNR", f"{examined.psnr:.1f} dB", standing("psnr", "psnr_mean", ".1f"), "peak signal over error"),
        (
            "Bits under the prior",
            f"{examined.bits:,.0f}",
            standing("bits_per_code", "", ""),
            f"what the PixelCNN needs to name the codes, {examined.bits / 8:,.0f} bytes: −log₂ of their probability, "
            "with level and rating not told. Many bits: unusual for this model.",
        ),
        (
            "Bits, plain",
            f"{plain:,.0f}",
            f"{plain / 8:,.0f} bytes",
            f"{preset.codes} codes, each written with log₂ {preset.codebook_size} bits",
        ),
    ),
    strict=True,
):
    column.metric(
        label,
        value,
        delta=beside,
        delta_color="off",
        delta_arrow="off",
        help=meaning,
        border=True,
        height="stretch",
    )

panels = [
    (label, measured[key], percentiles[key])
    for key, label in wording.STANDING.items()
    if key in percentiles and not math.isnan(measured[key])
]
if panels:
    with st.expander(f"Where this slice stands among {results['slices']:,} slices of {results['people']} test people"):
        st.plotly_chart(
            figures.standing(panels),
            key="standing",
            config={"displaylogo": False},
            alt="For each measure, the share of test slices below each value, and this slice on that curve: "
            + "; ".join(f"{label} above {rank(value, curve)} %" for label, value, curve in panels),
        )
        st.caption("The line: how many of the test slices lie below a value. The dot: this slice.")

if kept is not None and chosen.count > 1:
    st.header("The whole volume")
    weights = model.info["files"]["vqvae.safetensors"]["sha256"]
    if st.button(f"Reconstruct all {chosen.count} slices", icon=":material/stacks:"):
        bar = st.progress(0.0, "Reconstructing …")
        kept.found[weights] = examine_scan(
            model, kept, lambda done, of: bar.progress(done / of, f"Reconstructing … {done} of {of} slices")
        )
        bar.empty()
    if weights in kept.found:
        found, levels = kept.found[weights], kept.scan.levels
        st.plotly_chart(
            figures.by_slice({"SSIM": found["ssim"], "SSIM, brain only": found["ssim_foreground"]}, chosen.index),
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

st.header("Take it home")
for column, (label, content, name, kind) in zip(
    st.columns(3),
    (
        (
            "Reconstruction, PNG",
            png(marked(again, RECONSTRUCTION), wording.provenance(model.info, RECONSTRUCTION)),
            "oasisvq-reconstruction.png",
            "image/png",
        ),
        ("Codes, npz", codes_file(model.info, examined), "oasisvq-codes.npz", "application/octet-stream"),
        (
            "Report, JSON",
            report(model.info, chosen, examined, kept),
            "oasisvq-report.json",
            "application/json",
        ),
    ),
    strict=True,
):
    column.download_button(
        label, content, file_name=name, mime=kind, on_click="ignore", icon=":material/download:", width="stretch"
    )
st.caption("The picture carries its mark; all three name the weights, none the file that you gave.")

with st.expander("More: the mathematics"):
    st.markdown(wording.MORE_RECONSTRUCT)
