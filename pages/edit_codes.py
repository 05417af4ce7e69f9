"""Edit codes: the grid over the picture, painted on and decoded again at once."""

import streamlit as st

from oasisvq.app import editor, links, wording
from oasisvq.app.choose import bundled, choose_slice
from oasisvq.app.code_grid import before, code_grid, current, open_codes, origin, store
from oasisvq.app.codes import most, split
from oasisvq.app.frame import model_in_frame
from oasisvq.app.gallery import EIGHT, levels_apart
from oasisvq.app.models import compute_slot, load_palettes
from oasisvq.app.pictures import EDITED, Picture, marked, png
from oasisvq.app.studio import DRAWN, TRIES, Studio
from oasisvq.app.terms import GLOSSARY, Figure, in_one_line
from oasisvq.data.codes import read_codes, write_codes
from oasisvq.errors import OasisVQError
from oasisvq.measure import metrics

model = model_in_frame()
studio = Studio(model)
palettes = load_palettes(model)
preset = model.preset
sha256 = model.info["files"]["vqvae.safetensors"]["sha256"]
PICKED = "choice on Edit codes"  # the epoch of the editor when the choice was last seen, and the choice


def walk() -> None:
    """The path to another slice, as far as the slider says."""
    studio.walk(st.session_state["path to"], st.session_state["along the path"] / 100)


@st.fragment
def grid() -> None:
    """The grid, and what can be said about the codes as they are now."""
    state = current()
    assert state is not None
    with compute_slot(urgent=True):
        now = studio.picture_of(state.indices)
        start = before(studio.picture_of)
    # First of all: the browser draws it while the rest is computed.
    code_grid(preset, state, now, start, palettes, TRIES, studio.ask)
    bits, bits_before = studio.cost(state)
    parts = [int(part.sum()) for part in split(preset, state.changed)]
    changed = sum(parts)
    of_each = "" if len(parts) == 1 else f" ({parts[0]:,} coarse, {parts[1]:,} fine)"
    st.html(
        in_one_line(
            (
                Figure(
                    "codes changed",
                    f"{changed:,}{of_each if changed else ''}",
                    f"Of {state.indices.size:,}, compared with the start.",
                ),
                Figure("SSIM with the start", f"{metrics.ssim(start, now):.3f}", GLOSSARY["SSIM"]),
                Figure(
                    "under the prior",
                    f"{bits:,.0f} bits" + (f" ({bits - bits_before:+,.0f})" if changed else ""),
                    "All codes together. More bits than at the start: more unusual for this model.",
                ),
            )
        )
    )
    keep(state, now)


def keep(state: editor.Editor, now: Picture) -> None:
    """What can be taken along: picture, codes, and a link where nothing of an upload would be in it."""
    with st.expander("Save and share"):
        picture, codes = st.columns(2)
        picture.download_button(
            "Picture as PNG",
            lambda: png(marked(now, EDITED), wording.provenance(model.info, EDITED)),
            file_name="oasisvq-edited.png",
            mime="image/png",
            on_click="ignore",
            icon=":material/download:",
            width="stretch",
        )
        codes.download_button(
            "Codes as npz",
            lambda: write_codes(state.indices[None], sha256),
            file_name="oasisvq-codes.npz",
            mime="application/octet-stream",
            on_click="ignore",
            icon=":material/download:",
            width="stretch",
        )
        source = origin()
        if source is None:
            st.caption("These codes come from your own file: nothing of it is put in a link. Save the codes instead.")
        else:
            st.caption("This link opens the slice as it is now:")
            link = links.address(st.context.url or "", model, source, state.original, state.indices)
            st.code(link, language=None, wrap_lines=True)


def follow_link() -> None:
    """Restore what the address of the page asks for, once."""
    asked = st.query_params.to_dict()
    if "weights" not in asked:
        return
    kept = {name: value for name, value in asked.items() if name not in ("weights", "prior", "cells", *links.ORIGIN)}
    st.query_params.from_dict(kept)
    try:
        with compute_slot():
            restored = links.restore(model, asked, studio.codes_of)
    except OasisVQError as error:
        st.error(f"This link cannot be followed: {error}", icon=":material/link_off:")
    else:
        store(editor.put(open_codes(restored.original, restored.origin), restored.indices))


follow_link()
row = st.container(horizontal=True, vertical_alignment="center", gap="small", key="chooser")
chosen = choose_slice(preset.size, row)
# Another choice opens at once, unless edits would be lost. One made on another page replaces nothing that is open here.
now = current()
epoch, before_it = st.session_state.get(PICKED, (None, None))
picked = (chosen.source, chosen.index) if chosen else before_it
another = now is not None and epoch == now.epoch and picked != before_it and not (now.past or now.future)
if chosen is not None and (row.button("Open this slice") or now is None or another):
    with compute_slot(urgent=True):
        codes = model.encode(chosen.tensor)[0].numpy()
    open_codes(codes, {"example": chosen.source} if chosen.source in bundled() else None)
with row.popover("Saved codes"):
    saved = st.file_uploader(
        "Saved codes",
        type=["npz"],
        max_upload_size=20,
        key="saved codes",
        help="Saved on this page, or by `oasisvq encode` or `oasisvq sample` with the same weights.",
    )
    number = st.number_input("Slice of the file", 1, help="Files from the command line may hold several slices.")
    if saved is not None and st.button("Open these codes"):
        try:
            found = read_codes(saved.getvalue(), "The file", preset.shape, most(preset), sha256)
            if number > len(found):
                raise OasisVQError(f"The file holds {len(found)} slices: choose one of them")
            open_codes(found[number - 1], None)
        except OasisVQError as error:
            st.error(str(error), icon=":material/error:")
if (now := current()) is not None:
    st.session_state[PICKED] = now.epoch, picked
with row.popover("Path to another slice"):
    end = f"{DRAWN}, level {levels_apart(preset.levels)[EIGHT // 2]}"
    st.selectbox(
        "To",
        [DRAWN, *bundled()],
        format_func=lambda name: end if name == DRAWN else name,
        key="path to",
        on_change=walk,
    )
    st.slider("Along the path, %", 0, 100, 0, 5, key="along the path", on_change=walk)
    st.caption("Each cell takes the code nearest to a weighted mean of the two slices' codes: 0 % here, 100 % there.")
if current() is not None:
    grid()
