"""Every page through Streamlit's own test runner, and the parts behind the pages, on the bundled weights."""

import io
import json
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

from oasisvq.app import charts, editor, models, wording
from oasisvq.app.choose import SHOWN_FIRST, in_model_size
from oasisvq.app.controls import controls_of
from oasisvq.app.drawing import STOPS, animation, draw, growth, known_grades
from oasisvq.app.editor import put
from oasisvq.app.palette import make_palette
from oasisvq.app.pictures import (
    MARGIN,
    REGION,
    SYNTHETIC,
    code_colours,
    enlarge,
    entropy_colours,
    heat,
    margin,
    marked,
    png,
    webp,
)
from oasisvq.app.slots import Slots
from oasisvq.data.codes import write_codes
from oasisvq.data.examples import examples
from oasisvq.errors import OasisVQError
from oasisvq.models.presets import TOP_K
from oasisvq.pipeline import OasisVQ

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
PLAIN = {"seed": 3, "temperature": 1.0, "top_k": None, "level": None, "grade": None}


@pytest.fixture(autouse=True)
def _navigation_is_known(monkeypatch):
    """Streamlit's runner forgets before each run what a server knows once a run has called st.navigation."""
    make = PagesManager.__init__

    def make_and_remember(self, *args, **kwargs):
        make(self, *args, **kwargs)
        PagesManager.uses_pages_directory = False

    monkeypatch.setattr(PagesManager, "__init__", make_and_remember)


@pytest.fixture(scope="module")
def model():
    return models.load_model()


def open_page(name: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    return app if name == "home" else app.switch_page(f"pages/{name}.py").run()


def mine(app: AppTest, name: str):
    """What this session made: `gallery`, `editor`, `proposals`."""
    return app.session_state["session_store"][name]


def button(app: AppTest, label: str):
    return next(button for button in app.button if button.label.startswith(label))


def metrics_of(app: AppTest) -> dict[str, str]:
    """Figures by their labels: those in one line, and those in boxes."""
    line = r'tabindex="0">([^<]+)<span class="meaning"[^>]*>[^<]*</span></span> <b>([^<]*)</b>'
    told = dict(pair for html in app.get("html") for pair in re.findall(line, html.proto.body))
    return told | {metric.label: metric.value for metric in app.metric}


def player_of(app: AppTest) -> dict:
    """What the player was told."""
    [player] = [one.proto for one in app.get("bidi_component") if one.proto.component_name.endswith("player")]
    return json.loads(player.json)


def as_png(picture: np.ndarray, mode: str = "L") -> bytes:
    content = io.BytesIO()
    Image.fromarray((picture * 255).astype(np.uint8)).convert(mode).save(content, "png")
    return content.getvalue()


@pytest.mark.parametrize("name", PAGES)
def test_page_runs_under_the_banner(name, model):
    app = open_page(name)
    assert not app.exception
    assert not app.error
    banners = [caption for caption in app.caption if wording.DISCLAIMER in caption.value]
    assert len(banners) == 1
    assert wording.saw(model.info["data"]) in banners[0].value
    assert len(app.title) == 1


def test_home_shows_the_figures_that_came_with_the_weights(monkeypatch, model):
    invented = model.info["results"] | {"people": 17, "ssim_mean": 0.8764, "ssim_ci95": [0.811, 0.922]}
    monkeypatch.setitem(model.info, "results", invented)
    app = open_page("home")
    ssim = next(metric for metric in app.metric if metric.label == "SSIM")
    assert ssim.value == "0.876"
    assert "0.811 to 0.922" in ssim.delta
    assert any("slices of 17 people" in caption.value for caption in app.caption)


def test_pages_do_without_results_and_curves(monkeypatch, model):
    monkeypatch.setitem(model.info, "results", None)
    monkeypatch.setitem(model.info, "history", {"vqvae": [], "prior": []})
    for name in ("home", "model_card", "reconstruct", "surprise"):
        assert not open_page(name).exception


def test_without_weights_there_is_one_line_and_no_page(monkeypatch):
    def none(*_):
        raise OasisVQError("no bundled weights at /nowhere: set OASISVQ_HUB_REPO")

    monkeypatch.setattr("oasisvq.app.frame.choices", none)
    app = open_page("home")
    assert len(app.error) == 1
    assert "set OASISVQ_HUB_REPO" in app.error[0].value
    assert not app.header


def test_an_upload_is_reconstructed_and_stays_in_its_session():
    app = open_page("reconstruct")
    template = metrics_of(app)
    app.segmented_control(key="source").set_value("Your own file").run()
    assert not metrics_of(app)
    picture = list(examples().values())[-1]
    app.file_uploader[0].upload("somebody.png", as_png(picture), "image/png").run()
    mine = metrics_of(app)
    assert mine.keys() == template.keys()
    assert mine != template

    app.switch_page("pages/surprise.py").run()
    app.segmented_control(key="source").set_value("Your own file").run()
    assert any("somebody.png" in caption.value for caption in app.caption)
    other = open_page("reconstruct")
    other.segmented_control(key="source").set_value("Your own file").run()
    assert not metrics_of(other)
    assert not any("somebody.png" in caption.value for caption in other.caption)

    next(button for button in app.button if button.label == "Forget this file").click().run()
    assert not metrics_of(app)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"not a picture", "not a readable PNG"), (as_png(np.full((64, 64), 0.5)), "equally bright")],
)
def test_a_bad_upload_gets_one_sentence(content, reason):
    app = open_page("reconstruct")
    app.segmented_control(key="source").set_value("Your own file").run()
    app.file_uploader[0].upload("bad.png", content, "image/png").run()
    assert not app.exception
    assert len(app.error) == 1
    assert "bad.png" in app.error[0].value
    assert reason in app.error[0].value


def test_generate_opens_on_eight_draws_of_different_levels():
    app = open_page("generate")
    assert not app.exception
    told = player_of(app)
    assert len({item["id"] for item in told["strip"]["items"]}) == 8
    assert len({item["label"] for item in told["strip"]["items"]}) == 8
    assert told["id"] in {item["id"] for item in told["strip"]["items"]}
    assert "gallery" not in app.session_state["session_store"], "the server drew these for all who come"


def test_a_seed_stands_for_a_slice():
    app = open_page("generate")
    shown = []
    for seed in (5, 6, 5):
        app.number_input(key="seed").set_value(seed).run()
        assert not app.exception
        shown.append(player_of(app)["id"])
    assert shown[0] == shown[2] != shown[1]
    assert app.query_params["seed"] in ("5", ["5"])
    assert len(mine(app, "gallery")) == 2
    button(app, "Draw a new slice").click().run()
    assert player_of(app)["id"] not in shown


@pytest.mark.parametrize(("level", "top_k"), [(9, TOP_K), (None, None)])
def test_the_address_draws_the_slice_again(level, top_k):
    app = open_page("generate")
    app.number_input(key="seed").set_value(5).run()
    app.session_state["level"], app.session_state["top_k"] = level, top_k
    app.slider(key="temperature").set_value(0.7).run()
    other = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    other.switch_page("pages/generate.py")
    link = dict(parse_qsl(urlsplit(app.code[0].value).query))
    assert link.keys() == {"seed", "level", "top_k", "temperature", "weights", "prior"}
    assert (link["level"], link["top_k"]) == (str(level), str(top_k))
    for name, value in link.items():
        other.query_params[name] = value
    other.run()
    assert not other.exception
    assert player_of(other)["id"] == player_of(app)["id"]
    assert other.number_input(key="seed").value == 5
    assert (other.session_state["level"], other.session_state["top_k"]) == (level, top_k)


def test_settings_that_make_no_sense_are_passed_over():
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    app.switch_page("pages/generate.py")
    for name, value in {"seed": "-4", "level": "99", "temperature": "nan", "top_k": "x", "model": "<b>"}.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    assert not app.error
    assert app.slider(key="temperature").value == 1


def test_variants_keep_the_seed():
    app = open_page("generate")
    app.number_input(key="seed").set_value(5).run()
    app.session_state["kind of strip"] = "temperature"
    app.run()
    assert not app.exception
    items = player_of(app)["strip"]["items"]
    assert len(items) == 8
    assert all("seed 5" in item["name"] for item in items)
    assert player_of(app)["id"] in {item["id"] for item in items}
    assert [item["label"] for item in items][-2:] == ["T 1.2", "T 1.3"]
    app.slider(key="temperature").set_value(1.5).run()
    items = player_of(app)["strip"]["items"]
    assert [item["label"] for item in items][-2:] == ["T 1.3", "T 1.5"], "the setting in use is one of them"
    assert items[-1]["id"] == player_of(app)["id"]
    app.session_state["kind of strip"] = "seen"
    app.run()
    labels = [item["label"] for item in player_of(app)["strip"]["items"]]
    assert len(labels) == 2, "what was drawn to compare with is not the visitor's own"
    assert labels[0].endswith(", T 1.5")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"level": 3, "temperature": 1.0, "grade": None, "seed": 1, "top_k": 70}, "level 3"),
        ({"level": None, "temperature": 0.8, "grade": 0.5, "seed": 1, "top_k": 70}, "any level, T 0.8, CDR 0.5"),
        ({"grade": None}, "CDR not given"),
        ({"grade": 0.0}, "CDR 0"),
        ({"temperature": 1.0}, "T 1"),
    ],
)
def test_a_small_picture_says_what_sets_it_apart(settings, words):
    assert wording.in_short(settings) == words


def test_a_page_says_what_a_slice_begins_with():
    app = open_page("generate")
    app.session_state["level"] = 3
    app.toggle(key="begin").set_value(True).run()
    assert not app.exception
    said = " ".join(caption.value for caption in app.caption)
    assert "belongs to nobody" not in said
    assert "The upper part is that of Colin 27, level" in said
    assert "given level 3" in said


def test_generated_codes_open_in_the_editor():
    app = open_page("generate")
    app.number_input(key="seed").set_value(5).run()
    [drawn] = mine(app, "gallery").values()
    next(button for button in app.button if button.label == "Edit codes").click().run()
    assert app.title[0].value == "Edit codes"
    np.testing.assert_array_equal(mine(app, "editor").indices, drawn.indices)
    grid = json.loads(app.get("bidi_component")[0].proto.json)
    assert grid["title"] == f"Drawn slice, level {drawn.settings['level']}, seed 5"
    assert grid["marks"] == ["SYNTHETIC", "SYNTHETIC"]


def shown_link(app: AppTest) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(app.code[0].value).query))


def test_a_link_restores_the_edits_elsewhere():
    app = open_page("edit_codes")
    state = mine(app, "editor")
    painted = state.indices.copy()
    painted[3, 4:7] = 9
    marks = [json.loads(app.get("bidi_component")[0].proto.json)["marks"]]
    app.session_state["session_store"]["editor"] = put(state, painted)
    app.run()
    marks.append(json.loads(app.get("bidi_component")[0].proto.json)["marks"])
    assert marks == [["RECONSTRUCTION", "RECONSTRUCTION"], ["RECONSTRUCTION", "EDITED CODES"]]
    other = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    other.switch_page("pages/edit_codes.py")
    for name, value in shown_link(app).items():
        other.query_params[name] = value
    other.run()
    assert not other.exception
    assert not other.error
    np.testing.assert_array_equal(mine(other, "editor").indices, painted)
    np.testing.assert_array_equal(mine(other, "editor").original, state.original)
    assert shown_link(other) == shown_link(app)


def test_a_link_of_other_weights_is_refused_and_an_example_opens():
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    app.switch_page("pages/edit_codes.py")
    app.query_params["weights"] = "0" * 12
    app.run()
    assert ["other weights" in error.value for error in app.error] == [True]
    assert not mine(app, "editor").changed.any()


def test_a_link_of_weights_that_are_not_here_says_so():
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    app.switch_page("pages/generate.py")
    app.query_params["weights"] = "0" * 12
    app.run()
    assert not app.exception
    assert ["weights that are not here" in toast.value for toast in app.toast] == [True]
    app.run()
    assert not app.toast


def test_home_draws_another_slice():
    app = open_page("home")
    before = player_of(app)["id"]
    button(app, "Draw another").click().run()
    assert not app.exception
    another = player_of(app)["id"]
    assert another != before
    app.run()
    assert player_of(app)["id"] == another


def test_another_choice_opens_at_once_unless_something_would_be_lost(model):
    """Edits, or a slice that another page sent."""
    app = open_page("edit_codes")
    names = app.selectbox(key="slice").options
    app.selectbox(key="slice").set_value(names[4]).run()
    assert mine(app, "origin") == {"example": names[4]}
    button(app, "Open this slice").click().run()
    edited = mine(app, "editor")
    app.session_state["session_store"]["editor"] = put(edited, edited.indices.copy() * 0)
    app.selectbox(key="slice").set_value(names[0]).run()
    assert mine(app, "origin") == {"example": names[4]}
    assert mine(app, "editor").changed.any()
    button(app, "Open this slice").click().run()
    assert mine(app, "origin") == {"example": names[0]}
    assert not mine(app, "editor").changed.any()

    app.switch_page("pages/reconstruct.py").run()
    app.selectbox(key="slice").set_value(names[3]).run()
    app.session_state["session_store"]["editor"] = sent = editor.start(edited.indices, "from another page")
    app.switch_page("pages/edit_codes.py").run()
    app.run()
    assert mine(app, "editor") is sent
    app.selectbox(key="slice").set_value(names[1]).run()
    assert mine(app, "origin") == {"example": names[1]}
    app.segmented_control(key="source").set_value("Your own file").run()
    app.segmented_control(key="source").set_value("Example").run()
    assert mine(app, "origin") == {"example": names[1]}
    assert not app.exception


def test_nothing_of_an_upload_is_put_in_a_link():
    app = open_page("edit_codes")
    assert len(app.code) == 1
    app.segmented_control(key="source").set_value("Your own file").run()
    upload = next(one for one in app.file_uploader if one.label.startswith("A T1 head"))
    upload.upload("somebody.png", as_png(list(examples().values())[-1]), "image/png").run()
    button(app, "Open this slice").click().run()
    assert not app.exception
    assert not app.code
    assert any("nothing of it is put in a link" in caption.value for caption in app.caption)


def test_codes_are_saved_and_opened_again(model):
    app = open_page("edit_codes")
    codes = model.sample(2, seed=4).indices.numpy()
    sha256 = model.info["files"]["vqvae.safetensors"]["sha256"]
    app.file_uploader(key="saved codes").upload("codes.npz", write_codes(codes, sha256), "").run()
    for number in (1, 2):
        next(field for field in app.number_input if field.label == "Slice of the file").set_value(number).run()
        button(app, "Open these codes").click().run()
        np.testing.assert_array_equal(mine(app, "editor").indices, codes[number - 1])
    next(field for field in app.number_input if field.label == "Slice of the file").set_value(3).run()
    button(app, "Open these codes").click().run()
    assert ["holds 2 slices" in error.value for error in app.error] == [True]
    assert not app.code
    app.file_uploader(key="saved codes").upload("codes.npz", b"PK", "").run()
    button(app, "Open these codes").click().run()
    assert ["not an .npz file" in error.value for error in app.error] == [True]


def test_a_slice_is_completed_below_its_upper_part(model):
    app = open_page("generate")
    app.toggle(key="begin").set_value(True).run()
    app.slider(key="rows of 20").set_value(13).run()
    assert not app.exception
    drawn = list(mine(app, "gallery").values())[-1]
    name = app.selectbox(key="slice").value
    codes = model.encode(in_model_size(name, examples()[name], 80).tensor)[0].numpy()
    np.testing.assert_array_equal(drawn.indices[:13], codes[:13])
    assert (drawn.indices[13:] != codes[13:]).any()
    assert np.isnan(drawn.entropy.reshape(20, 20)[:13]).all()
    assert drawn.origin["example"] == name
    assert drawn.settings["upper rows"] == 13

    app.toggle(key="begin").set_value(False).run()
    app.session_state["kind of strip"] = "seen"
    app.run()
    assert drawn.id in {item["id"] for item in player_of(app)["strip"]["items"]}
    assert player_of(app)["id"] != drawn.id
    app.number_input(key="seed").set_value(77).run()
    for key, value in controls_of(drawn, "rows of 20").items():
        app.session_state[key] = value
    app.run()
    assert app.number_input(key="seed").value != 77
    assert player_of(app)["id"] == drawn.id, "a draw that is picked among those of before is shown again"


def test_ratings_can_be_asked_for_only_where_the_weights_know_some(model):
    grades = model.prior.grade.weight
    kept = grades.clone()
    try:
        with torch.inference_mode(False), torch.no_grad():
            grades[:-1] = 0
            grades[1] = 1
        assert known_grades(model) == [0.5]
        assert open_page("generate").selectbox(key="grade").options == ["not given", "0.5, very mild"]
        with torch.inference_mode(False), torch.no_grad():
            grades[1] = 0
        assert not [box for box in open_page("generate").selectbox if box.key == "grade"]
    finally:
        with torch.inference_mode(False), torch.no_grad():
            grades.copy_(kept)


def test_at_most_a_quarter_of_a_strange_slice_is_drawn_again():
    """Noise is beyond the scale of the map nearly everywhere."""
    app = open_page("surprise")
    app.segmented_control(key="source").set_value("Your own file").run()
    noise = np.random.default_rng(0).random((80, 80)).astype(np.float32)
    app.file_uploader[0].upload("noise.png", as_png(noise), "image/png").run()
    assert not app.exception
    redrawn, cells = map(
        int, re.search(r"(\d+) of (\d+) cells", metrics_of(app)["drawn again, outlined in blue"]).groups()
    )
    assert 0 < redrawn <= cells / 4


def test_forgetting_a_file_forgets_what_was_made_from_it_and_nothing_else():
    app = open_page("generate")
    app.number_input(key="seed").set_value(5).run()
    app.toggle(key="begin").set_value(True).run()
    app.segmented_control(key="source").set_value("Your own file").run()
    app.file_uploader[0].upload("somebody.png", as_png(list(examples().values())[-1]), "image/png").run()
    assert [one.origin is None for one in mine(app, "gallery").values()][-1]
    before = len(mine(app, "gallery"))
    app.switch_page("pages/edit_codes.py").run()
    button(app, "Open this slice").click().run()
    assert mine(app, "origin") is None
    button(app, "Forget this file").click().run()
    assert not app.exception
    assert len(mine(app, "gallery")) == before - 1
    assert not any(one.origin is None for one in mine(app, "gallery").values())
    assert not app.session_state["session_store"].keys() & {"editor", "origin", "picture before", "beside the grid"}


def test_surprise_adds_up(model):
    app = open_page("surprise")
    shown = float(metrics_of(app)["all codes"].split()[0].replace(",", ""))
    other = app.select_slider[0].set_value(9).run()
    without = float(metrics_of(other)["all codes"].split()[0].replace(",", ""))
    assert 0 < without != shown > 0


def test_surprise_marks_no_slice_as_drawn_where_nothing_was():
    app = open_page("surprise")
    app.selectbox(key="case").set_value(SHOWN_FIRST).run()
    app.slider[0].set_value(8.0).run()
    told = json.loads(app.get("bidi_component")[0].proto.json)
    assert (told["mark"], told["names"][1]) == ("", "No cell lies above the limit: nothing was drawn again")
    app.slider[0].set_value(1.0).run()
    assert json.loads(app.get("bidi_component")[0].proto.json)["mark"] == "SYNTHETIC"


def test_surprise_opens_on_a_painted_lesion_and_finds_it():
    app = open_page("surprise")
    assert app.selectbox(key="case").value.endswith("with a painted lesion")
    assert any("was painted into this slice" in caption.value for caption in app.caption)
    with_lesion = float(metrics_of(app)["most unusual cell"].split()[0])
    app.selectbox(key="case").set_value(SHOWN_FIRST).run()
    assert not any("was painted into this slice" in caption.value for caption in app.caption)
    assert float(metrics_of(app)["most unusual cell"].split()[0]) < with_lesion / 2


def test_what_was_expected_is_drawn_once_and_forgotten_with_the_file(monkeypatch, model):
    app = open_page("surprise")
    app.segmented_control(key="source").set_value("Your own file").run()
    app.file_uploader[0].upload("somebody.png", as_png(list(examples().values())[-1]), "image/png").run()
    drawn = mine(app, "what was expected")[1]
    assert drawn.shape == (model.preset.size,) * 2
    with monkeypatch.context() as patch:
        patch.setattr(model, "refill", lambda *_, **__: pytest.fail("drawn again, though nothing has changed"))
        patch.setattr(model, "surprise", lambda *_, **__: pytest.fail("scored again, though nothing has changed"))
        app.run()
    assert mine(app, "what was expected")[1] is drawn
    app.number_input(key="seed of the region").set_value(1).run()
    assert not np.array_equal(mine(app, "what was expected")[1], drawn)
    button(app, "Forget this file").click().run()
    assert not app.exception
    assert not app.session_state["session_store"].keys() & {"what was expected", "map of surprise"}


def test_a_file_that_is_refused_takes_with_it_what_was_made_from_the_one_before():
    app = open_page("surprise")
    app.segmented_control(key="source").set_value("Your own file").run()
    app.file_uploader[0].upload("somebody.png", as_png(list(examples().values())[-1]), "image/png").run()
    assert "what was expected" in app.session_state["session_store"]
    app.file_uploader[0].upload("else.png", b"no picture", "image/png").run()
    assert not app.exception
    assert any("else.png" in error.value for error in app.error)
    assert "what was expected" not in app.session_state["session_store"]


def test_surprise_shows_what_was_measured_on_painted_lesions(monkeypatch, model):
    rows = {
        size: {"lesions": 9, "auroc_slice": 0.5 + float(size) / 30, "auroc_pixel": 0.8} for size in ("3", "6", "12")
    }
    score = {"by_size": rows, "untouched_percentiles": {"5": 11.5, "95": 17.25}}
    lesions = {
        "people": 7,
        "slices": 224,
        "per_case": 64,
        "least_change": 0.15,
        "scores": {"bits": score, "unusual": score},
    }
    monkeypatch.setitem(model.info, "lesions", lesions)
    ranks = [1 + rank / 50 for rank in range(101)]
    monkeypatch.setitem(model.info, "results", model.info["results"] | {"percentiles": {"bits_per_code": ranks}})
    app = open_page("surprise")
    app.session_state[f"level of {app.selectbox(key='case').value} 0"] = None
    app.run()
    assert not app.exception
    told = " ".join(html.proto.body for html in app.get("html"))
    assert "1.10 to 2.90" in told
    assert "held-out slices, level given: 11.5 to 17.2" in told
    assert list(app.table[0].value["Bits per code"]) == ["0.60", "0.70", "0.90"]
    assert any("less than 15 % of the grey range" in text.value for text in app.markdown)
    app.segmented_control(key="map").set_value("Bits per code").run()
    assert not app.exception
    assert metrics_of(app)["most unusual cell"].endswith(" bits per code")


# Behind the pages.


def test_a_draw_is_that_of_its_seed_and_ends_finished(model):
    [drawn] = draw(model, [PLAIN])
    expected = model.sample(1, seed=3, top_k=None)
    np.testing.assert_array_equal(drawn.indices, expected.indices[0].numpy())
    np.testing.assert_allclose(drawn.picture / 255, (expected.slices[0, 0].numpy() + 0.5).clip(0, 1), atol=0.003)
    assert np.isfinite(drawn.entropy).all()
    assert len(drawn.entropy) == drawn.indices.size


def test_what_is_played_grows_from_the_top_by_what_was_drawn(model):
    [drawn] = draw(model, [PLAIN])
    assert len(drawn.frames) == len(drawn.at)
    assert list(drawn.at) == sorted(drawn.at)
    assert drawn.at[-1] == drawn.indices.size
    pictures = [np.asarray(Image.open(io.BytesIO(frame)).convert("L")).astype(int) for frame in drawn.frames]
    width, cell = 20, 4
    for count, picture in zip(drawn.at, pictures, strict=True):
        rows = count // width
        assert np.abs(picture[: max(rows - 4, 0) * cell] - pictures[-1][: max(rows - 4, 0) * cell]).max(initial=0) < 30
        assert picture[(rows + 4) * cell :].max(initial=0) < 30


def test_two_parts_grow_coarse_to_fine(model):
    """As a model of two grids does: the first alone decodes to a small picture, the second refines it from the top."""

    class Fine:
        coarse = model
        preset = SimpleNamespace(
            codes=528, split=lambda indices: [indices[:, 0, :400].view(1, 20, 20), indices[:, 0, 400:].view(1, 8, 16)]
        )

    coarse = model.sample(1, seed=3).indices
    indices = torch.cat([coarse.view(1, 1, 400), torch.zeros(1, 1, 128, dtype=torch.long)], 2)
    finished = np.full((160, 160), 0.25, np.float32)
    at, frames = growth(Fine, indices, finished)
    assert at[-2:] == (400, 528)
    assert {frame.shape for frame in frames} == {(160, 160)}
    np.testing.assert_array_equal(frames[-1], finished)
    drawn = draw(model, [PLAIN])[0]._replace(frames=tuple(webp(frame) for frame in frames), at=at)
    moving = Image.open(io.BytesIO(animation(drawn)))
    moving.seek(len(at) + STOPS - 2)
    half = np.asarray(moving.convert("L"), float)[:, :160].mean(1)
    assert half[:150].std() < 2, "the finished picture, all grey"
    assert half[170:280].std() > 2, "the coarse one"


def test_how_it_grew_can_be_taken_home(model):
    [drawn] = draw(model, [PLAIN])
    moving = Image.open(io.BytesIO(animation(drawn)))
    assert moving.format == "WEBP"
    assert len(drawn.frames) / 2 < moving.n_frames <= len(drawn.frames)  # equal ones are one that stays longer
    moving.seek(moving.n_frames - 1)
    last = np.asarray(moving.convert("L"))
    assert last[-20:, :80].max() > 150  # the mark
    assert last.shape[0] >= 320


def test_who_waits_for_a_picture_goes_first():
    slots, order = Slots(1), []

    def compute(name: str, urgent: bool) -> None:
        with slots.slot(urgent):
            order.append(name)

    with slots.slot():
        for i, (name, urgent) in enumerate((("draw", False), ("stroke", True), ("refill", False), ("next", True))):
            threading.Thread(target=compute, args=(name, urgent)).start()
            while slots.waiting <= i:
                time.sleep(0.001)
    while len(order) < 4:
        time.sleep(0.001)
    assert order == ["stroke", "next", "draw", "refill"]


def test_a_draw_that_fails_gives_its_place_back(model):
    for _ in range(20):  # more often than there are places
        with pytest.raises(OasisVQError):
            draw(model, [PLAIN | {"temperature": -1}])


def test_who_came_first_is_done_first():
    """Sharing would make all of them late."""
    slots, order, at_once, most = Slots(1), [], 0, 0
    started = threading.Event()

    def work(name: str) -> None:
        nonlocal at_once, most
        with slots.slot() as give_way:
            started.set()
            for _ in range(3):
                at_once += 1
                most = max(most, at_once)
                order.append(name)
                time.sleep(0.01)
                at_once -= 1
                give_way()

    threads = []
    for name in "abc":
        threads.append(threading.Thread(target=work, args=(name,)))
        threads[-1].start()
        started.wait()
        time.sleep(0.002)
    for thread in threads:
        thread.join(5)
    assert most == 1
    assert "".join(order) == "aaabbbccc"


def test_the_urgent_are_let_in_on_the_way():
    slots, order = Slots(1), []

    def stroke() -> None:
        with slots.slot(urgent=True):
            order.append("stroke")

    with slots.slot() as give_way:
        thread = threading.Thread(target=stroke)
        thread.start()
        while not slots.waiting:
            time.sleep(0.001)
        give_way()
        order.append("draw")
    thread.join(5)
    assert order == ["stroke", "draw"]


def test_nobody_gives_way_to_those_who_gave_way():
    """Else two long computations would do nothing but exchange their slot while an urgent one has the other."""
    slots, steps, over = Slots(2), {"one": 0, "other": 0}, threading.Event()

    def work(name: str) -> None:
        with slots.slot() as give_way:
            while not over.is_set():
                steps[name] += 1
                time.sleep(0.001)
                give_way()

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in steps]
    for thread in threads:
        thread.start()
    while not all(steps.values()):
        time.sleep(0.001)
    with slots.slot(urgent=True):
        before, deadline = sum(steps.values()), time.monotonic() + 10
        while sum(steps.values()) < before + 20 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert sum(steps.values()) >= before + 20
    over.set()
    for thread in threads:
        thread.join(5)


def test_only_a_few_heads_wait_to_be_aligned(monkeypatch):
    monkeypatch.setattr(models, "_HEADS_WAITING", 1)

    def align() -> None:
        with models.alignment_slot():
            pass

    with models.alignment_slot():
        second = threading.Thread(target=align)
        second.start()
        while not models._slots("heads", 1).waiting:
            time.sleep(0.001)
        with pytest.raises(OasisVQError, match="try again"):
            models.alignment_slot()
    second.join(5)
    align()


def test_slots_tell_how_many_wait():
    slots = Slots(1)
    with slots.slot():
        assert slots.waiting == 0
        thread = threading.Thread(target=lambda: slots.slot().__enter__(), daemon=True)
        thread.start()
        for _ in range(500):
            if slots.waiting:
                break
            time.sleep(0.01)
        assert slots.waiting == 1
    thread.join(5)
    assert slots.waiting == 0


def test_the_model_computes_on_one_thread(model):
    threads = []
    worker = threading.Thread(target=lambda: threads.append(torch.get_num_threads()))
    worker.start()
    worker.join()
    assert threads == [1]


def test_palette_holds_every_code_once_from_dark_to_bright(model):
    palette = make_palette(model)
    size = model.preset.codebook_size
    assert sorted(palette.order) == list(range(size))
    np.testing.assert_array_equal(palette.order[palette.rank], np.arange(size))
    brightness = palette.tiles.mean((1, 2))[palette.order]
    assert brightness[: size // 4].max() <= brightness[-size // 4 :].min()
    grid = torch.from_numpy(palette.background)[None]
    assert model.decode(grid).max() < -0.4


def test_synthetic_pictures_are_marked_and_say_so_in_the_file():
    black = np.zeros((80, 80))
    pixels = np.asarray(marked(black, SYNTHETIC))
    assert not np.asarray(enlarge(black)).any()
    assert pixels.any()
    assert not pixels[: len(pixels) // 2].any()  # the mark is at the bottom
    fields = Image.open(io.BytesIO(png(marked(black, SYNTHETIC), {"seed": 4}))).text
    assert fields == {"seed": "4"}


def test_code_colours_run_from_transparent_dark_to_bright():
    dark = np.zeros((2, 2), int)
    colours = code_colours(np.array([[0, 1], [2, 3]]), np.arange(4), dark)
    assert colours.shape == (2, 2, 4)
    assert colours[0, 0, 3] == 0
    assert colours[1, 1, 3] == 255
    assert len({tuple(colour) for colour in colours.reshape(-1, 4)}) == 4
    side_by_side = code_colours(np.array([[0, 3, 1, 3], [2, 3, 3, 3]]), np.arange(4), np.zeros((2, 4), int))
    np.testing.assert_array_equal(side_by_side, colours)
    bright = code_colours(np.array([[0, 1], [2, 3]]), np.arange(4), np.array([[3, 3], [3, 0]]))
    assert (bright[..., 3] == [[0, 255], [255, 0]]).all(), "the background's code is transparent, however bright it is"


def test_an_empty_margin_is_left_out_and_no_other():
    picture = np.zeros((80, 80))
    picture[8:72, 8:72] = 1
    assert margin(picture) == MARGIN
    for place in ((7, 40), (40, 72)):
        full = picture.copy()
        full[place] = 0.5
        assert margin(full) == 0


def test_heat_lies_on_the_cells_and_outlines_the_region():
    bits = np.zeros((20, 20))
    bits[0, 19] = 9
    image = heat(bits, 9, bits > 5, cell=16)
    assert image.size == (320, 320)
    pixels = np.asarray(image)
    rows, columns = np.nonzero(pixels[..., 3])
    assert rows.max() in (15, 16)
    assert columns.min() in (303, 304)
    assert tuple(pixels[8, 312, :3]) != REGION[:3]
    assert (pixels[15, 304:] == REGION).all()
    assert (pixels[:16, 304] == REGION).all()


def test_entropy_is_black_to_bright_and_transparent_where_nothing_was_drawn():
    colours = entropy_colours(np.array([[0.0, 9.0], [4.5, np.nan]]), 9.0)
    low, high, middle = (int(colours[at][:3].sum()) for at in ((0, 0), (0, 1), (1, 0)))
    assert low < 20 < middle < high
    assert colours[..., 3].tolist() == [[255, 255], [255, 0]]
    assert entropy_colours(np.full((2, 4), 4.5), 9.0).shape == (2, 2, 4)


def test_prior_curve_turns_nats_to_bits():
    figure = charts.prior_curves([{"epoch": 1, "train_loss": np.log(8), "val_nll_bits": 2.5}])
    assert [tuple(trace.y) for trace in figure.data] == [(3.0,), (2.5,)]


def test_model_is_loaded_once(monkeypatch):
    monkeypatch.setattr(OasisVQ, "from_pretrained", lambda *_: pytest.fail("loaded again"))
    assert not open_page("generate").exception
