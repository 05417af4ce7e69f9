"""Model card: data, curves, results, limits, how to cite, how to train."""

import streamlit as st

from oasisvq import figures
from oasisvq.ui import wording
from oasisvq.ui.frame import model_in_frame

info = model_in_frame().info
data, preset, results, history = info["data"], info["preset"], info["results"], info["history"]

st.title("Model card")
st.markdown(f"**{wording.DISCLAIMER}**")

st.header("What the weights saw")
st.markdown(f"**{data['name']}.** {data['description']}")
st.table(
    {"Split": list(data["people"]), "People": list(data["people"].values()), "Slices": list(data["slices"].values())}
)
st.caption(f"Split by person: nobody is in two of them. Fingerprint of the set: `{data['fingerprint']}`")

st.header("Results")
if results:
    shown = [measure for measure in wording.MEASURES if measure.key in results]
    st.table(
        {
            "Measure": [measure.label for measure in shown],
            "Value": [measure.value(results) for measure in shown],
            "95 % interval": [measure.interval(results) or "–" for measure in shown],
            "Meaning": [measure.meaning for measure in shown],
        }
    )
    st.caption(
        f"On the {results['people']} people ({results['slices']:,} slices) of the split `{results['split']}`. Means "
        "over the slices of a person, then over people; intervals by bootstrap over people. "
        "From `python -m oasisvq evaluate`."
    )
    st.subheader("SSIM by level")
    st.plotly_chart(
        figures.by_level(results["ssim_by_level"], "SSIM"),
        key="levels",
        config={"displaylogo": False},
        alt="SSIM of the reconstruction for each level of the head, lowest level first",
    )
else:
    st.info("Nothing was measured yet with these weights.")

st.header("Training")
left, right = st.columns(2)
if history["vqvae"]:
    left.subheader("VQ-VAE: validation SSIM")
    left.plotly_chart(
        figures.curves(history["vqvae"], None, "val_ssim", "SSIM"),
        key="vqvae ssim",
        config={"displaylogo": False},
        alt="SSIM on validation people over the epochs of the VQ-VAE",
    )
    left.subheader("VQ-VAE: loss")
    left.plotly_chart(
        figures.curves(history["vqvae"], "train_loss", "val_loss", "loss"),
        key="vqvae loss",
        config={"displaylogo": False},
        alt="Training and validation loss over the epochs of the VQ-VAE",
    )
if history["prior"]:
    right.subheader("PixelCNN: bits per code")
    right.plotly_chart(
        figures.prior_curves(history["prior"]),
        key="prior bits",
        config={"displaylogo": False},
        alt="Training and validation bits per code over the epochs of the PixelCNN",
    )
st.caption(
    "Training figures are with augmentation, and the VQ-VAE's include the commitment loss: they run above validation."
)

st.header("Limits")
st.markdown(wording.LIMITS)

st.header("Cite")
st.markdown(f"OASIS-1, if the weights above saw slices of it:\n{wording.CITATION}")

st.header("The example slices")
with st.expander("Where they come from, and the template's notice"):
    st.text(wording.notice())

st.header("Train on your own data")
st.markdown(wording.TRAIN)

st.header("These files")
st.table(
    {
        "File": list(info["files"]),
        "Bytes": [f"{file['bytes']:,}" for file in info["files"].values()],
        "SHA-256": [f"`{file['sha256']}`" for file in info["files"].values()],
    }
)
with st.expander("Preset"):
    st.json(preset)
