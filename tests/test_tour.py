"""The tour, the quiz, and words that explain themselves."""

import numpy as np
import pytest
from test_app import _navigation_is_known, button, mine, open_page  # noqa: F401  one is a fixture

from oasisvq.app import address, models, tour
from oasisvq.app.choose import bundled, shrunk
from oasisvq.app.frame import PAGES
from oasisvq.app.quiz import EACH, make_round, why_drawn, why_real
from oasisvq.app.terms import GLOSSARY, Figure, in_one_line, term

pytestmark = pytest.mark.slow


def test_every_step_of_the_tour_is_an_address_of_a_page():
    known = {page.title: page.keys for page in PAGES}
    for number, step in enumerate(tour.STEPS):
        assert set(step.settings) <= set(known[step.page])
        page, query = tour.address_of(number)
        assert page == step.page
        assert tour.step_in(query["tour"]) == number


@pytest.mark.parametrize("text", [None, "", "0", "99", "-1", "x", "1" * 5000])
def test_an_address_without_a_step_is_no_tour(text):
    assert tour.step_in(text) is None


def test_the_tour_leads_over_the_pages():
    app = open_page("surprise")
    app.query_params["tour"] = "5"
    app.run()
    assert not app.exception
    assert any(tour.STEPS[4].say in markdown.value for markdown in app.markdown)
    app.segmented_control(key="source").set_value("Your own file").run()
    assert app.session_state["source"] == "Your own file", "a visitor may stray"
    app.query_params["tour"] = "1"
    app.switch_page("pages/reconstruct.py").run()
    assert app.session_state["source"] == "Example", "what a step says is of an example"
    app.switch_page("pages/surprise.py").run()
    assert not any(tour.STEPS[0].say in markdown.value for markdown in app.markdown), "a step of another page"


def test_a_round_is_half_drawn_and_of_the_same_levels():
    model = models.load_model()
    examples = {name: shrunk(picture[None], 80)[0] for name, picture in bundled().items()}
    items = make_round(model, examples, seed=3)
    assert sum(item.drawn for item in items) == EACH
    assert len(items) == 2 * EACH
    assert len({item.picture.tobytes() for item in items}) == len(items)
    assert all(item.why and item.picture.shape == (80, 80) for item in items)
    again = make_round(model, examples, seed=3)
    np.testing.assert_array_equal(np.stack([i.picture for i in items]), np.stack([i.picture for i in again]))


def test_what_gives_a_picture_away_names_what_it_is():
    for name in bundled():
        told = why_real(name)
        assert name in told
        assert ("phantom" in told) == name.startswith("Phantom")
        assert ("one man" in told) == name.startswith("Colin 27")
    assert "less alike (correlation 0.70)" in why_drawn(0.7, 0.8, 12)
    assert "as alike" in why_drawn(0.8, 0.8, 12)


def test_guesses_are_counted_and_another_round_begins():
    app = open_page("real_or_drawn")
    items = mine(app, "round of pictures")
    for number, item in enumerate(items):
        button(app, "Drawn" if item.drawn or number == 0 else "Reconstructed").click().run()
        assert not app.exception
        assert any(item.why == markdown.value for markdown in app.markdown)
        button(app, "Next").click().run()
    right = len(items) - (not items[0].drawn)
    assert any(f"You got {right} of 10 right" in heading.value for heading in app.subheader)
    review = [caption.value for caption in app.caption if "You were" in caption.value]
    assert [text.split(". ")[1] for text in review] == ["Drawn" if item.drawn else "Reconstructed" for item in items]
    assert [text.endswith("wrong.") for text in review] == [not items[0].drawn, *[False] * 9]
    button(app, "Another round").click().run()
    assert not app.exception
    assert mine(app, "answers") == []


def test_a_second_click_answers_nothing():
    app = open_page("real_or_drawn")
    answers = mine(app, "answers")
    button(app, "Drawn").click()
    answers.append(True)  # the click before, whose answer the page has not shown yet
    app.session_state["answered"] = True
    app.run()
    assert mine(app, "answers") == [True]
    app.session_state["answered"] = False
    app.run()
    button(app, "Drawn").click()
    answers[:] = [True] * 10  # the last answer of the round came just before
    app.run()
    assert not app.exception
    assert len(mine(app, "answers")) == 10
    assert any("right." in heading.value for heading in app.subheader)


def test_words_carry_their_meaning_and_no_markup():
    assert GLOSSARY["SSIM"] in term("SSIM")
    line = in_one_line([Figure("<b>a</b>", "1 & 2", '"<script>')])
    assert "<script>" not in line
    assert "<b>a" not in line
    assert "1 &amp; 2" in line


def test_readers_of_addresses_take_options_and_bounded_numbers_only():
    assert address.one_of([None, 3, "a"])("None") is None
    assert address.number(float, 0.5, 1.5)("0.7") == 0.7
    for read, text in (
        (address.one_of([1]), "2"),
        (address.number(int, 0, 9), "10"),
        (address.number(float, 0, 1), "nan"),
    ):
        with pytest.raises(ValueError, match=r"is no option|out of range"):
            read(text)
