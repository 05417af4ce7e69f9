"""The signal for slices from elsewhere, on measures made by hand and on tiny weights."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_weights import CASCADE, TINY, write_weights

from oasisvq import OasisVQ, OasisVQError
from oasisvq.app.choose import SHOWN_FIRST
from oasisvq.data.examples import examples
from oasisvq.data.layout import load_split
from oasisvq.data.slices import to_model
from oasisvq.hub import sources
from oasisvq.measure import metrics
from oasisvq.measure.out_of_distribution import FALSE_ALARMS, MEASURES, calibrate, compare, measure, unlike
from oasisvq.models.tokenizer import shrink


def people(n: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    usual = {
        "bits_per_code": 2.0,
        "bits_per_brain_code": 6.0,
        "code_distance": 2.0,
        "ssim_foreground": 0.9,
        "brain_area": 0.3,
    }
    usual |= {"brightness": 0.5, "centre_row": 0.5, "centre_column": 0.5}
    return {name: usual[name] + 0.02 * rng.standard_normal(n) for name in MEASURES}


def test_the_aimed_share_of_those_calibrated_on_is_unlike() -> None:
    verdicts = compare(people(), calibrate(people()))
    assert np.mean([verdict.unlike for verdict in verdicts]) == pytest.approx(FALSE_ALARMS, abs=1 / 400)
    assert all(verdict.unlike == bool(verdict.reasons) for verdict in verdicts)


def test_only_the_bad_side_of_a_one_sided_measure_counts() -> None:
    calibration = calibrate(people())
    easy, hard = ({name: np.array([0.5]) for name in MEASURES} for _ in range(2))
    for slice_, bits, likeness in ((easy, 1.0, 1.0), (hard, 20.0, 0.1)):
        slice_ |= {
            "bits_per_brain_code": np.array([bits]),
            "bits_per_code": np.array([1.0]),
            "code_distance": np.array([2.0]),
        }
        slice_ |= {"ssim_foreground": np.array([likeness]), "brain_area": np.array([0.3])}
    assert not compare(easy, calibration)[0].unlike
    reasons = compare(hard, calibration)[0].reasons
    assert set(reasons) == {MEASURES["bits_per_brain_code"][1], MEASURES["ssim_foreground"][0]}


def test_people_who_all_lie_alike_do_not_make_a_pixel_remarkable() -> None:
    alike = people() | {"centre_column": np.full(400, 0.5)}
    moved = {name: values[:1] for name, values in people().items()} | {"centre_column": np.array([0.505])}
    assert "off centre" not in " ".join(compare(moved, calibrate(alike))[0].reasons)


@pytest.fixture(scope="module", params=[1, 2], ids=["a code a cell", "two codes a cell"])
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> OasisVQ:
    folder = write_weights(tmp_path_factory.mktemp("weights") / "tiny", preset=replace(TINY, depth=request.param))
    loaded = OasisVQ.from_pretrained(folder, device="cpu")
    torch.manual_seed(0)
    loaded.vqvae.quantiser.codebook.copy_(torch.randn(TINY.codebook_size, TINY.code_dim))
    return loaded


def test_measures_are_what_they_say(model: OasisVQ, tiny_cohort: Path) -> None:
    slices = torch.from_numpy(load_split(tiny_cohort, "test", TINY.size).slices)[:3, None]
    measured = measure(model, slices)
    coded = model.reconstruct(slices)
    cells = torch.from_numpy(metrics.brain_cells(slices[:, 0].numpy() + 0.5, TINY.grid))
    depth = model.preset.depth
    for i in range(3):
        bits = model.surprise(coded.indices[i : i + 1])[0].unflatten(1, (-1, depth))[cells[i]].mean()
        assert measured["bits_per_brain_code"][i] == pytest.approx(float(bits), rel=1e-5)
        left = model.vqvae.encoder(slices[i : i + 1])[0].flatten(1).T  # over: (h * w, D)
        for _ in range(depth):
            to_all = torch.cdist(left, model.vqvae.codebook)
            left = left - model.vqvae.codebook[to_all.argmin(1)]
        nearest = to_all.min(1).values.view(TINY.grid)[cells[i]].mean()
        assert measured["code_distance"][i] == pytest.approx(float(nearest), rel=1e-4)
    moved = measure(model, slices.roll(2, 3))
    assert moved["centre_column"] - measured["centre_column"] == pytest.approx(np.full(3, 2 / TINY.size))


def test_a_cascade_is_measured_by_its_coarse_stage_and_the_ssim_of_both(tmp_path: Path, tiny_cohort: Path) -> None:
    cascade = OasisVQ.from_pretrained(write_weights(tmp_path / "cascade", preset=CASCADE), device="cpu")
    slices = torch.from_numpy(load_split(tiny_cohort, "test", CASCADE.size).slices)[:3, None]
    found = measure(cascade, slices)
    assert cascade.coarse is not None
    again = cascade.reconstruct(slices).slices
    ssim = [
        metrics.foreground_ssim(*pair)
        for pair in zip(slices[:, 0].numpy() + 0.5, again[:, 0].numpy() + 0.5, strict=True)
    ]
    wanted = measure(cascade.coarse, shrink(slices, TINY.size)) | {"ssim_foreground": np.array(ssim)}
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)


def test_a_blank_slice_is_unlike_anything(model: OasisVQ) -> None:
    (verdict,) = compare(measure(model, torch.full((1, 1, TINY.size, TINY.size), -0.5)), calibrate(people()))
    assert verdict.unlike
    assert verdict.score == math.inf
    assert "no brain" in verdict.reasons[0]


def test_weights_without_a_calibration_say_so(model: OasisVQ) -> None:
    with pytest.raises(OasisVQError, match="no calibration"):
        unlike(model, torch.zeros(1, 1, TINY.size, TINY.size))


@pytest.mark.slow
@pytest.mark.parametrize("name", sources.bundled())
def test_the_example_that_the_app_shows_first_is_like_the_training_data(name: str) -> None:
    model = OasisVQ.from_pretrained(name, device="cpu")
    slices = torch.from_numpy(to_model(examples()[SHOWN_FIRST][None], model.preset.size))[:, None]
    [found] = unlike(model, slices)
    assert found.reasons == ()
