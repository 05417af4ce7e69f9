"""The app with several models of different geometry: every page works on each, and none meets what another made."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import streamlit as st
import torch
from safetensors.torch import load_file, save_file
from streamlit.testing.v1 import AppTest
from test_app import (  # noqa: F401  one is a fixture
    PAGES,
    ROOT,
    _navigation_is_known,
    metrics_of,
    mine,
    open_page,
    player_of,
)
from tiny_weights import DATA, TINY, TRAINING

from oasisvq.app import code_grid, edits, models
from oasisvq.app.editor import put, select
from oasisvq.app.studio import TRIES, Studio
from oasisvq.data.examples import examples
from oasisvq.hub import sources
from oasisvq.hub.manifest import write_manifest
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.vqvae import VQVAE

pytestmark = pytest.mark.slow

GEOMETRIES = {
    "base": replace(TINY, name="base", size=80),
    "clear": replace(TINY, name="clear", size=80, channels=(4,), blocks=(1,)),
}
# A cascade: a coarse grid, and then a fine one with two codes to a cell.
GEOMETRIES["large"] = replace(
    TINY,
    name="large",
    size=128,
    coarse=GEOMETRIES["base"],
    channels=(4, 4, 8),
    blocks=(1, 1, 1),
    codebook_size=64,
    depth=2,
)


def write_untrained(folder, presets=GEOMETRIES):
    """Bundled weights that nobody trained, small and quick."""
    for name, preset in presets.items():
        torch.manual_seed(0)
        for stage in preset.stages:
            place = folder / name if stage is preset else folder / name / "coarse"
            place.mkdir(parents=True, exist_ok=True)
            for model, kind in ((VQVAE(stage), "vqvae"), (PixelCNN(stage), "prior")):
                tensors = {key: tensor.half() for key, tensor in model.state_dict().items()}
                save_file(tensors, place / f"{kind}.safetensors")
        write_manifest(folder / name, preset, DATA, TRAINING)
    return folder


@pytest.fixture(scope="module", autouse=True)
def bundled(tmp_path_factory):
    """Three models in the place of the bundled ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BUNDLED", write_untrained(tmp_path_factory.mktemp("bundled")))
        st.cache_resource.clear()
        yield sources.BUNDLED
    st.cache_resource.clear()


def choose(app, name: str):
    return app.selectbox(key="model").set_value(name).run()


def test_the_selector_names_every_model_with_its_size_and_codes():
    app = open_page("home")
    assert app.selectbox(key="model").options == [
        "base: 80 px, 400 codes",
        "clear: 80 px, 1,600 codes",
        "large: 128 px, 912 codes",
    ]


def test_there_is_no_selector_for_a_single_model(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BUNDLED", write_untrained(tmp_path, {"base": GEOMETRIES["base"]}))
    st.cache_resource.clear()
    assert not [box for box in open_page("home").selectbox if box.key == "model"]
    st.cache_resource.clear()


@pytest.mark.parametrize("page", PAGES)
def test_every_page_works_with_every_model(page):
    app = open_page(page)
    for name in ("clear", "large", models.DEFAULT):
        choose(app, name)
        assert not app.exception
        assert not app.error


def test_home_tells_coarse_codes_from_fine_ones():
    app = open_page("home")
    for name, said in (("clear", False), ("large", True)):
        told = " ".join(element.proto.body for element in choose(app, name).get("html"))
        assert ("400 coarse codes are drawn first, then 512 fine ones, from a codebook of 64" in told) == said
        assert ("coarse codes" in told) == said


def test_changed_coarse_and_fine_codes_are_counted_apart():
    for name, places, told in (("clear", [0], "1"), ("large", [0, 400, 401], "3 (1 coarse, 2 fine)")):
        app = choose(open_page("edit_codes"), name)
        start = mine(app, "editor")
        codes = start.indices.copy()
        codes.flat[places] ^= 1
        app.session_state["session_store"]["editor"] = put(start, codes)
        assert metrics_of(app.run())["codes changed"] == told


@pytest.mark.parametrize("name", ["clear", "large"])
def test_other_grids_are_drawn_edited_and_completed(name):
    app = choose(open_page("generate"), name)
    app.toggle(key="begin").set_value(True).run()
    preset = GEOMETRIES[name]
    side = preset.parts[0][0]
    app.slider(key=f"rows of {side}").set_value(side - 3).run()
    assert not app.exception
    drawn = list(mine(app, "gallery").values())[-1]
    assert drawn.indices.shape == preset.shape
    told = player_of(app)
    assert [(part["rows"], part["columns"]) for part in told["parts"]] == list(preset.parts)
    assert told["at"][-1] == told["total"] == preset.codes
    next(b for b in app.button if b.label == "Edit codes").click().run()
    assert not app.exception
    app.switch_page("pages/edit_codes.py").run()  # the runner itself does not follow the app there
    np.testing.assert_array_equal(mine(app, "editor").indices, drawn.indices)


@pytest.mark.parametrize("name", ["clear", "large"])
def test_other_grids_are_refilled_and_asked_about(name, monkeypatch):
    monkeypatch.setattr("oasisvq.app.studio.PROPOSALS", 1)
    st.session_state.pop("session_store", None)
    model = models.load_model(name)
    preset, studio = model.preset, Studio(model)
    start = studio.codes_of("MNI152 template, level 20")
    code_grid.open_codes(start, None)
    selection = np.zeros(preset.shape, bool)
    selection.flat[3] = True  # in the coarse grid, if there is one
    code_grid.store(select(code_grid.current(), selection))
    studio.ask({"kind": "propose"})
    studio.ask({"kind": "use", "number": 0})
    beneath = edits.beneath(preset, selection)
    assert not (code_grid.current().changed & ~beneath).any()
    for place in (0, preset.codes - 1):
        studio.ask({"kind": "likely", "place": place})
        assert len(code_grid.beside().likely[1]) == 5
    for kind in TRIES:
        studio.ask({"kind": "try", "name": kind})
    studio.walk("MNI152 template, level 20", 0.5)
    model.decode(torch.from_numpy(code_grid.current().indices)[None])
    st.session_state.pop("session_store", None)


def test_what_belongs_to_another_model_is_discarded_with_a_note():
    app = open_page("generate")
    app.number_input(key="seed").set_value(5).run()
    app.switch_page("pages/edit_codes.py").run()
    assert mine(app, "editor").indices.shape == (20, 20)
    assert not app.toast
    choose(app, "clear")
    assert not app.exception
    assert ["discarded" in toast.value for toast in app.toast] == [True]
    assert mine(app, "editor").indices.shape == (40, 40)
    assert "gallery" not in app.session_state["session_store"]
    app.switch_page("pages/generate.py").run()
    assert app.selectbox(key="model").value == "clear"
    assert not app.toast


def test_a_link_leads_to_the_model_that_it_was_made_with(bundled):
    example = next(iter(examples()))
    made_with = json.loads((bundled / "clear" / "manifest.json").read_text())["files"]["vqvae.safetensors"]["sha256"]
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    app.switch_page("pages/edit_codes.py")
    app.query_params["weights"], app.query_params["example"] = made_with[:12], example
    app.run()
    assert not app.exception
    assert not app.error
    assert app.selectbox(key="model").value == "clear"
    assert mine(app, "editor").indices.shape == (40, 40)
    assert mine(app, "origin") == {"example": example}


def test_of_two_models_with_one_vqvae_a_link_names_the_prior(bundled):
    """What one draws the other does not, and the draws of one are not shown as the other's."""
    other = shutil.copytree(bundled / "base", bundled / "other")
    try:
        prior = load_file(other / "prior.safetensors")
        save_file({name: -tensor for name, tensor in prior.items()}, other / "prior.safetensors")
        write_manifest(other, GEOMETRIES["base"], DATA, TRAINING)
        st.cache_resource.clear()
        files = json.loads((other / "manifest.json").read_text())["files"]
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
        app.switch_page("pages/generate.py")
        for key, name in (("weights", "vqvae"), ("prior", "prior")):
            app.query_params[key] = files[f"{name}.safetensors"]["sha256"][:12]
        app.query_params["seed"], app.query_params["level"] = "3", "2"
        app.run()
        assert not app.exception
        assert app.selectbox(key="model").value == "other"
        assert mine(app, "gallery")
        choose(app, "")
        assert ["discarded" in toast.value for toast in app.toast] == [True]
    finally:
        shutil.rmtree(other)
        st.cache_resource.clear()


def test_damaged_bundled_weights_are_no_choice_and_no_harm(bundled):
    manifest = bundled / "large" / "manifest.json"
    honest = manifest.read_text()
    manifest.write_text("{")
    st.cache_resource.clear()
    try:
        app = open_page("home")
        assert not app.error
        assert [label.split(":")[0] for label in app.selectbox(key="model").options] == ["base", "clear"]
    finally:
        manifest.write_text(honest)
        st.cache_resource.clear()


def test_a_model_that_does_not_verify_is_refused_and_another_can_be_chosen(bundled):
    manifest = bundled / "clear" / "manifest.json"
    honest = manifest.read_text()
    forged = json.loads(honest)
    forged["files"]["prior.safetensors"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(forged))
    st.cache_resource.clear()
    try:
        app = choose(open_page("home"), "clear")
        assert len(app.error) == 1
        choose(app, "large")
        assert not app.error
    finally:
        manifest.write_text(honest)
        st.cache_resource.clear()
