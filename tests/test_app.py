"""Every page through Streamlit's own test runner, and the parts behind the pages, on the bundled weights."""

import io
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

from oasisvq.app import drawing, figures, models, wording
from oasisvq.app.choose import in_model_size
from oasisvq.app.drawing import draw, known_grades
from oasisvq.app.editor import put
from oasisvq.app.palette import make_palette
from oasisvq.app.pictures import SYNTHETIC, code_map, enlarge, entropy_map, marked, mosaic, png
from oasisvq.app.turns import Turns
from oasisvq.data.codes import write_codes
from oasisvq.data.examples import examples
from oasisvq.errors import OasisVQError
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
    return app.session_state["belongings"][name]


def button(app: AppTest, label: str):
    return next(button for button in app.button if button.label.startswith(label))


def metrics_of(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def as_png(picture: np.ndarray, mode: str = "L") -> bytes:
    content = io.BytesIO()
    Image.fromarray((picture * 255).astype(np.uint8)).convert(mode).save(content, "png")
    return content.getvalue()


@pytest.mark.parametrize("name", PAGES)
def test_page_runs_under_the_banner(name, model):
    app = open_page(name)
    assert not app.exception
    assert not app.error
    banners = [box for box in app.warning if wording.DISCLAIMER in box.value]  # a page may warn of a slice, too
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
    assert any("On 17 people" in caption.value for caption in app.caption)


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
    assert not app.metric
    picture = list(examples().values())[-1]
    app.file_uploader[0].upload("somebody.png", as_png(picture), "image/png").run()
    mine = metrics_of(app)
    assert mine.keys() == template.keys()
    assert mine["SSIM"] != template["SSIM"]

    app.switch_page("pages/surprise.py").run()
    app.segmented_control(key="source").set_value("Your own file").run()
    assert any("somebody.png" in caption.value for caption in app.caption)
    other = open_page("reconstruct")
    other.segmented_control(key="source").set_value("Your own file").run()
    assert not other.metric
    assert not any("somebody.png" in caption.value for caption in other.caption)

    next(button for button in app.button if button.label == "Forget this file").click().run()
    assert not app.metric


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


def test_drawing_fills_the_gallery():
    app = open_page("generate")
    app.slider(key="count").set_value(2).run()
    for seed in (5, 5, 6):
        app.number_input(key="seed").set_value(seed).run()
        next(button for button in app.button if button.label == "Draw").click().run()
        assert not app.exception
    drawn = mine(app, "gallery")
    assert len(drawn) == 6
    six, five, again = drawn[0:2], drawn[2:4], drawn[4:6]
    for one, same, different in zip(five, again, six, strict=True):
        np.testing.assert_array_equal(one.indices, same.indices)
        assert (one.indices != different.indices).any()


def test_generated_codes_open_in_the_editor():
    app = open_page("generate")
    next(button for button in app.button if button.label == "Draw").click().run()
    drawn = mine(app, "gallery")[0]
    assert Image.open(io.BytesIO(drawn.file)).text["Kind"] == "SYNTHETIC"
    next(button for button in app.button if button.label == "Edit codes").click().run()
    assert app.title[0].value == "Edit codes"
    np.testing.assert_array_equal(mine(app, "editor").indices, drawn.indices)


def select(app: AppTest, rows: slice, columns: slice) -> np.ndarray:
    """Select cells, as the browser would."""
    state = mine(app, "editor")
    selection = np.zeros_like(state.selection)
    selection[rows, columns] = True
    app.session_state["belongings"]["editor"] = replace(state, selection=selection)
    app.run()
    return selection


def test_refill_proposes_several_and_takes_the_one_chosen():
    app = open_page("edit_codes")
    assert button(app, "Propose").disabled
    selection = select(app, slice(8, 11), slice(8, 11))
    button(app, "Propose").click().run()
    assert not app.exception
    assert not mine(app, "editor").changed.any()  # nothing yet
    _, proposals = mine(app, "proposals")
    assert len({codes.tobytes() for codes, _ in proposals}) > 1
    assert {picture.shape for _, picture in proposals} == {(80, 80)}
    button(app, "Use proposal 2").click().run()
    state = mine(app, "editor")
    np.testing.assert_array_equal(state.indices, proposals[1][0])
    assert not (state.changed & ~selection).any()
    assert metrics_of(app)["Cells changed"] == str(state.changed.sum())
    assert len(state.past) == 1
    assert app.number_input(key="refill seed").value == len(proposals)
    assert "proposals" not in app.session_state["belongings"]


def test_a_proposal_leaves_alone_what_was_painted_meanwhile():
    app = open_page("edit_codes")
    select(app, slice(8, 11), slice(8, 11))
    button(app, "Propose").click().run()
    state = mine(app, "editor")
    painted = state.indices.copy()
    painted[0, 0] = (painted[0, 0] + 1) % 512
    app.session_state["belongings"]["editor"] = put(state, painted)
    app.run()
    button(app, "Use proposal 1").click().run()
    assert mine(app, "editor").indices[0, 0] == painted[0, 0]


def shown_link(app: AppTest) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(app.code[0].value).query))


def test_a_link_restores_the_edits_elsewhere():
    app = open_page("edit_codes")
    state = mine(app, "editor")
    painted = state.indices.copy()
    painted[3, 4:7] = 9
    app.session_state["belongings"]["editor"] = put(state, painted)
    app.run()
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


def test_nothing_of_an_upload_is_put_in_a_link():
    app = open_page("edit_codes")
    assert len(app.code) == 1
    app.segmented_control(key="source").set_value("Your own file").run()
    app.file_uploader[0].upload("somebody.png", as_png(list(examples().values())[-1]), "image/png").run()
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
    button(app, "Draw").click().run()
    assert not app.exception
    drawn = mine(app, "gallery")[0]
    name = app.selectbox(key="example").value
    codes = model.encode(in_model_size(name, examples()[name], 80).tensor)[0].numpy()
    np.testing.assert_array_equal(drawn.indices[:13], codes[:13])
    assert (drawn.indices[13:] != codes[13:]).any()
    assert drawn.origin["example"] == name
    assert drawn.settings["upper rows"] == 13


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


def test_the_gallery_is_emptied():
    app = open_page("generate")
    button(app, "Draw").click().run()
    button(app, "Empty the gallery").click().run()
    assert "gallery" not in app.session_state["belongings"]
    assert any(caption.value == "Nothing drawn yet." for caption in app.caption)


def test_at_most_a_quarter_of_a_strange_slice_is_drawn_again():
    """Noise is beyond the scale of the map nearly everywhere."""
    app = open_page("surprise")
    app.segmented_control(key="source").set_value("Your own file").run()
    noise = np.random.default_rng(0).random((80, 80)).astype(np.float32)
    app.file_uploader[0].upload("noise.png", as_png(noise), "image/png").run()
    assert not app.exception
    told = next(caption.value for caption in app.caption if "Blue: drawn again" in caption.value)
    redrawn, cells = map(int, re.search(r"(\d+) of (\d+) cells", told).groups())
    assert 0 < redrawn <= cells / 4


def test_forgetting_a_file_forgets_what_was_made_from_it_and_nothing_else():
    app = open_page("generate")
    button(app, "Draw").click().run()
    app.toggle(key="begin").set_value(True).run()
    app.segmented_control(key="source").set_value("Your own file").run()
    app.file_uploader[0].upload("somebody.png", as_png(list(examples().values())[-1]), "image/png").run()
    button(app, "Draw").click().run()
    assert [one.origin is None for one in mine(app, "gallery")] == [True, False]
    app.switch_page("pages/edit_codes.py").run()
    button(app, "Open this slice").click().run()
    assert mine(app, "origin") is None
    button(app, "Forget this file").click().run()
    assert not app.exception
    assert [one.origin is None for one in mine(app, "gallery")] == [False]
    assert not app.session_state["belongings"].keys() & {"editor", "origin", "picture before", "proposals"}


def test_surprise_adds_up(model):
    app = open_page("surprise")
    shown = float(metrics_of(app)["Bits for the slice"].replace(",", ""))
    level = app.select_slider[0].set_value(20).run()
    told = float(metrics_of(level)["Bits for the slice"].replace(",", ""))
    assert 0 < told != shown > 0


def test_surprise_shows_what_was_measured_on_painted_lesions(monkeypatch, model):
    rows = {
        size: {"lesions": 9, "auroc_slice": 0.5 + float(size) / 30, "auroc_pixel": 0.8} for size in ("3", "6", "12")
    }
    score = {"by_size": rows, "untouched_percentiles": {"5": 11.5, "95": 17.25}}
    lesions = {"people": 7, "slices": 224, "scores": {"bits": score, "unusual": score}}
    monkeypatch.setitem(model.info, "lesions", lesions)
    ranks = [1 + rank / 50 for rank in range(101)]
    monkeypatch.setitem(model.info, "results", model.info["results"] | {"percentiles": {"bits_per_code": ranks}})
    app = open_page("surprise")
    assert not app.exception
    assert "1.10 to 2.90" in app.metric[0].delta
    assert "held-out slices: 11.5 to 17.2" in app.metric[2].delta
    assert list(app.table[0].value["Bits per code"]) == ["0.60", "0.70", "0.90"]
    app.segmented_control(key="map").set_value("Deviation from what was expected").run()
    assert not app.exception
    assert "standard deviations" in app.metric[2].label


# Behind the pages.


def test_draw_shows_every_row_and_ends_where_sample_ends(model, monkeypatch):
    monkeypatch.setattr(drawing, "SLOW", 60)
    seen = []
    drawn = draw(model, 2, PLAIN, lambda now: seen.append((now.known.sum(), now.indices.copy())))
    height, width = model.preset.grid
    rows = [known for known, _ in seen if known % width == 0]
    assert rows == list(range(width, height * width + 1, width))
    expected = model.sample(2, seed=3).indices.numpy()
    np.testing.assert_array_equal(np.stack([one.indices for one in drawn]), expected)
    known, half = seen[len(seen) // 2]
    np.testing.assert_array_equal(half.reshape(2, -1)[:, :known], expected.reshape(2, -1)[:, :known])
    assert drawn[0].bits == pytest.approx(float(model.surprise(torch.from_numpy(expected[:1])).sum()), rel=1e-4)


def test_who_waits_for_a_picture_goes_first():
    turns, order = Turns(1), []

    def compute(name: str, urgent: bool) -> None:
        with turns.turn(urgent):
            order.append(name)

    with turns.turn():
        for i, (name, urgent) in enumerate((("draw", False), ("stroke", True), ("refill", False), ("next", True))):
            threading.Thread(target=compute, args=(name, urgent)).start()
            while turns.waiting <= i:
                time.sleep(0.001)
    while len(order) < 4:
        time.sleep(0.001)
    assert order == ["stroke", "next", "draw", "refill"]


def test_slow_pictures_do_not_take_most_of_the_time(model):
    seen = []
    drawing.draw(model, 1, PLAIN, lambda now: (seen.append(now.done), time.sleep(1.5 * drawing.SLOW)))
    assert len(seen) < model.preset.side / 2
    assert seen[-1] == model.preset.codes


def test_draw_ends_when_show_raises_and_gives_its_place_back(model):
    class Cancelled(Exception):
        pass

    def cancel(now):
        raise Cancelled

    for _ in range(20):  # more often than there are places
        with pytest.raises(Cancelled):
            draw(model, 1, PLAIN, cancel)


def test_turns_go_to_whoever_waited_longest():
    turns, order, at_once, most = Turns(1), [], 0, 0
    started = threading.Event()

    def work(name: str) -> None:
        nonlocal at_once, most
        with turns.turn() as pass_on:
            started.set()
            for _ in range(3):
                at_once += 1
                most = max(most, at_once)
                order.append(name)
                time.sleep(0.01)
                at_once -= 1
                pass_on()

    threads = []
    for name in "abc":
        threads.append(threading.Thread(target=work, args=(name,)))
        threads[-1].start()
        started.wait()
        time.sleep(0.002)
    for thread in threads:
        thread.join(5)
    assert most == 1
    assert "".join(order) == "abcabcabc"


def test_turns_tell_how_many_wait():
    turns = Turns(1)
    with turns.turn():
        assert turns.waiting == 0
        thread = threading.Thread(target=lambda: turns.turn().__enter__(), daemon=True)
        thread.start()
        for _ in range(500):
            if turns.waiting:
                break
            time.sleep(0.01)
        assert turns.waiting == 1
    thread.join(5)
    assert turns.waiting == 0


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


def test_code_map_tells_known_from_unknown_and_mosaic_keeps_all():
    indices = np.array([[0, 1], [2, 3]])
    known = np.array([[True, True], [True, False]])
    picture = code_map(indices, np.arange(4), known)
    corners = [picture.getpixel((x, y)) for y in (0, picture.height - 1) for x in (0, picture.width - 1)]
    assert len(set(corners)) == 4
    assert corners[3] == (128, 128, 128)
    sheet = mosaic([enlarge(np.full((4, 4), value), 16) for value in (0.2, 0.4, 0.6)], columns=2, gap=0)
    assert sheet.size == (32, 32)
    assert [sheet.getpixel(at) for at in ((0, 0), (16, 0), (0, 16), (16, 16))] == [51, 102, 153, 0]


def test_heat_map_lies_on_the_cells_of_the_slice():
    bits = np.zeros((20, 20))
    bits[0, 19] = 9
    panels = figures.surprise(np.zeros((80, 80)), bits, region=bits > 5, again=np.ones((80, 80)))
    heat = panels["Bits per code"].data[0]
    row, column = np.unravel_index(np.asarray(heat.z).argmax(), bits.shape)
    assert (heat.x[column], heat.y[row]) == (77.5, 1.5)  # the middle of the last four columns, the first four rows
    for figure in panels.values():
        [outline] = [trace for trace in figure.data if trace.type == "contour" and trace.line.color == figures.REGION]
        assert np.argwhere(outline.z).tolist() == [[row, column] for row in range(4) for column in range(76, 80)]
    marks = {title: [note.text for note in figure.layout.annotations] for title, figure in panels.items()}
    assert marks == {"Slice": [], "Bits per code": [], "The region drawn again": ["SYNTHETIC"]}


def test_entropy_map_is_black_to_bright_and_grey_where_nothing_was_drawn():
    picture = entropy_map(np.array([[0.0, 9.0], [4.5, np.nan]]), 9.0)
    low, high, middle, none = [sum(picture.getpixel((x, y))) for y in (0, 319) for x in (0, 319)]
    assert low < 20 < middle < high
    assert none == 3 * 128


def test_prior_curve_turns_nats_to_bits():
    figure = figures.prior_curves([{"epoch": 1, "train_loss": np.log(8), "val_nll_bits": 2.5}])
    assert [tuple(trace.y) for trace in figure.data] == [(3.0,), (2.5,)]


def test_model_is_loaded_once(monkeypatch):
    monkeypatch.setattr(OasisVQ, "from_pretrained", lambda *_: pytest.fail("loaded again"))
    assert not open_page("generate").exception
