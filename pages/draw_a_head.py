"""Draw a head: 32 levels that belong together, each drawn given those beside it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import streamlit as st

from oasisvq.app import address, links
from oasisvq.app.choose import bundled, choose_slice
from oasisvq.app.codes import Codes
from oasisvq.app.controls import LARGEST_SEED, UNKNOWN, choose_grade, new_seed
from oasisvq.app.drawing import known_grades
from oasisvq.app.drawn_head import FIRST, DrawnHead, head_of, scroll
from oasisvq.app.frame import link, model_in_frame
from oasisvq.app.models import choices, compute_slot, drawer_of_heads
from oasisvq.app.planes import planes

EVERY = 0.5  # seconds: how often the page looks at a head that is drawn

chosen_model = model_in_frame()
with st.spinner("Loading the weights …"):
    drawer = drawer_of_heads(chosen_model)
if drawer is None:
    st.info(
        "These weights draw single slices: their prior has not learned how the slices of one head follow each other.",
        icon=":material/stacks:",
    )
    for name, choice in choices().items():
        if choice.draws_heads:
            use = partial(st.session_state.__setitem__, "model", name)
            st.button(f"Draw with {choice.label}", icon=":material/stacks:", type="primary", on_click=use)
    link("Generate", "Draw single slices")
    st.stop()
model, preset, grades = drawer, drawer.preset, known_grades(drawer)


def settings() -> dict[str, Any]:
    """Controls: what `OasisVQ.sample_head` is asked."""
    address.follow("seed", FIRST["seed"], address.number(int, 0, LARGEST_SEED))
    new.button("Draw another head", icon=":material/draw:", type="primary", on_click=new_seed)
    seed = more.number_input(
        "Seed",
        0,
        LARGEST_SEED,
        key="seed",
        persist_state="session",
        help="The start of the random numbers: the same seed with the same settings gives the same head.",
    )
    grade = choose_grade(more, grades)
    address.tell({"seed": (seed, FIRST["seed"]), "grade": (grade, UNKNOWN)})
    return {"seed": seed, "grade": None if grade == UNKNOWN else grade}


def from_a_slice() -> tuple[dict[int, Codes], Mapping[str, object] | None] | None:
    """Codes of the level to begin from, if any, and what a link says of it, None for an upload. None: no file yet."""
    address.follow("complete", False, address.one_of([False, True]))
    complete = more.toggle("Complete a head from a slice", key="complete", persist_state="session")
    address.tell({"complete": (complete, False)})
    if not complete:
        return {}, {}
    line = st.container(horizontal=True, vertical_alignment="center")
    chosen = choose_slice(preset.size, line)
    if chosen is None:
        return None
    level = chosen.level
    if level is None:
        level = line.select_slider(
            "Level of the slice",
            range(preset.levels),
            preset.levels // 2,
            format_func=lambda level: f"level {level}",
            key=f"place of {chosen.source} {chosen.index}",
            label_visibility="collapsed",
            width=260,
            help="Where in the head it lies: 0 is the lowest level.",
        )
    with compute_slot(urgent=True):
        codes = model.encode(chosen.tensor)[0].numpy()
    origin = {"complete": True, "slice": chosen.source} if chosen.source in bundled() else None
    return {level: codes}, origin


def show(head: DrawnHead) -> None:
    """The planes, looked at again and again while the head grows."""
    running = head.running  # before the picture, so that the last look shows all
    head.look()
    planes(head, f"seed {head.settings['seed']}")
    if was_running and not running:
        st.rerun()


def keep(head: DrawnHead) -> None:
    """What can be taken along."""
    from oasisvq.data.frame import as_nifti  # SimpleITK loads slowly

    name = f"oasisvq-synthetic-head-seed{head.settings['seed']}"
    take = row.popover("Save", icon=":material/download:", disabled=not any(head.frames))
    take.download_button(
        "Volume, NIfTI",
        lambda: as_nifti(head.levels()),
        file_name=f"{name}.nii.gz",
        mime="application/gzip",
        on_click="ignore",
        width="stretch",
        help="In the frame of the training slices: 1 mm from level to level. Its header says that it is synthetic.",
    )
    take.download_button(
        "Scroll through it, WebP",
        lambda: scroll(head),
        file_name=f"{name}.webp",
        mime="image/webp",
        on_click="ignore",
        width="stretch",
    )
    if head.link is not None:
        named = {**head.settings, **head.link}
        take.caption("This link draws the same head again:")
        take.code(links.redraw(st.context.url or "", model, named), language=None, wrap_lines=True)


row = st.container(horizontal=True, vertical_alignment="center", gap="small", key="chooser")
new, more = row.container(horizontal=True, width="content"), row.popover("More", icon=":material/tune:")
wanted = settings()
begun = from_a_slice()
if begun is None:
    st.stop()
given, origin = begun
head = head_of(model, wanted, given, origin)
was_running = head.running
if was_running:
    new.button(
        "Stop", icon=":material/stop:", on_click=head.stop, disabled=head.stopping, help="What is there is kept."
    )
else:
    if not head.whole and new.button("Draw it again", icon=":material/replay:"):
        head_of(model, wanted, given, origin, again=True)
        st.rerun()
    keep(head)
st.fragment(show, run_every=EVERY if was_running else None)(head)
beginning = "completed from a slice" if given else "drawn from the middle outwards"
st.caption(
    f"{preset.levels} neighbouring slices, 1 mm apart, of no real person, {beginning}, each level given those beside "
    "it. Every picture carries the mark **SYNTHETIC**. Which side is left is not known."
    + (
        ""
        if model is chosen_model
        else f" Drawn with **{preset.name}**, which has the codes of {chosen_model.preset.name} and knows neighbours."
    )
    + (
        ""
        if model.prior.near
        else " The fine codes of each level are drawn by themselves: texture flickers between levels."
    )
)
