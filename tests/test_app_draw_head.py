"""A head drawn in the app: what is shown while it grows, what a stop keeps, what leaves the app."""

import gzip
import io
import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import nibabel
import numpy as np
import pytest
import streamlit as st
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest
from test_app import _navigation_is_known, button, open_page  # noqa: F401
from tiny_weights import DATA, TINY, TRAINING, write_weights

from oasisvq.app import models
from oasisvq.app.drawn_head import DrawnHead, scroll
from oasisvq.data.frame import as_nifti
from oasisvq.hub import sources
from oasisvq.hub.manifest import write_manifest

KNOWING = replace(TINY, name="base", prior_neighbours=2)
SETTINGS = {"seed": 5, "grade": None}


@pytest.fixture(scope="module", autouse=True)
def model(tmp_path_factory):
    """Weights that know neighbours in the place of the bundled ones."""
    folder = tmp_path_factory.mktemp("bundled")
    write_weights(folder / "base", preset=KNOWING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BUNDLED", folder)
        st.cache_resource.clear()
        loaded = models.load_model()
        torch.manual_seed(0)
        loaded.vqvae.codebook.normal_(std=3)  # untrained, all codes show the same
        yield loaded
    st.cache_resource.clear()


def open_head(**address: str) -> AppTest:
    app = open_page("draw_a_head")
    for key, value in address.items():
        app.query_params[key] = value
    return app.run() if address else app


def drawn(app: AppTest) -> AppTest:
    """The page when its head is there."""
    for _ in range(200):
        if not any(one.label == "Stop" for one in app.button):
            return app
        time.sleep(0.05)
        app.run()
    raise AssertionError("the head does not come to an end")


def planes_of(app: AppTest) -> dict:
    [planes] = [one.proto for one in app.get("bidi_component") if one.proto.component_name.endswith("planes")]
    return json.loads(planes.json)


def head_in(app: AppTest) -> DrawnHead:
    return app.session_state["session_store"]["head"]


def test_the_page_shows_the_head_of_its_seed(model):
    app = drawn(open_head(seed="5"))
    assert not app.exception
    shown = planes_of(app)
    assert shown["drawn"] == shown["total"] == 32
    assert not shown["running"]
    assert all(shown["frames"])
    expected = model.sample_head(1, seed=5).slices[0, :, 0].numpy() + 0.5
    np.testing.assert_allclose(head_in(app).levels(), expected.clip(0, 1), atol=0.003)


def test_another_head_has_another_seed_and_its_link_draws_it_again():
    app = drawn(open_head())
    first = planes_of(app)["frames"]
    drawn(button(app, "Draw another head").click().run())
    other = planes_of(app)["frames"]
    assert other != first
    link = dict(parse_qsl(urlsplit(next(code.value for code in app.code)).query))
    assert int(link["seed"]) == head_in(app).settings["seed"]
    assert planes_of(drawn(open_head(**link)))["frames"] == other


def test_a_head_is_completed_from_an_example(model):
    app = drawn(open_head(complete="True"))
    head = head_in(app)
    [(level, codes)] = head.given.items()
    assert level == 30  # as the example's name says
    np.testing.assert_allclose(
        head.levels()[level], (model.decode(torch.from_numpy(codes)[None])[0, 0].numpy() + 0.5).clip(0, 1), atol=0.003
    )
    assert head.drawn == head.total == 31
    link = dict(parse_qsl(urlsplit(next(code.value for code in app.code)).query))
    assert link["complete"] == "True"
    assert link["slice"].startswith("Colin 27, level 30")


def test_a_seed_that_makes_no_sense_is_passed_over():
    assert head_in(drawn(open_head(seed="-3"))).settings["seed"] == 0


# Behind the page.


class Slow:
    """A model that draws a level whenever it is let."""

    preset = SimpleNamespace(levels=4, size=16)
    stages = (None,)

    def __init__(self):
        self.go = threading.Semaphore(0)

    def decode(self, codes):
        return torch.full((len(codes), 1, 16, 16), 0.25)

    def sample_head(self, seed, grade, given, on_level):
        for level in (2, 1, 3, 0):
            assert self.go.acquire(timeout=20)
            on_level(level, torch.zeros(1, 1, 8, 8))


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stop_keeps_what_is_there():
    model = Slow()
    head = DrawnHead(model, SETTINGS, {}, {})
    model.go.release()
    until(lambda: head.drawn == 1)
    assert head.running
    head.stop()
    model.go.release()
    until(lambda: not head.running)
    assert head.drawn == 2
    assert not head.whole
    there = head.levels().max((1, 2)) > 0
    assert there.tolist() == [False, True, True, False]
    voxels = nibabel.Nifti1Image.from_bytes(gzip.decompress(as_nifti(head.levels()))).get_fdata()
    assert (voxels.max((0, 1)) > 0).tolist() == there.tolist()


def test_a_head_that_nobody_looks_at_ends(monkeypatch):
    monkeypatch.setattr("oasisvq.app.drawn_head._UNWATCHED", 0.0)
    model = Slow()
    head = DrawnHead(model, SETTINGS, {}, {})
    until(lambda: not head.running)
    assert head.drawn == 0


def test_a_draw_that_fails_says_so_to_whoever_looks():
    model = Slow()
    model.sample_head = lambda **_: 1 / 0
    head = DrawnHead(model, SETTINGS, {}, {})
    until(lambda: not head.running)
    with pytest.raises(ZeroDivisionError):
        head.look()


def test_the_animation_goes_up_and_down_through_marked_levels():
    model = Slow()
    head = DrawnHead(model, SETTINGS, {0: np.zeros((4, 4), np.int64)}, {})
    for _ in range(4):
        model.go.release()
    until(lambda: not head.running)
    head.pictures = [np.full((16, 16), 40 * level, np.uint8) for level in range(4)]
    moving = Image.open(io.BytesIO(scroll(head)))
    greys = []
    for number in range(moving.n_frames):
        moving.seek(number)
        frame = np.asarray(moving.convert("L"))
        greys.append(round(float(frame[10, 10]) / 40))
        assert frame[-60:, :200].max() > 150  # the mark
    assert greys == [0, 1, 2, 3, 2, 1]


def test_weights_that_draw_single_slices_say_so(monkeypatch, tmp_path: Path):
    write_weights(tmp_path / "base", preset=replace(TINY, name="base"))
    monkeypatch.setattr(sources, "BUNDLED", tmp_path)
    st.cache_resource.clear()
    app = open_head()
    assert not app.exception
    assert any("single slices" in info.value for info in app.info)
    assert not any(one.label.startswith("Draw") for one in app.button)


def test_weights_that_draw_heads_are_a_click_away(monkeypatch, tmp_path: Path):
    write_weights(tmp_path / "base", preset=replace(TINY, name="base"))
    write_weights(tmp_path / "heads", preset=replace(KNOWING, name="heads"), seed=1)
    monkeypatch.setattr(sources, "BUNDLED", tmp_path)
    st.cache_resource.clear()
    app = open_head()
    (click,) = [one for one in app.button if one.label.startswith("Draw with heads")]
    click.click().run()
    assert not app.exception
    assert app.selectbox(key="model").value == "heads"
    assert head_in(app).total == KNOWING.levels


def test_weights_of_the_same_codes_draw_heads_for_those_that_cannot(monkeypatch, tmp_path: Path):
    heads = write_weights(tmp_path / "heads", preset=replace(KNOWING, name="heads"))
    base = write_weights(tmp_path / "base", preset=replace(TINY, name="base"))
    shutil.copy(heads / "vqvae.safetensors", base)
    write_manifest(base, replace(TINY, name="base"), DATA, TRAINING)
    monkeypatch.setattr(sources, "BUNDLED", tmp_path)
    monkeypatch.setenv("OASISVQ_MODEL", "base")
    st.cache_resource.clear()
    app = open_head()
    assert not app.exception
    assert app.selectbox(key="model").value == ""
    assert head_in(app).model.preset.name == "heads"
    assert any("Drawn with **heads**" in caption.value for caption in app.caption)
