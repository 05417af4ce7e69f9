"""Generate: new slices from the prior, code by code."""

import math

import streamlit as st

from oasisvq.app import code_grid, wording
from oasisvq.app.choose import bundled, choose_slice
from oasisvq.app.drawing import GALLERY, Drawn, Growing, Upper, draw, known_grades
from oasisvq.app.frame import model_in_frame
from oasisvq.app.models import belongings, load_palette, turn, waiting
from oasisvq.app.pictures import SIDE, SYNTHETIC, code_map, entropy_map, marked, mosaic

KEPT, COLUMNS = 24, 4
UNKNOWN = ""  # no rating; a selector shows None as nothing chosen

model = model_in_frame()
palette = load_palette(model)
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
    grade = UNKNOWN
    if grades := known_grades(model):
        grade = third.selectbox(
            "Clinical dementia rating",
            [UNKNOWN, *grades],
            format_func=lambda grade: wording.grade(None if grade == UNKNOWN else grade),
            key="grade",
            persist_state="session",
            help="Only ratings that people came with whom the weights saw. Few had the highest.",
        )
    grade = None if grade == UNKNOWN else grade
    return count, {"seed": seed, "temperature": temperature, "top_k": top_k, "level": level, "grade": grade}


def upper_part() -> Upper | None:
    """What to begin from, if not from nothing."""
    if not st.toggle("Begin with the upper part of a slice", key="begin", persist_state="session"):
        return None
    chosen = choose_slice(preset.size)
    if chosen is None:
        return None
    rows = st.slider(
        "Rows of codes to keep",
        1,
        preset.side - 1,
        preset.side // 2,
        key=f"rows of {preset.side}",
        help="The model sees these and draws what lies below.",
    )
    with turn():
        indices = model.encode(chosen.tensor)[0].numpy()
    return Upper(indices, rows, chosen.source if chosen.source in bundled() else None)


def studio() -> None:
    """Controls, the draw under way, and the gallery."""
    count, wanted = settings()
    upper = upper_part()
    left, right = st.columns([1, 5])
    stop, stage = right.empty(), st.empty()
    mine = belongings()
    if left.button("Draw", icon=":material/draw:", width="stretch"):
        # Any click ends a draw at its next picture: the button needs no code of its own. (Not so inside a fragment,
        # whose reruns wait for the run under way.)
        stop.button("Stop", icon=":material/stop:")
        with stage.container():
            drawn = live(count, wanted, upper)
        mine[GALLERY] = (drawn + mine.get(GALLERY, []))[:KEPT]
        stop.empty()
        stage.empty()
    gallery(mine.get(GALLERY, []))


def live(count: int, wanted: dict, upper: Upper | None) -> list[Drawn]:
    """Picture, codes and entropy as they grow."""
    most_open = math.log2(preset.codebook_size)
    progress = st.progress(0.0, text="Waiting for a free place …" if waiting() else "The first code …")
    places = [column.empty() for column in st.columns(3)]

    def show(now: Growing) -> None:
        row, column = divmod(int(now.known.sum()) - 1, preset.grid[1])
        others = f" Taking turns with {waiting()} more." if waiting() else ""
        progress.progress(
            now.done / now.total,
            text=f"{now.done} of {now.total} codes, {now.seconds_left:.1f} s left. Entropy of the code at row "
            f"{row + 1}, column {column + 1}: {now.entropy[:, row, column].mean():.1f} bits.{others}",
        )
        places[0].image(
            mosaic([marked(picture, SYNTHETIC, SIDE) for picture in now.pictures]),
            width="stretch",
            caption="The slice so far",
            alt="Synthetic slice under construction, row by row from the top",
        )
        places[1].image(
            mosaic([code_map(indices, palette.rank, now.known) for indices in now.indices]),
            width="stretch",
            caption="Its codes so far. Violet: dark, yellow: bright",
            alt="Grid of codes under construction; codes not drawn yet are grey",
        )
        places[2].image(
            mosaic([entropy_map(bits, most_open) for bits in now.entropy]),
            width="stretch",
            caption=f"How open each code was: entropy, black 0 to yellow {most_open:.0f} bits",
            alt="Entropy of each code before it was drawn; codes not drawn are grey",
        )

    return draw(model, count, wanted, show, upper)


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
                code_grid.open_codes(one.indices, one.origin)
                st.switch_page("pages/edit_codes.py")
    st.button("Empty the gallery", icon=":material/delete:", on_click=lambda: belongings().pop(GALLERY, None))


def measured() -> None:
    """How real draws are, and how near to training slices: the slices themselves do not come with the weights."""
    if not model.info.get("draws"):
        return
    near, told = model.info["draws"]["copies"], model.info["draws"]["auc"]["against_reconstructions"]
    st.caption(
        "Are they real? Of a draw and a reconstructed slice of a held-out person, a small classifier names "
        f"the right one as the draw {told:.0%} of the time (50 %: it cannot tell). "
        f"Are they copies? Nearest training slice: median distance {near['draws_median']:.4f} for "
        f"{model.info['draws']['count']:,} draws and {near['held_out_median']:.4f} for slices of held-out people (root "
        f"mean square difference of grey, 0 to 1); {near['share_closer']:.1%} of the draws are nearer than the nearest "
        "1 % of held-out slices. Training slices do not come with the weights, so single draws cannot be compared "
        "here; `python -m oasisvq sample --near DIR` does it where the slices are."
    )


st.markdown(
    "The PixelCNN draws a slice that nobody has, one code after the other from the top left; the decoder paints what "
    "is there so far. Every picture carries the mark **SYNTHETIC**."
)
studio()
measured()
