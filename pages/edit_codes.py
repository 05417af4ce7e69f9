"""Edit codes: the grid over the picture, painted on and decoded again at once."""

import numpy as np
import streamlit as st
import torch

from oasisvq import OasisVQError
from oasisvq.app import editor, links, wording
from oasisvq.app.choose import bundled, choose_slice, in_model_size
from oasisvq.app.code_grid import PROPOSALS as PROPOSED
from oasisvq.app.code_grid import before, catch_up, code_grid, current, open_codes, origin, store
from oasisvq.app.frame import model_in_frame
from oasisvq.app.models import belongings, load_palette, turn
from oasisvq.app.pictures import EDITED, marked, png
from oasisvq.data.codes import read_codes, write_codes
from oasisvq.measure import metrics

PROPOSALS = 4
COST = "bits before"

model = model_in_frame()
palette = load_palette(model)
preset = model.preset
sha256 = model.info["files"]["vqvae.safetensors"]["sha256"]


def codes_of(example: str) -> np.ndarray | None:
    """A bundled example as codes."""
    if example not in bundled():
        return None
    return model.encode(in_model_size(example, bundled()[example], preset.size).tensor)[0].numpy()


def cost_of(indices: np.ndarray) -> float:
    """Bits under the prior."""
    return float(model.surprise(torch.from_numpy(indices)[None]).sum())


def propose() -> None:
    """Draw the selected cells again, several times over. A callback, so that nothing interrupts it."""
    state = catch_up(preset.codebook_size)
    if state is None or not state.selection.any():
        return
    seed = st.session_state["refill seed"]
    grid, mask = torch.from_numpy(state.indices)[None], torch.from_numpy(state.selection)
    proposals = []
    for i in range(PROPOSALS):
        with turn():  # for each: others need not wait for all of them
            filled = model.refill(grid, mask, seed=seed + i)
        proposals.append((filled.indices[0].numpy(), filled.slices[0, 0].numpy() + 0.5))
    belongings()[PROPOSED] = (state, proposals)
    st.session_state["refill seed"] += PROPOSALS


def accept(state: editor.Editor, indices: np.ndarray) -> None:
    """Take a proposal: the cells that were selected then, into the codes as they are by now."""
    now = catch_up(preset.codebook_size)
    if now is not None and now.epoch == state.epoch:
        store(editor.put(now, np.where(state.selection, indices, now.indices)))
    belongings().pop(PROPOSED, None)


@st.fragment
def studio() -> None:
    """The grid, and what can be said about the codes as they are now."""
    state = current()
    with turn(urgent=True):
        now = model.decode(torch.from_numpy(state.indices)[None])[0, 0].numpy() + 0.5
        start = before(lambda codes: model.decode(torch.from_numpy(codes)[None])[0, 0].numpy() + 0.5)
    code_grid(state, now, start, palette)  # first of all: the browser draws it while the rest is computed

    seed, fill, dismiss = st.columns([1, 2, 1], vertical_alignment="bottom")
    seed.number_input("Refill seed", 0, 2**31 - 1, 0, key="refill seed", help="Each proposal moves it on by one.")
    fill.button(
        "Propose refills of the selected cells",
        on_click=propose,
        disabled=not state.selection.any(),
        icon=":material/auto_fix_high:",
        help=f"The PixelCNN draws the selected cells again to fit the rest, {PROPOSALS} times. Mark some with Select.",
    )
    proposed = belongings().get(PROPOSED)
    if proposed is not None and proposed[0].epoch == state.epoch:
        dismiss.button("Dismiss", on_click=lambda: belongings().pop(PROPOSED, None))
        asked, proposals = proposed
        for number, (column, (indices, picture)) in enumerate(zip(st.columns(PROPOSALS), proposals, strict=True), 1):
            column.image(
                marked(picture, EDITED), width="stretch", alt=f"Proposal {number}: the slice with the cells refilled"
            )
            column.button(f"Use proposal {number}", on_click=accept, args=(asked, indices), width="stretch")

    with turn():
        bits = cost_of(state.indices)
        if belongings().get(COST, ("", 0.0))[0] != state.epoch:  # that of the start is found out once
            belongings()[COST] = (state.epoch, cost_of(state.original))
    more = bits - belongings()[COST][1]
    changed, likeness, cost = st.columns(3)
    changed.metric("Cells changed", int(state.changed.sum()), border=True, height="stretch")
    likeness.metric(
        "SSIM with the start",
        f"{metrics.ssim(start, now):.3f}",
        help="of the slice as decoded now and as decoded before the first edit",
        border=True,
        height="stretch",
    )
    cost.metric(
        "Bits under the prior",
        f"{bits:,.0f}",
        delta=f"{more:+,.0f}" if state.changed.any() else None,
        delta_color="off",
        help="More bits than before: the edited slice is more unusual for this model.",
        border=True,
        height="stretch",
    )
    keep(state, now)


def keep(state: editor.Editor, now: np.ndarray) -> None:
    """What can be taken along: picture, codes, and a link where nothing of an upload would be in it."""
    picture, codes = st.columns(2)
    picture.download_button(
        "Picture as PNG",
        png(marked(now, EDITED), wording.provenance(model.info, EDITED)),
        file_name="oasisvq-edited.png",
        mime="image/png",
        on_click="ignore",
        icon=":material/download:",
        width="stretch",
    )
    codes.download_button(
        "Codes as npz",
        write_codes(state.indices[None], sha256),
        file_name="oasisvq-codes.npz",
        mime="application/octet-stream",
        on_click="ignore",
        icon=":material/download:",
        width="stretch",
    )
    source = origin()
    if source is None:
        st.caption("These codes come from a file of yours: nothing of it is put in a link. Save the codes instead.")
    else:
        st.caption("Whoever opens this link sees the slice as it is now:")
        link = links.address(st.context.url or "", model, source, state.original, state.indices)
        st.code(link, language=None, wrap_lines=True)


def follow_link() -> None:
    """Restore what the address of the page asks for, once."""
    asked = st.query_params.to_dict()
    if "weights" not in asked:
        return
    st.query_params.clear()
    try:
        with turn():
            restored = links.restore(model, asked, codes_of)
    except OasisVQError as error:
        st.error(f"This link cannot be followed: {error}", icon=":material/link_off:")
    else:
        store(editor.put(open_codes(restored.original, restored.origin), restored.indices))


st.markdown("Paint codes over a slice and see what each of them means: the slice is decoded again after every stroke.")
if preset.depth > 1:
    st.caption(f"{wording.SIDE_BY_SIDE.format(depth=preset.depth)} The palette shows each as a left one, unrefined.")
follow_link()
with st.expander("Edit another slice, or codes that you saved"):
    chosen = choose_slice(preset.size)
    # Only the first slice opens by itself: a later choice must not wipe out what was painted.
    if chosen is not None and (st.button("Open this slice") or current() is None):
        with turn():
            codes = model.encode(chosen.tensor)[0].numpy()
        open_codes(codes, {"example": chosen.source} if chosen.source in bundled() else None)
    saved = st.file_uploader(
        "Saved codes",
        type=["npz"],
        max_upload_size=20,
        key="saved codes",
        help="From this page, or from `oasisvq encode` and `oasisvq sample`, made with these weights.",
    )
    if saved is not None:
        number = st.number_input("Slice of the file", 1, help="A file of the command line holds many, in their order.")
        if st.button("Open these codes"):
            try:
                found = read_codes(saved.getvalue(), "The file", preset.grid, preset.codebook_size, sha256)
                if number > len(found):
                    raise OasisVQError(f"The file holds {len(found)} slices: choose one of them")
                open_codes(found[number - 1], None)
            except OasisVQError as error:
                st.error(str(error), icon=":material/error:")
if current() is None:
    st.stop()
studio()
