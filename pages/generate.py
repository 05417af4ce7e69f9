"""Generate: new slices from the prior, code by code."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from oasisvq.app import address, code_grid, links, wording
from oasisvq.app.choose import Chosen, bundled, choose_slice
from oasisvq.app.controls import LARGEST_SEED, UNKNOWN, choose_grade, controls_of, new_seed
from oasisvq.app.drawing import Drawn, Upper, animation, known_grades
from oasisvq.app.frame import go_to, model_in_frame
from oasisvq.app.gallery import EIGHT, GALLERY, draw_once, draw_strip, fresh, fresh_settings, levels_apart
from oasisvq.app.models import compute_slot, session_store
from oasisvq.app.pictures import SYNTHETIC, marked, png
from oasisvq.app.player import Strip, player
from oasisvq.app.terms import GLOSSARY
from oasisvq.models.presets import TOP_K

TOP_KS = [5, 10, 20, 50, 70, 100, TOP_K, None]  # links may ask for 70, an earlier default
TEMPERATURES = [0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
KIND = "kind of strip"
KINDS = {"fresh": "Eight slices", "level": "Levels", "temperature": "Temperatures", "grade": "CDR", "seen": "Yours"}

model = model_in_frame()
preset, grades = model.preset, known_grades(model)
levels = levels_apart(preset.levels)
first = fresh_settings(model)[EIGHT // 2]  # what a bare address shows


def settings() -> dict[str, Any]:
    """Controls: what `OasisVQ.sample` is asked."""
    address.follow("seed", first["seed"], address.number(int, 0, LARGEST_SEED))
    address.follow("level", first["level"], address.one_of([None, *range(preset.levels)]))
    address.follow("temperature", 1.0, address.number(float, 0.5, 1.5))
    address.follow("top_k", TOP_K, address.one_of(TOP_KS))
    new.button("Draw a new slice", icon=":material/draw:", type="primary", on_click=new_seed)
    level = new.select_slider(
        "Level of the slice",
        [None, *range(preset.levels)],
        format_func=lambda level: "any level" if level is None else f"level {level}",
        key="level",
        persist_state="session",
        label_visibility="collapsed",
        width=300,
        help=GLOSSARY["level"],
    )
    seed = more.number_input("Seed", 0, LARGEST_SEED, key="seed", persist_state="session", help=GLOSSARY["seed"])
    temperature = more.slider(
        "Temperature", 0.5, 1.5, step=0.05, key="temperature", persist_state="session", help=GLOSSARY["temperature"]
    )
    top_k = more.select_slider(
        "Top-k",
        TOP_KS,
        format_func=lambda k: "all codes" if k is None else f"{k} likeliest",
        key="top_k",
        persist_state="session",
        help=GLOSSARY["top-k"],
    )
    grade = choose_grade(more, grades)
    values = {
        "seed": (seed, first["seed"]),
        "level": (level, first["level"]),
        "temperature": (temperature, 1.0),
        "top_k": (top_k, TOP_K),
        "grade": (grade, UNKNOWN),
    }
    address.tell(values)
    known = None if grade == UNKNOWN else grade
    return {"temperature": temperature, "top_k": top_k, "grade": known, "seed": seed, "level": level}


def upper_part() -> tuple[Upper, Chosen] | None:
    """What to begin from, if not from nothing, and the slice that it belongs to."""
    if not st.session_state.get("begin"):
        return None
    line = st.container(horizontal=True, vertical_alignment="center")
    chosen = choose_slice(preset.size, line)
    if chosen is None:
        return None
    side = preset.parts[0][0]
    st.session_state.setdefault(_rows(), side // 2)
    rows = line.slider("Rows of codes to keep", 1, side - 1, key=_rows(), persist_state="session", width=260)
    with compute_slot(urgent=True):
        indices = model.encode(chosen.tensor)[0].numpy()
    return Upper(indices, rows, chosen.source if chosen.source in bundled() else None), chosen


def _rows() -> str:
    """Where the session keeps the rows of codes of the upper part."""
    return f"rows of {preset.parts[0][0]}"


def strip(shown: Drawn, wanted: dict[str, Any]) -> Strip:
    """Draws to compare with."""
    kinds = {kind: label for kind, label in KINDS.items() if kind != "grade" or grades}
    kind = st.session_state.get(KIND, "fresh")
    if kind == "seen":
        # What began from an upload can't be shown again: another file may have taken its place.
        seen = [one for one in session_store().get(GALLERY, {}).values() if one.origin is not None]
        return Strip(kinds, kind, [(one, wording.in_short(one.settings)) for one in reversed(seen)])
    if kind == "fresh":
        draws = [fresh(model, number) for number in range(EIGHT)]
        return Strip(kinds, kind, [(one, f"level {one.settings['level']}") for one in draws])
    values: dict[str, Sequence[float]] = {"level": levels, "temperature": TEMPERATURES, "grade": grades}
    own = wanted[kind]
    choices = [*([None] if kind == "grade" else []), *sorted({*values[kind], *([] if own is None else [own])})]
    with st.spinner(f"Drawing the same seed {len(choices)} times …"):
        draws = draw_strip(model, [wanted | {kind: choice} for choice in choices])
    return Strip(kinds, kind, [(one, wording.in_short({kind: one.settings[kind]})) for one in draws])


def pick(drawn: dict[str, Drawn], wanted: dict[str, str]) -> None:
    """Another strip, or a draw of this one: its settings become those of the page."""
    if kind := wanted.get("kind"):
        st.session_state[KIND] = kind
    elif one := drawn.get(wanted.get("id", "")):
        st.session_state.update(controls_of(one, _rows()))


def keep(shown: Drawn) -> None:
    """What can be taken along."""
    fields = wording.provenance(model.info, SYNTHETIC) | dict(shown.settings)
    name = f"oasisvq-synthetic-seed{shown.settings['seed']}"
    if row.button("Edit codes", icon=":material/grid_on:"):
        code_grid.open_codes(shown.indices, shown.origin)
        go_to("Edit codes")
    take = row.popover("Save", icon=":material/download:")
    take.download_button(
        "Picture, PNG",
        lambda: png(marked(shown.picture / 255, SYNTHETIC), fields),
        file_name=f"{name}.png",
        mime="image/png",
        on_click="ignore",
        width="stretch",
    )
    take.download_button(
        "How it grew, WebP",
        lambda: animation(shown),
        file_name=f"{name}.webp",
        mime="image/webp",
        on_click="ignore",
        width="stretch",
    )
    if shown.origin is not None and "rows" not in shown.origin:
        take.caption("This link draws the same slice again:")
        take.code(links.redraw(st.context.url or "", model, shown.settings), language=None, wrap_lines=True)


def measured() -> None:
    """How real draws are, and how near to training slices: the slices themselves do not come with the weights."""
    if not model.info.get("draws"):
        return
    near, auc = model.info["draws"]["copies"], model.info["draws"]["auc"]["against_reconstructions"]
    st.caption(
        "**How real are drawn slices?** Given one of them and one reconstruction of a person outside the training "
        f"data, a small classifier picks out the drawn one {100 * auc:.0f} % of the time; chance is 50 %. **Are they "
        f"copies?** The median distance to the nearest training slice is {near['draws_median']:.4f} for "
        f"{model.info['draws']['count']:,} drawn slices and {near['held_out_median']:.4f} for reconstructions of "
        "people outside the training data (root mean square difference of grey, 0 to 1); "
        f"{100 * near['share_closer']:.1f} % of the drawn slices lie closer than the closest 1 % of those, and copies "
        "would push this far up. Training slices do not come with the weights; where you have them, "
        "`python -m oasisvq sample --near DIR` measures a single slice."
    )


row = st.container(horizontal=True, vertical_alignment="center", gap="small", key="chooser")
new, more = row.container(horizontal=True, width="content"), row.popover("More", icon=":material/tune:")
wanted = settings()
more.toggle("Begin with the upper part of a slice", key="begin", persist_state="session")
begun = upper_part()
with st.spinner("Drawing …"):
    shown = draw_once(model, wanted, begun and begun[0])
others = strip(shown, wanted)
player(model, shown, others, partial(pick, {one.id: one for one, _ in others.draws}))
keep(shown)
st.caption(
    (
        f"The upper part is that of {begun[1].name}; the prior drew the rest, with {shown.name}."
        if begun
        else f"This slice shows no real person. It was drawn with {shown.name}."
    )
    + " Every picture of it carries the mark **SYNTHETIC**."
)
if begun and wanted["level"] is not None and begun[1].level not in (None, wanted["level"]):
    st.caption(f"The prior is given level {wanted['level']}, while the upper part is of level {begun[1].level}.")
measured()
