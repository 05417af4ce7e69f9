"""Home: what this is, what the weights saw, what was measured."""

import streamlit as st

from oasisvq.app import wording
from oasisvq.app.choose import SHOWN_FIRST, bundled, in_model_size
from oasisvq.app.frame import model_in_frame
from oasisvq.app.models import load_palette, turn
from oasisvq.app.pictures import RECONSTRUCTION, code_map, enlarge, marked

model = model_in_frame()
info, preset = model.info, model.preset

st.markdown(wording.WHAT)

name, picture = SHOWN_FIRST, bundled()[SHOWN_FIRST]
chosen = in_model_size(name, picture, preset.size)
with turn():
    coded = model.reconstruct(chosen.tensor)
indices = coded.indices[0].numpy()
original, codes, again = st.columns(3)
original.image(enlarge(chosen.picture), width="stretch", caption=f"1. A slice: {name}", alt=f"Example slice: {name}")
codes.image(
    code_map(indices, load_palette(model).rank),
    width="stretch",
    caption=f"2. Its {preset.grid[0]} × {preset.grid[1]} codes of {preset.codebook_size}. Violet: dark, yellow: bright",
    alt="The grid of codes as coloured cells: the outline of the brain can be made out",
)
again.image(
    marked(coded.slices[0, 0].numpy() + 0.5, RECONSTRUCTION),
    width="stretch",
    caption="3. Painted again from the codes alone",
    alt="The slice as the decoder paints it from its codes",
)
with st.expander("More: the mathematics in four lines"):
    st.markdown(wording.MORE)

st.header("What you can do here")
for column, (path, title, what) in zip(
    st.columns(5),
    (
        (
            "pages/reconstruct.py",
            "Reconstruct",
            "See what the codes keep of a slice and what they lose: an example, or a picture, NIfTI or DICOM of yours.",
        ),
        ("pages/generate.py", "Generate", "Watch the PixelCNN draw a slice, code by code."),
        ("pages/edit_codes.py", "Edit codes", "Paint with codes and see the slice change."),
        ("pages/surprise.py", "Surprise", "See which parts of a slice the model did not expect."),
        ("pages/model_card.py", "Model card", "Data, curves, results, limits, how to cite."),
    ),
    strict=True,
):
    with column.container(border=True, height="stretch"):
        st.page_link(path, label=f"**{title}**")
        st.caption(what)

st.header("What the weights saw")
st.markdown(f"{wording.saw(info['data'])} {info['data']['description']}")

st.header("What was measured")
results = info["results"]
if results:
    st.caption(
        f"On {results['people']} people ({results['slices']:,} slices) of the split `{results['split']}` of "
        f"{results['data']['name']}."
    )
    shown = [m for m in wording.MEASURES if m.key in results][:8]
    for row in (shown[:4], shown[4:]):
        for column, measure in zip(st.columns(4), row, strict=False):
            interval = measure.interval(results)
            column.metric(
                measure.label,
                measure.value(results),
                delta=f"95 % interval {interval}" if interval else None,
                delta_color="off",
                delta_arrow="off",
                help=measure.meaning,
                border=True,
                height="stretch",
            )
    st.page_link("pages/model_card.py", label="All results and how they were measured")
else:
    st.info("Nothing was measured yet with these weights.")
st.caption(f"Computed on: {info['device']}.")
