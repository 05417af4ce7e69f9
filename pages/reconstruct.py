"""Reconstruct: a slice, what its codes make of it, and the difference."""

import math

import streamlit as st

from oasisvq import figures, metrics
from oasisvq.ui import wording
from oasisvq.ui.choose import choose_slice
from oasisvq.ui.frame import model_in_frame
from oasisvq.ui.models import turn
from oasisvq.ui.pictures import RECONSTRUCTION, marked, png

model = model_in_frame()
preset, results = model.preset, model.info["results"] or {}

st.title("Reconstruct")
st.markdown("What do the codes keep of a slice, and what do they lose?")

chosen = choose_slice(preset.size)
if chosen is None:
    st.stop()
with turn():
    coded = model.reconstruct(chosen.tensor)
    bits = float(model.surprise(coded.indices).sum())
again = coded.slices[0, 0].numpy() + 0.5
plain = preset.grid**2 * math.log2(preset.codebook_size)


def average(key: str, form: str) -> str | None:
    """What held-out people reach, beside the figure of this slice."""
    return f"held-out {results[key]:{form}}" if key in results else None


for column, (label, value, beside, meaning) in zip(
    st.columns(5),
    (
        ("SSIM", f"{metrics.ssim(chosen.picture, again):.3f}", average("ssim_mean", ".3f"), "1 = equal pictures"),
        (
            "SSIM, brain only",
            f"{metrics.foreground_ssim(chosen.picture, again):.3f}",
            average("ssim_foreground_mean", ".3f"),
            "the same without the easy black background",
        ),
        (
            "PSNR",
            f"{metrics.psnr(chosen.picture, again):.1f} dB",
            average("psnr_mean", ".1f"),
            "peak signal over error",
        ),
        (
            "Bits, plain",
            f"{plain:,.0f}",
            f"{plain / 8:,.0f} bytes",
            f"{preset.grid}² codes, each written with log₂ {preset.codebook_size} bits",
        ),
        (
            "Bits under the prior",
            f"{bits:,.0f}",
            f"{bits / 8:,.0f} bytes",
            "what the PixelCNN needs to name the same codes: −log₂ of their probability",
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

st.plotly_chart(
    figures.comparison(chosen.picture, again, metrics.ssim_map(chosen.picture, again)),
    key="comparison",
    config={"displaylogo": False, "scrollZoom": True},
    alt=f"Four linked panels for {chosen.name}: original, reconstruction, their difference, and the map of local SSIM",
)
st.caption(
    f"{chosen.name} at the model's size of {preset.size} × {preset.size} pixels. Original and reconstruction share one "
    f"grey scale; differences beyond ±{figures.DIFFERENCE_LIMIT} show as that. Drag to zoom, wheel to zoom in and out, "
    "double-click to return: all four panels move together."
)
st.download_button(
    "Reconstruction as PNG",
    lambda: png(marked(again, RECONSTRUCTION), wording.provenance(model.info, RECONSTRUCTION)),
    file_name="oasisvq-reconstruction.png",
    mime="image/png",
    on_click="ignore",
    icon=":material/download:",
)
