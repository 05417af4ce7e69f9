"""What can be asked for on Edit codes: refills, transplants, prepared edits, a path, likely codes, their meaning."""

import numpy as np
import pytest
import streamlit as st
import torch
from tiny_weights import TINY

from oasisvq.app import code_grid, edits, models
from oasisvq.app.code_grid import beside, copied, current, open_codes, origin, store
from oasisvq.app.codes import below, most, split
from oasisvq.app.editor import put, select
from oasisvq.app.meaning import meaning_of
from oasisvq.app.models import session_store
from oasisvq.app.studio import TRIES, Studio
from oasisvq.measure.usage import FEWEST, places, usage
from oasisvq.models.presets import Preset

pytestmark = pytest.mark.slow

CASCADE = Preset(name="cascade", size=32, depth=2, codebook_size=64, channels=(4,), blocks=(1,), coarse=TINY)


@pytest.fixture(scope="module")
def model():
    return models.load_model()


@pytest.fixture
def studio(model, monkeypatch):
    """A template slice is open."""
    monkeypatch.setattr("oasisvq.app.studio.PROPOSALS", 2)
    st.session_state.pop("session_store", None)
    studio = Studio(model)
    open_codes(studio.codes_of("MNI152 template, level 20"), {"example": "MNI152 template, level 20"})
    yield studio
    st.session_state.pop("session_store", None)


def mask(rows: slice, columns: slice) -> np.ndarray:
    selection = np.zeros((20, 20), bool)
    selection[rows, columns] = True
    return selection


def changed() -> np.ndarray:
    return current().changed


def test_refill_proposes_several_and_takes_the_one_chosen(studio):
    studio.ask({"kind": "propose"})
    assert not beside().fills  # nothing is selected
    selection = mask(slice(8, 11), slice(8, 11))
    store(select(current(), selection))
    studio.ask({"kind": "propose"})
    assert not changed().any()  # nothing yet
    fills = beside().fills
    assert len(fills) == 2
    assert len({fill.indices.tobytes() for fill in fills}) > 1
    assert {fill.picture.shape for fill in fills} == {(80, 80)}
    studio.ask({"kind": "use", "number": 1})
    np.testing.assert_array_equal(current().indices, fills[1].indices)
    assert not (changed() & ~selection).any()
    assert len(current().past) == 1
    assert not beside().fills
    studio.ask({"kind": "propose"})
    assert beside().fills[0].indices.tobytes() not in {fill.indices.tobytes() for fill in fills}, "another seed"


def test_a_proposal_leaves_alone_what_was_painted_meanwhile(studio):
    store(select(current(), mask(slice(8, 11), slice(8, 11))))
    studio.ask({"kind": "propose"})
    painted = current().indices.copy()
    painted[0, 0] = (painted[0, 0] + 1) % 512
    store(put(current(), painted))
    studio.ask({"kind": "use", "number": 0})
    assert current().indices[0, 0] == painted[0, 0]


def test_proposals_are_let_go_with_their_picture(studio):
    store(select(current(), mask(slice(8, 9), slice(8, 9))))
    studio.ask({"kind": "propose"})
    open_codes(current().original, None)
    studio.ask({"kind": "use", "number": 0})
    assert not changed().any()


def test_cells_are_transplanted_to_another_slice_and_to_the_other_side(studio):
    selection = mask(slice(5, 8), slice(3, 7))
    store(select(current(), selection))
    source = current().indices
    studio.ask({"kind": "copy"})
    open_codes(studio.codes_of("Phantom person B, level 12, grade 0"), {"example": "another"})
    studio.ask({"kind": "paste"})
    np.testing.assert_array_equal(current().indices[selection], source[selection])
    assert not (changed() & ~selection).any()
    assert origin() == {"example": "another"}
    studio.ask({"kind": "mirror"})
    other = changed() & ~selection
    assert other.any()
    assert not (other & ~selection[:, ::-1]).any()


def test_pasted_codes_of_a_file_are_put_in_no_link(studio):
    open_codes(studio.codes_of("Phantom person B, level 12, grade 0"), None)
    store(select(current(), mask(slice(5, 8), slice(3, 7))))
    studio.ask({"kind": "copy"})
    open_codes(studio.codes_of("MNI152 template, level 20"), {"example": "MNI152 template, level 20"})
    assert origin() is not None
    studio.ask({"kind": "paste"})
    assert origin() is None
    code_grid.forget_private()
    assert copied() is None
    assert current() is None


def test_other_codes_leave_nothing_of_a_path_behind(studio):
    open_codes(studio.codes_of("Phantom person B, level 12, grade 0"), None)
    session_store()[code_grid.PATH] = ("epoch", "other", current().indices)
    open_codes(studio.codes_of("MNI152 template, level 20"), {"example": "MNI152 template, level 20"})
    assert code_grid.PATH not in session_store()


@pytest.mark.parametrize("name", TRIES)
def test_prepared_edits_change_some_cells_as_one_step(studio, name):
    studio.ask({"kind": "try", "name": name})
    assert 10 < changed().sum() < 200
    assert len(current().past) == 1


def test_ventricles_get_wider_and_the_brain_gets_smaller(studio):
    from oasisvq.measure.realism import MEASURES, anatomy

    area, ventricles = MEASURES[:2]
    before = anatomy(studio.picture_of(current().indices))
    studio.ask({"kind": "try", "name": "ventricles"})
    assert anatomy(studio.picture_of(current().indices))[ventricles] > 1.3 * before[ventricles]
    store(put(current(), current().original))
    studio.ask({"kind": "try", "name": "cortex"})
    assert anatomy(studio.picture_of(current().indices))[area] < 0.95 * before[area]


def test_prepared_edits_of_an_empty_slice_do_nothing_and_do_not_fail(model):
    empty = np.zeros((80, 80), np.float32)
    codes = model.encode(torch.full((1, 1, 80, 80), -0.5))[0].numpy()
    for sources in (edits.wider_ventricles(empty), edits.thinner_cortex(empty)):
        np.testing.assert_array_equal(edits.bend(model, codes, empty, sources), codes)


def test_a_path_leads_from_one_slice_to_another_and_is_one_step(studio):
    start, end = current().indices, studio.codes_of("Phantom person B, level 12, grade 0")
    for share, least, most_changed in ((0.25, 0, 399), (0.75, 1, 400), (1.0, 1, 400)):
        studio.walk("Phantom person B, level 12, grade 0", share)
        assert least <= changed().sum() <= most_changed
    np.testing.assert_array_equal(current().indices, end)
    assert len(current().past) == 1
    studio.walk("Phantom person B, level 12, grade 0", 0.0)
    np.testing.assert_array_equal(current().indices, start)


def test_a_path_goes_on_from_what_was_painted_on_the_way(studio):
    other = "Phantom person B, level 12, grade 0"
    studio.walk(other, 0.25)
    painted = current().indices.copy()
    painted[9:11, 9:11] = (painted[9:11, 9:11] + 1) % 512
    store(put(current(), painted))
    studio.walk(other, 0.0)
    np.testing.assert_array_equal(current().indices, painted)
    studio.walk(other, 1.0)
    np.testing.assert_array_equal(current().indices, studio.codes_of(other))


def test_the_meaning_of_a_code_is_that_of_its_layer_alone(studio):
    beside(meaning={"code": 48})
    studio.ask({"kind": "layer", "number": 1})
    assert beside().meaning is None


def test_the_likeliest_codes_of_a_cell_are_those_of_the_prior(studio, model):
    place = 7 * 20 + 9
    studio.ask({"kind": "likely", "place": place})
    at, codes = beside().likely
    assert at == place
    assert [share for _, share in codes] == sorted((share for _, share in codes), reverse=True)
    grid = torch.from_numpy(current().indices)[None].repeat(len(codes), 1, 1)
    for i, (code, _) in enumerate(codes):
        grid[i, 7, 9] = code
    np.testing.assert_allclose(2 ** -model.surprise(grid)[:, 7, 9].numpy(), [s for _, s in codes], rtol=1e-3)
    studio.ask({"kind": "dismiss"})
    assert beside().likely is None


# Parts.


def test_a_mask_of_the_coarse_grid_reaches_the_cells_beneath():
    marked = np.zeros(CASCADE.shape, bool)
    coarse = split(CASCADE, marked)[0]
    coarse[1, 2] = True
    from oasisvq.app.codes import join

    whole = join(CASCADE, [coarse, *split(CASCADE, marked)[1:]])
    first, fine = split(CASCADE, edits.beneath(CASCADE, whole))
    assert first.sum() == 1
    assert fine.shape == (16, 32)
    assert np.argwhere(fine).tolist() == [[r, c] for r in range(4, 8) for c in range(16, 24)]
    turned, fine_turned = split(CASCADE, edits.mirrored(CASCADE, edits.beneath(CASCADE, whole)))
    assert np.argwhere(turned).tolist() == [[1, 1]]
    assert np.argwhere(fine_turned).tolist() == [[r, c] for r in range(4, 8) for c in range(8, 16)]


def test_parts_have_codebooks_and_heights_of_their_own():
    coarse, fine = split(CASCADE, most(CASCADE))
    assert set(coarse.flat) == {8}
    assert set(fine.flat) == {64}
    coarse, fine = split(CASCADE, below(CASCADE, 1))
    assert np.argwhere(~coarse)[:, 0].max() == 0
    assert np.argwhere(~fine)[:, 0].max() == 3


# Their meaning.


def test_a_code_of_few_people_is_said_to_be_rare_and_nothing_more(model, monkeypatch):
    slices = torch.cat([model.sample(4, seed=seed, level=16, top_k=20).slices for seed in range(2)])
    people = [f"p{i % 6}" for i in range(8)]
    [stage] = usage(model, slices, people, [16] * 8)
    codes = model.encode(slices).numpy()
    have = np.array([len({people[i] for i in np.flatnonzero((codes == code).any((1, 2)))}) for code in range(512)])
    common = int(np.bincount(codes.ravel()).argmax())  # of the background: all have it, and in the same cells
    for code in (common, int(np.flatnonzero((have > 0) & (have < FEWEST))[0])):
        rare = have[code] < FEWEST
        assert stage["people"][code] == (0 if rare else have[code])
        assert bool(stage["next"][code]) != rare
        if rare:
            assert not places(stage, code).any()
    assert sum(stage["share"]) == pytest.approx(1, abs=1e-4)
    monkeypatch.setitem(model.info, "codes", {"people": 6, "stages": [stage]})
    told = meaning_of(model, 0, common)
    assert told["code"] == common
    assert told["places"].shape == (20, 20)
    assert told["places"].max() == 1
    assert meaning_of(model, 1, common) is None
    assert meaning_of(model, 0, 512) is None
    monkeypatch.setitem(model.info, "codes", None)
    assert meaning_of(model, 0, common) is None
