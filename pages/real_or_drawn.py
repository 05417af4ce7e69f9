"""Real or drawn? Ten pictures to guess, and what gives each of them away."""

import secrets

import streamlit as st

from oasisvq.app.choose import bundled, shrunk
from oasisvq.app.frame import model_in_frame
from oasisvq.app.models import session_store
from oasisvq.app.pictures import marked
from oasisvq.app.quiz import Item, make_round
from oasisvq.data.examples import with_lesion

ROUND, ANSWERS = "round of pictures", "answers"
MARK = "NOT A SCAN"
REVIEWED = 160  # pixels a side of each picture after the round

model = model_in_frame()


def begin() -> None:
    """Ten new pictures."""
    examples = {name: picture for name, picture in bundled().items() if name != with_lesion()[0]}
    small = {name: shrunk(picture[None], model.preset.size)[0] for name, picture in examples.items()}
    session_store()[ROUND] = make_round(model, small, secrets.randbelow(2**31))
    session_store()[ANSWERS] = []


def answer(drawn: bool) -> None:
    """A guess at the picture shown. A second click, before the page could follow the first, is none."""
    if st.session_state.get("answered") or len(session_store()[ANSWERS]) >= len(session_store()[ROUND]):
        return
    session_store()[ANSWERS].append(drawn)
    st.session_state["answered"] = True


def go_on() -> None:
    """To the next picture."""
    st.session_state["answered"] = False


if ROUND not in session_store():
    with st.spinner("Drawing five slices …"):
        begin()
    go_on()
items: list[Item] = session_store()[ROUND]
answers: list[bool] = session_store()[ANSWERS]
answered = st.session_state.get("answered", False) and bool(answers)
number = len(answers) - 1 if answered else len(answers)
right = sum(guess == item.drawn for guess, item in zip(answers, items, strict=False))

stage, words = st.columns([3, 2], gap="medium")
if number < len(items):
    with stage, st.container(key="guess"):
        st.image(
            marked(items[number].picture, MARK, 960),
            width="stretch",
            alt=f"Picture {number + 1} of {len(items)}: reconstructed or drawn",
        )
else:
    with stage, st.container(horizontal=True, key="review", gap="small"):
        for i, (item, guess) in enumerate(zip(items, answers, strict=True)):
            what = "Drawn" if item.drawn else "Reconstructed"
            with st.container(width=REVIEWED, gap=None):
                st.image(marked(item.picture, MARK, 2 * REVIEWED), width=REVIEWED, alt=f"Picture {i + 1}: {what}")
                st.caption(f"{i + 1}. {what}. You were {'right' if guess == item.drawn else 'wrong'}.", help=item.why)
with words:
    st.progress(len(answers) / len(items), f"Picture {min(number + 1, len(items))} of {len(items)}")
    if number >= len(items):
        st.subheader(f"You got {right} of {len(items)} right.")
        st.button("Another round", type="primary", icon=":material/replay:", on_click=begin)
    elif answered:
        item, guess = items[number], answers[number]
        verdict = "Right" if guess == item.drawn else "Wrong"
        st.subheader(f"{verdict}: it was {'drawn by the model' if item.drawn else 'a reconstruction'}.")
        st.write(item.why)
        st.button("Next", type="primary", on_click=go_on, shortcut="N")
    else:
        st.subheader("Is it the reconstruction of a slice, or did the model draw it?")
        buttons = st.container(horizontal=True, key="answers")
        buttons.button("Reconstructed", on_click=answer, args=(False,), shortcut="1", icon=":material/compare:")
        buttons.button("Drawn", on_click=answer, args=(True,), shortcut="2", icon=":material/draw:")
    score = f"**You:** {right} of {len(answers)} right." if answers else "**You:** no guess yet."
    classifier = (model.info.get("draws") or {}).get("auc", {}).get("against_reconstructions")
    if classifier:
        score += (
            f"\n\n**A small classifier** trained for this: given one drawn slice and one reconstruction of a person "
            f"outside the training data, it picks out the drawn one {100 * classifier:.0f} % of the time. "
            "Chance is 50 %."
        )
    st.markdown(score)
    st.caption(
        "Five of the ten are reconstructions of the examples in this app (Colin 27, a template, phantoms), some of "
        "them mirrored. The other five are drawn by the model at the same levels. Your guesses are not stored."
    )
