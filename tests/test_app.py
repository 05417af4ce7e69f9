"""Every page through Streamlit's own test runner, and the parts behind the pages, on the bundled weights."""

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

from oasisvq import figures
from oasisvq.data.examples import examples
from oasisvq.errors import OasisVQError
from oasisvq.pipeline import OasisVQ
from oasisvq.ui import models, wording
from oasisvq.ui.drawing import draw
from oasisvq.ui.palette import make_palette
from oasisvq.ui.pictures import SYNTHETIC, code_map, enlarge, marked, mosaic, png
from oasisvq.ui.turns import Turns

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
    assert [
        wording.DISCLAIMER in box.value and wording.saw(model.info["data"]) in box.value for box in app.warning
    ] == [True]
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

    monkeypatch.setattr("oasisvq.ui.frame.choices", none)
    app = open_page("home")
    assert len(app.error) == 1
    assert "set OASISVQ_HUB_REPO" in app.error[0].value
    assert not app.title


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
    drawn = app.session_state["gallery"]
    assert len(drawn) == 6
    six, five, again = drawn[0:2], drawn[2:4], drawn[4:6]
    for one, same, different in zip(five, again, six, strict=True):
        np.testing.assert_array_equal(one.indices, same.indices)
        assert (one.indices != different.indices).any()


def test_generated_codes_open_in_the_editor():
    app = open_page("generate")
    next(button for button in app.button if button.label == "Draw").click().run()
    drawn = app.session_state["gallery"][0]
    assert Image.open(io.BytesIO(drawn.file)).text["Kind"] == "SYNTHETIC"
    next(button for button in app.button if button.label == "Edit codes").click().run()
    assert app.title[0].value == "Edit codes"
    np.testing.assert_array_equal(app.session_state["editor"].indices, drawn.indices)


def test_refill_changes_selected_cells_alone():
    app = open_page("edit_codes")
    state = app.session_state["editor"]
    selection = np.zeros_like(state.selection)
    selection[8:11, 8:11] = True
    app.session_state["editor"] = type(state)(**vars(state) | {"selection": selection})
    app.run()
    next(button for button in app.button if button.label.startswith("Refill")).click().run()
    assert not app.exception
    changed = app.session_state["editor"].changed
    assert changed.any()
    assert not (changed & ~selection).any()
    assert metrics_of(app)["Cells changed"] == str(changed.sum())
    assert app.number_input(key="refill seed").value == 1


def test_surprise_adds_up(model):
    app = open_page("surprise")
    shown = float(metrics_of(app)["Bits for the slice"].replace(",", ""))
    level = app.select_slider[0].set_value(20).run()
    told = float(metrics_of(level)["Bits for the slice"].replace(",", ""))
    assert 0 < told != shown > 0


# Behind the pages.


def test_draw_shows_every_row_and_ends_where_sample_ends(model):
    seen = []
    drawn = draw(model, 2, PLAIN, lambda now: seen.append((now.known.sum(), now.indices.copy())))
    grid = model.preset.grid
    rows = [known for known, _ in seen if known % grid == 0]
    assert rows == list(range(grid, grid * grid + 1, grid))
    expected = model.sample(2, seed=3).indices.numpy()
    np.testing.assert_array_equal(np.stack([one.indices for one in drawn]), expected)
    known, half = seen[len(seen) // 2]
    np.testing.assert_array_equal(half.reshape(2, -1)[:, :known], expected.reshape(2, -1)[:, :known])
    assert drawn[0].bits == pytest.approx(float(model.surprise(torch.from_numpy(expected[:1])).sum()), rel=1e-4)


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
    grid = torch.full((1, model.preset.grid, model.preset.grid), palette.background)
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
    figure = figures.surprise(np.zeros((80, 80)), bits)
    heat = next(trace for trace in figure.data if trace.coloraxis == "coloraxis2")
    row, column = np.unravel_index(np.asarray(heat.z).argmax(), bits.shape)
    assert (heat.x[column], heat.y[row]) == (77.5, 1.5)  # the middle of the last four columns, the first four rows


def test_prior_curve_turns_nats_to_bits():
    figure = figures.prior_curves([{"epoch": 1, "train_loss": np.log(8), "val_nll_bits": 2.5}])
    assert [tuple(trace.y) for trace in figure.data] == [(3.0,), (2.5,)]


def test_model_is_loaded_once(monkeypatch):
    monkeypatch.setattr(OasisVQ, "from_pretrained", lambda *_: pytest.fail("loaded again"))
    assert not open_page("generate").exception
