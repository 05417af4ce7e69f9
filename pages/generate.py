"""Generate: new slices from the prior, code by code."""

import streamlit as st

from oasisvq.ui import code_grid, wording
from oasisvq.ui.drawing import Drawn, Growing, draw
from oasisvq.ui.frame import model_in_frame
from oasisvq.ui.models import load_palette
from oasisvq.ui.pictures import SYNTHETIC, code_map, marked, mosaic

GALLERY, KEPT, COLUMNS = "gallery", 24, 4

model, palette = model_in_frame(), load_palette()
preset = model.preset


def settings() -> tuple[int, dict]:
    """Controls: how many, and what `OasisVQ.sample` is asked."""
    first, second, third = st.columns(3)
    count = first.slider("How many", 1, 8, 1, key="count", persist_state="session")
    seed = first.number_input(
        "Seed", 0, 2**31 - 1, 0, key="seed", persist_state="session", help="Same seed, same slice."
    )
    temperature = second.slider(
        "Temperature",
        0.5,
        1.5,
        1.0,
        0.05,
        key="temperature",
        persist_state="session",
        help="Below 1: safer. Above 1: bolder.",
    )
    top_k = second.select_slider(
        "Top-k",
        [5, 10, 20, 50, 100, None],
        value=None,
        format_func=lambda k: "all codes" if k is None else f"{k} likeliest",
        key="top_k",
        persist_state="session",
        help="At each step only so many codes may be drawn.",
    )
    level = third.select_slider(
        "Level of the slice",
        [None, *range(preset.levels)],
        format_func=lambda level: "not given" if level is None else str(level),
        key="level",
        persist_state="session",
        help=f"0 is the lowest, {preset.levels - 1} the highest.",
    )
    grade = third.selectbox(
        "Clinical dementia rating",
        [None, *preset.grades],
        format_func=wording.grade,
        key="grade",
        persist_state="session",
        help="Means something only as far as the people that the weights saw came with ratings; few had the highest.",
    )
    return count, {"seed": seed, "temperature": temperature, "top_k": top_k, "level": level, "grade": grade}


def studio() -> None:
    """Controls, the draw under way, and the gallery."""
    count, wanted = settings()
    left, right = st.columns([1, 5])
    stop, stage = right.empty(), st.empty()
    if left.button("Draw", type="primary", icon=":material/draw:", width="stretch"):
        # Any click ends a draw at its next picture: the button needs no code of its own. (Not so inside a fragment,
        # whose reruns wait for the run under way.)
        stop.button("Stop", icon=":material/stop:")
        with stage.container():
            drawn = live(count, wanted)
        st.session_state[GALLERY] = (drawn + st.session_state.get(GALLERY, []))[:KEPT]
        stop.empty()
        stage.empty()
    gallery(st.session_state.get(GALLERY, []))


def live(count: int, wanted: dict) -> list[Drawn]:
    """Pictures and codes as they grow."""
    progress = st.progress(0.0, text="The first code …")
    left, right = st.columns(2)
    pictures, codes = left.empty(), right.empty()

    def show(now: Growing) -> None:
        progress.progress(
            float(now.known.mean()),
            text=f"{now.known.sum()} of {now.known.size} codes, {now.seconds_left:.1f} s left. "
            f"The last code was open by {now.entropy.mean():.1f} bits.",
        )
        pictures.image(
            mosaic([marked(picture, SYNTHETIC) for picture in now.pictures]),
            width="stretch",
            caption="The slice so far",
            alt="Synthetic slice under construction, row by row from the top",
        )
        codes.image(
            mosaic([code_map(indices, palette.rank, now.known) for indices in now.indices]),
            width="stretch",
            caption="Its codes so far. Violet: dark, yellow: bright",
            alt="Grid of codes under construction; codes not drawn yet are grey",
        )

    return draw(model, count, wanted, show)


def gallery(drawn: list[Drawn]) -> None:
    """Finished draws, newest first."""
    if not drawn:
        st.caption("Nothing drawn yet.")
        return
    st.subheader("Drawn in this session")
    for start in range(0, len(drawn), COLUMNS):
        row = drawn[start : start + COLUMNS]
        for place, (column, one) in enumerate(zip(st.columns(COLUMNS), row, strict=False), start):
            asked = ", ".join(f"{name} {value}" for name, value in one.settings.items() if value is not None)
            column.image(
                one.file, width="stretch", caption=f"{asked}; {one.bits:,.0f} bits", alt=f"Synthetic slice: {asked}"
            )
            column.download_button(
                "PNG",
                one.file,
                file_name=f"oasisvq-synthetic-seed{one.settings['seed']}-{one.settings['draw']}.png",
                mime="image/png",
                on_click="ignore",
                key=f"png {place}",
                icon=":material/download:",
            )
            if column.button("Edit codes", key=f"edit {place}", icon=":material/grid_on:"):
                code_grid.open_codes(one.indices)
                st.switch_page("pages/edit_codes.py")


st.title("Generate")
st.markdown(
    "The PixelCNN draws a slice that nobody has, one code after the other from the top left; the decoder paints what "
    "is there so far. Every picture carries the mark **SYNTHETIC**."
)
studio()
