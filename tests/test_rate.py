"""The benchmark of rate and its figure: what is read off is what went in."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny_weights import TINY, write_weights

from oasisvq import OasisVQ
from oasisvq.app import charts
from oasisvq.compress import compress
from oasisvq.data.layout import load_split
from oasisvq.measure import metrics


@pytest.fixture(scope="module")
def rate() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "quality" / "rate.py"
    spec = importlib.util.spec_from_file_location("rate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured(rate: ModuleType, tiny_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    model = OasisVQ.from_pretrained(write_weights(tmp_path_factory.mktemp("weights") / "tiny"), device="cpu")
    rate.CODECS = {
        name: one._replace(
            steps=dict(list(one.steps.items())[3:5]),
            manners={k: v | ({"speed": 8} if name == "AVIF" else {}) for k, v in list(one.manners.items())[:2]},
        )
        for name, one in rate.CODECS.items()
    }
    kept = tmp_path_factory.mktemp("rate") / "rate.json"
    return {"model": model, "figures": rate.run([model], tiny_cohort, "test", kept), "kept": kept}


def test_our_sizes_are_those_of_files_and_clarity_that_of_reconstructions(measured: dict, tiny_cohort: Path) -> None:
    model, found = measured["model"], measured["figures"]["sizes"][str(TINY.size)]["models"]["tiny"]
    held_out = load_split(tiny_cohort, "test", TINY.size)
    coded = model.reconstruct(torch.from_numpy(held_out.slices)[:, None])
    files = compress(model, coded.indices, held_out.levels, held_out.grades)
    assert found["prior"]["bytes"] == pytest.approx(np.mean([len(file) for file in files]), abs=1e-4)
    assert found["fixed"]["bytes"] == TINY.codes * 3 / 8
    pairs = zip(held_out.slices + 0.5, coded.slices[:, 0].numpy() + 0.5, strict=True)
    assert found["prior"]["ssim"] == pytest.approx(np.mean([metrics.ssim(a, b) for a, b in pairs]), abs=1e-4)
    assert found["decoded_exactly"] == len(held_out)


def test_what_is_kept_is_not_measured_again(
    rate: ModuleType, measured: dict, tiny_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(rate, "codec", never)
        patched.setattr(rate, "ours", never)
        assert rate.run([measured["model"]], tiny_cohort, "test", measured["kept"]) == measured["figures"]
        with pytest.raises(AssertionError):  # other slices are
            rate.run([measured["model"]], tiny_cohort, "validate", measured["kept"])


def test_codecs_that_are_not_asked_for_are_left_out(
    rate: ModuleType, measured: dict, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = measured["figures"]["sizes"][str(TINY.size)]
    monkeypatch.setattr(rate, "ours", lambda *_: known["models"]["tiny"])
    kept = tmp_path / "rate.json"
    for codecs in ([], ["JPEG"], ["JPEG", "WebP"]):  # each goes on where the one before ended
        found = rate.run([measured["model"]], tiny_cohort, "test", kept, codecs)["sizes"][str(TINY.size)]
        assert found["models"] == known["models"]
        for where in ("codecs", "together"):
            assert found[where] == {name: known[where][name] for name in codecs}


def test_a_manner_that_is_new_is_tried_and_its_points_measured_if_it_is_better(
    rate: ModuleType, measured: dict, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = measured["figures"]["sizes"][str(TINY.size)]
    kept = tmp_path / "rate.json"
    kept.write_text(measured["kept"].read_text())
    webp = rate.CODECS["WebP"]
    chosen = known["chosen"]["codecs"]["WebP"]["manner"]
    for manner in (chosen, "new"):
        manners = webp.manners | {"new": webp.manners[chosen]}
        monkeypatch.setattr(rate, "CODECS", rate.CODECS | {"WebP": webp._replace(manners=manners)})
        found = {"manner": manner, "bytes_as_clear": dict.fromkeys(manners, 9.0)}
        monkeypatch.setattr(rate, "choose", lambda *_, found=found: found)
        monkeypatch.setattr(rate, "codec", lambda *_: {"bytes": 1.0})
        again = rate.run([measured["model"]], tiny_cohort, "test", kept, ["WebP"])["sizes"][str(TINY.size)]
        assert again["chosen"]["codecs"] == known["chosen"]["codecs"] | {"WebP": found}
        points = known["codecs"]["WebP"] if manner == chosen else [{"bytes": 1.0}] * len(webp.steps)
        assert again["codecs"] == known["codecs"] | {"WebP": points}
        kept.write_text(measured["kept"].read_text())


def test_only_small_slices_go_through_the_slowest_manners(rate: ModuleType) -> None:
    slow = rate.Codec("AVIF", {}, {"speed 4": {"speed": 4}, "speed 0": {"speed": 0}, "as it comes": {}})
    assert slow.manners_at(80) == ["speed 4", "speed 0", "as it comes"]
    assert slow.manners_at(256) == ["speed 4", "as it comes"]


def test_codecs_get_clearer_with_size(measured: dict) -> None:
    for points in measured["figures"]["sizes"][str(TINY.size)]["codecs"].values():
        assert points[0]["bytes"] <= points[-1]["bytes"]
        assert points[0]["ssim"] <= points[-1]["ssim"] <= 1


def test_a_codec_gets_the_manner_that_needs_the_fewest_bytes_on_validation_people(
    rate: ModuleType, measured: dict, tiny_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def codec(data: object, setting: tuple, together: bool) -> dict[str, float]:
        asked.append(set(data.cases))
        label, _, options = setting
        step, manner = int(label[-1]), options["manner"]
        return {
            "ssim_foreground": [-2.0, 2.0][step == 2] if manner != "blurred" else -2.0,
            "bytes": manner_bytes[manner] + step,
        }

    manner_bytes = {"small": 100, "smaller": 90, "blurred": 1}
    monkeypatch.setattr(rate, "codec", codec)
    steps = {f"step {i}": {} for i in range(3)}
    one = rate.Codec("PNG", steps, {name: {"manner": name} for name in manner_bytes})
    found = rate.choose(one, measured["model"], tiny_cohort, together=False)
    assert found["manner"] == "smaller"
    assert found["bytes_as_clear"]["blurred"] is None
    assert 90 <= found["bytes_as_clear"]["smaller"] <= 92
    validation = set(load_split(tiny_cohort, "validate", TINY.size).cases)
    assert set.union(*asked) <= validation


@pytest.mark.parametrize("n", [1, 8, 9])
def test_slices_come_out_of_one_picture_as_they_went_in(rate: ModuleType, n: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (n, 4, 4), np.uint8)
    assert np.array_equal(rate.untile(rate.tile(pictures), pictures.shape), pictures)


def test_a_lossless_codec_would_lose_nothing(rate: ModuleType) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    size, again = rate.through(picture, "PNG", {})
    assert size > 0
    assert np.array_equal(np.rint(again * 255), picture)


def test_the_figure_shows_every_point_once_a_panel(measured: dict) -> None:
    figure = charts.rate(measured["figures"], TINY.size)
    found = measured["figures"]["sizes"][str(TINY.size)]
    for axis, key in (("x", "ssim"), ("x2", "ssim_foreground")):
        shown = {trace.name: trace for trace in figure.data if (trace.xaxis or "x") == axis}
        assert len(shown) == 2 * len(found["codecs"]) + 1
        assert list(shown["WebP"].x) == [p["bytes"] for p in found["codecs"]["WebP"]]
        assert list(shown["WebP"].y) == [p[key] for p in found["codecs"]["WebP"]]
        assert shown["oasisvq, tiny"].y[0] == found["models"]["tiny"]["prior"][key]
