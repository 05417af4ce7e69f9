"""Edit codes: the grid over the picture, painted on and decoded again at once."""

import numpy as np
import streamlit as st
import torch

from oasisvq.app import editor, edits, links, wording
from oasisvq.app.choose import bundled, choose_slice, in_model_size
from oasisvq.app.code_grid import (
    PATH,
    Fill,
    before,
    beside,
    catch_up,
    code_grid,
    copied,
    copy,
    current,
    open_codes,
    origin,
    paste,
    store,
    take,
)
from oasisvq.app.codes import most
from oasisvq.app.drawing import EIGHT, fresh
from oasisvq.app.frame import model_in_frame
from oasisvq.app.meaning import meaning_of
from oasisvq.app.models import belongings, load_palettes, turn
from oasisvq.app.pictures import EDITED, marked, png
from oasisvq.app.terms import GLOSSARY, Figure, in_one_line
from oasisvq.data.codes import read_codes, write_codes
from oasisvq.errors import OasisVQError
from oasisvq.measure import metrics

PROPOSALS = 4
COST = "bits before"
TRIES = {"ventricles": "Wider ventricles", "cortex": "Thinner cortex", "half": "Half of another slice"}

model = model_in_frame()
palettes = load_palettes(model)
preset = model.preset
sha256 = model.info["files"]["vqvae.safetensors"]["sha256"]


def codes_of(example: str) -> np.ndarray | None:
    """A bundled example as codes."""
    if example not in bundled():
        return None
    return model.encode(in_model_size(example, bundled()[example], preset.size).tensor)[0].numpy()


def picture_of(indices: np.ndarray) -> np.ndarray:
    """What codes decode to, (S, S) in [0, 1]."""
    return model.decode(torch.from_numpy(indices)[None])[0, 0].numpy() + 0.5


def cost_of(indices: np.ndarray) -> float:
    """Bits under the prior."""
    return float(model.surprise(torch.from_numpy(indices)[None]).sum())


def ask(wanted: dict) -> None:
    """What the browser asks for besides strokes. A callback, so that nothing interrupts it."""
    state = current()
    if state is None:
        return
    match wanted["kind"]:
        case "propose":
            propose(state)
        case "use":
            take(preset, int(wanted["number"]))
        case "dismiss":
            beside(asked=None, fills=(), likely=None)
        case "layer":
            beside(layer=int(wanted["number"]), likely=None)
        case "copy":
            copy(edits.beneath(preset, state.selection), state.indices)
        case "paste" | "mirror":
            transplant(wanted["kind"] == "mirror")
        case "try":
            attempt(state, str(wanted["name"]))
        case "likely":
            place = min(max(int(wanted["place"]), 0), preset.codes - 1)
            with turn(urgent=True):
                codes, shares = model.likely(torch.from_numpy(state.indices)[None], place)
            beside(likely=(place, list(zip(codes.tolist(), shares.tolist(), strict=True))), fills=())
        case "meaning":
            beside(meaning=meaning_of(model, beside().layer, int(wanted["code"])))


def propose(state: editor.Editor) -> None:
    """Draw the selected cells again, several times over."""
    if not state.selection.any():
        return
    selection = edits.beneath(preset, state.selection)
    seed = st.session_state.get("refill seed", 0)
    grid, mask = torch.from_numpy(state.indices)[None], torch.from_numpy(selection)
    fills = []
    for i in range(PROPOSALS):
        with turn():  # for each: others need not wait for all of them
            filled = model.refill(grid, mask, seed=seed + i)
        fills.append(Fill(filled.indices[0].numpy(), filled.slices[0, 0].numpy() + 0.5))
    st.session_state["refill seed"] = seed + PROPOSALS
    beside(asked=editor.select(state, selection), fills=fills, likely=None)


def transplant(mirror: bool) -> None:
    """Put what was copied where it was, or its mirror image on the other side."""
    if (source := copied()) is None:
        return
    mask, codes = source.mask, source.indices
    if mirror:
        mask = edits.mirrored(preset, mask)
        with turn(urgent=True):
            flipped = torch.from_numpy(picture_of(codes)[:, ::-1].copy() - 0.5)
            codes = model.encode(flipped[None, None])[0].numpy()
    paste(mask, codes)


def attempt(state: editor.Editor, name: str) -> None:
    """A prepared edit."""
    with turn(urgent=True):
        picture = picture_of(state.indices)
        if name == "ventricles":
            codes = edits.bend(model, state.indices, picture, edits.wider_ventricles(picture))
        elif name == "cortex":
            codes = edits.bend(model, state.indices, picture, edits.thinner_cortex(picture))
        else:
            codes = edits.halves(preset, state.indices, fresh(model, EIGHT // 2).indices)
    store(editor.put(state, codes))


def walk() -> None:
    """Go along the path to the other slice, as one step to undo."""
    state, share = catch_up(preset), st.session_state["along the path"] / 100
    other = st.session_state["path to"]
    if state is None:
        return
    if belongings().get(PATH, ("", "", None))[:2] != (state.epoch, other):
        belongings()[PATH] = (state.epoch, other, state.indices)
    start = belongings()[PATH][2]
    with turn(urgent=True):
        end = codes_of(other)
        codes = edits.path(model, start, fresh(model, EIGHT // 2).indices if end is None else end, share)
    store(editor.put(state, codes, stroke=-1))


@st.fragment
def studio() -> None:
    """The grid, and what can be said about the codes as they are now."""
    state = current()
    with turn(urgent=True):
        now = picture_of(state.indices)
        start = before(picture_of)
    # First of all: the browser draws it while the rest is computed.
    code_grid(preset, state, now, start, palettes, TRIES, ask)
    with turn():
        bits = cost_of(state.indices)
        if belongings().get(COST, ("", 0.0))[0] != state.epoch:  # that of the start is found out once
            belongings()[COST] = (state.epoch, cost_of(state.original))
    more = bits - belongings()[COST][1]
    changed = int(state.changed.sum())
    st.html(
        in_one_line(
            (
                Figure("cells changed", f"{changed}", "Codes that differ from those of the start."),
                Figure(
                    "SSIM with the start",
                    f"{metrics.ssim(start, now):.3f}",
                    GLOSSARY["SSIM"],
                ),
                Figure(
                    "under the prior",
                    f"{bits:,.0f} bits" + (f" ({more:+,.0f})" if changed else ""),
                    "What the prior needs to name all codes. More than before: more unusual for this model.",
                ),
            )
        )
    )
    keep(state, now)


def keep(state: editor.Editor, now: np.ndarray) -> None:
    """What can be taken along: picture, codes, and a link where nothing of an upload would be in it."""
    with st.expander("Take it home"):
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
            write_codes(state.indices, sha256),
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
    kept = {name: value for name, value in asked.items() if name not in ("weights", "prior", "cells", *links.ORIGIN)}
    st.query_params.from_dict(kept)
    try:
        with turn():
            restored = links.restore(model, asked, codes_of)
    except OasisVQError as error:
        st.error(f"This link cannot be followed: {error}", icon=":material/link_off:")
    else:
        store(editor.put(open_codes(restored.original, restored.origin), restored.indices))


follow_link()
row = st.container(horizontal=True, vertical_alignment="center", gap="small", key="chooser")
chosen = choose_slice(preset.size, row)
# Only the first slice opens by itself: a later choice must not wipe out what was painted.
if chosen is not None and (row.button("Open this slice") or current() is None):
    with turn():
        codes = model.encode(chosen.tensor)[0].numpy()
    open_codes(codes, {"example": chosen.source} if chosen.source in bundled() else None)
with row.popover("Saved codes"):
    saved = st.file_uploader("Saved codes", type=["npz"], max_upload_size=1, key="saved codes")
    if saved is not None and st.button("Open these codes"):
        try:
            open_codes(read_codes(saved.getvalue(), "The file", preset.shape, most(preset), sha256), None)
        except OasisVQError as error:
            st.error(str(error), icon=":material/error:")
with row.popover("Path to another slice"):
    st.selectbox("To", ["A drawn slice", *bundled()], key="path to", on_change=walk)
    st.slider("Along the path, %", 0, 100, 0, 5, key="along the path", on_change=walk)
    st.caption("Each cell takes the code that lies nearest to the mean of both, weighed by the way gone.")
if current() is not None:
    studio()
