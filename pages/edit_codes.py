"""Edit codes: the grid over the picture, painted on and decoded again at once."""

import numpy as np
import streamlit as st
import torch

from oasisvq import metrics
from oasisvq.ui import editor, wording
from oasisvq.ui.choose import choose_slice
from oasisvq.ui.code_grid import catch_up, code_grid, current, open_codes, store
from oasisvq.ui.frame import model_in_frame
from oasisvq.ui.models import load_palette, turn
from oasisvq.ui.pictures import EDITED, marked, png

model, palette = model_in_frame(), load_palette()


def refill() -> None:
    """Draw the selected cells again. A callback, so that nothing interrupts it."""
    state = catch_up(model.preset.codebook_size)
    with turn():
        mask = torch.from_numpy(state.selection)
        filled = model.refill(torch.from_numpy(state.indices)[None], mask, seed=st.session_state["refill seed"])
    store(editor.put(state, filled.indices[0].numpy()))
    st.session_state["refill seed"] += 1


@st.fragment
def studio() -> None:
    """The grid, and what can be said about the codes as they are now."""
    state = current()
    both = torch.from_numpy(np.stack([state.indices, state.original]))
    with turn():
        now = model.decode(both[:1])[0, 0].numpy() + 0.5
    code_grid(state, now, palette)  # first of all: the browser draws it while the rest is computed

    seed, fill, save = st.columns([1, 2, 1], vertical_alignment="bottom")
    seed.number_input("Refill seed", 0, 2**31 - 1, 0, key="refill seed", help="Each refill moves it on by one.")
    fill.button(
        "Refill the selected cells",
        on_click=refill,
        disabled=not state.selection.any(),
        icon=":material/auto_fix_high:",
        help="The PixelCNN draws the selected cells again to fit the rest. Mark some with Select first.",
    )
    save.download_button(
        "PNG",
        lambda: png(marked(now, EDITED), wording.provenance(model.info, EDITED)),
        file_name="oasisvq-edited.png",
        mime="image/png",
        on_click="ignore",
        icon=":material/download:",
    )

    with turn():
        before = model.decode(both[1:])[0, 0].numpy() + 0.5
        bits = model.surprise(both).sum((1, 2)).tolist()
    changed, likeness, cost = st.columns(3)
    changed.metric("Cells changed", int(state.changed.sum()), border=True, height="stretch")
    likeness.metric(
        "SSIM with the start",
        f"{metrics.ssim(before, now):.3f}",
        help="of the slice as decoded now and as decoded before the first edit",
        border=True,
        height="stretch",
    )
    cost.metric(
        "Bits under the prior",
        f"{bits[0]:,.0f}",
        delta=f"{bits[0] - bits[1]:+,.0f}" if state.changed.any() else None,
        delta_color="off",
        help="More bits than before: the edited slice is more unusual for this model.",
        border=True,
        height="stretch",
    )


st.title("Edit codes")
st.markdown("Paint codes over a slice and see what each of them means: the slice is decoded again after every stroke.")

with st.expander("Edit another slice"):
    chosen = choose_slice(model.preset.size)
    # Only the first slice opens by itself: a later choice must not wipe out what was painted.
    if chosen is not None and (st.button("Open this slice") or current() is None):
        with turn():
            open_codes(model.encode(chosen.tensor)[0].numpy())
if current() is None:
    st.stop()
studio()
