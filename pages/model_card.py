"""Model card: data, terms, curves, results, limits, how to cite, how to train."""

import streamlit as st

from oasisvq.app import charts, wording
from oasisvq.app.frame import model_in_frame

PLAIN = {"displaylogo": False}

info = model_in_frame().info
data, preset, results, history = info["data"], info["preset"], info["results"], info["history"]
training, rate, draws, failures = info["training"], info["rate"], info["draws"], info["failures"]

st.markdown(f"**{wording.DISCLAIMER}** {wording.SHORT}")

st.header("What the weights saw")
st.markdown(f"**{data['name']}.** {data['description']}")
st.table(
    {"Split": list(data["people"]), "People": list(data["people"].values()), "Slices": list(data["slices"].values())}
)
st.caption(
    f"Split by person, as far as the description tells people apart. Fingerprint of the set: `{data['fingerprint']}`"
)

st.header("By whom, and under which terms")
versions = ", ".join(f"{name} {version}" for name, version in training["versions"].items())
st.markdown(f"{wording.maker(info)} Trained with seed {training['seed']} in {training['precision']} by this command:")
st.code(training["command"].replace(" && ", " &&\n"), language=None, wrap_lines=True)
st.caption(f"With {versions}.")
st.markdown(wording.TERMS)

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
    with st.expander("More: the mathematics"):
        st.markdown(wording.MORE_RECONSTRUCT)
    st.subheader("SSIM by level")
    st.plotly_chart(
        charts.by_level(results["ssim_by_level"], "SSIM"),
        key="levels",
        config=PLAIN,
        alt="SSIM of the reconstruction for each level of the head, lowest level first",
    )
else:
    st.info("Nothing was measured yet with these weights.")
if rate and rate["sizes"].get(str(preset["size"]), {}).get("codecs"):
    st.subheader("Bytes against likeness")
    st.plotly_chart(
        charts.rate(rate, preset["size"]),
        key="rate",
        config=PLAIN,
        alt="SSIM against bytes a slice: image codecs as lines, the codes of these weights as points",
    )
    st.caption(
        "The same slices through image codecs at their best settings (dotted: all slices of a person in one picture), "
        "and as codes: stored plainly (circles) and under the prior (stars). Further up and to the left is better. "
        "From `python -m oasisvq benchmark rate`."
    )

st.header("Draws and copies")
if draws:
    copies = draws["copies"]
    for column, (label, value, meaning) in zip(
        st.columns(3),
        (
            (
                "Suspiciously close draws",
                f"{copies['share_closer']:.1%}",
                "closer to a training slice than the closest 1 % of held-out reconstructions; copies would push it up",
            ),
            (
                "Nearest training slice, draws",
                f"{copies['draws_median']:.4f}",
                "root mean square difference on a grey scale of 0 to 1, median of the draws",
            ),
            (
                "Nearest training slice, held-out people",
                f"{copies['held_out_median']:.4f}",
                "the same for reconstructions of people that the model never saw",
            ),
        ),
        strict=True,
    ):
        column.metric(label, value, help=meaning, border=True, height="stretch")
    st.caption(
        f"{wording.COPIES.strip()} {draws['count']:,} draws with seed {draws['seed']}, against the {draws['people']} "
        f"people of the split `{draws['split']}`. From `python -m oasisvq benchmark draws`."
    )
else:
    st.markdown(f"{wording.COPIES} With these weights it was not measured; `python -m oasisvq benchmark draws` does.")

st.header("Training")
left, right = st.columns(2)
if history["vqvae"]:
    left.subheader("VQ-VAE: validation SSIM")
    left.plotly_chart(
        charts.curves(history["vqvae"], None, "val_ssim", "SSIM"),
        key="vqvae ssim",
        config=PLAIN,
        alt="SSIM on validation people over the epochs of the VQ-VAE",
    )
    left.subheader("VQ-VAE: loss")
    left.plotly_chart(
        charts.curves(history["vqvae"], "train_loss", "val_loss", "loss"),
        key="vqvae loss",
        config=PLAIN,
        alt="Training and validation loss over the epochs of the VQ-VAE",
    )
if history["prior"]:
    right.subheader("PixelCNN: bits per code")
    right.plotly_chart(
        charts.prior_curves(history["prior"]),
        key="prior bits",
        config=PLAIN,
        alt="Training and validation bits per code over the epochs of the PixelCNN",
    )
st.caption(
    "Training figures are not to be compared with validation: the VQ-VAE's are of augmented slices and include the "
    "commitment loss, and the PixelCNN is mostly given a slice's appearance, and neighbours where it can be."
)

st.header("Limits")
st.markdown(wording.LIMITS)
if failures:
    st.subheader("Slices from elsewhere")
    foreign = failures["foreign"]
    st.table(
        {
            "What": list(foreign),
            "Slices": [row["slices"] for row in foreign.values()],
            "Called unlike the training data": [f"{row['unlike']:.0%}" for row in foreign.values()],
            "Most common reason": [next(iter(row["reasons"]), "–") for row in foreign.values()],
        }
    )
    usual = (results or {}).get("unlike")
    st.caption(
        (f"Of slices of held-out people {usual['false_alarms']:.0%} are called so by mistake. " if usual else "")
        + "From `python -m oasisvq benchmark failures`."
    )

st.header("Cite")
st.markdown(f"OASIS-1, if the weights above saw slices of it:\n{wording.CITATION}")
st.markdown("These weights, by what tells them from all others:")
st.code(wording.cite(info), language=None, wrap_lines=True)

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
