"""Reconstruct and the model card through Streamlit's own test runner: volumes, figures, what is taken home."""

import io
import json

import numpy as np
import pytest
from scans import as_bytes as dicom_bytes
from scans import dicom_series, head, nifti, turned, zipped
from skimage.metrics import structural_similarity
from test_app import _navigation_is_known, as_png, metrics_of, model, open_page  # noqa: F401  two are fixtures

from oasisvq.app import charts, examine, wording
from oasisvq.app.choose import Chosen, Kept, as_tensor, harmless, shrunk
from oasisvq.data import upload
from oasisvq.data.examples import examples
from oasisvq.data.slices import to_model
from oasisvq.measure import out_of_distribution
from oasisvq.measure.out_of_distribution import Unlike

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def brain():
    """Eight thick slices: enough to scroll through."""
    return np.ascontiguousarray(head()[:, :, 3::18])


@pytest.fixture
def opened(brain):
    """Reconstruct with a volume in it."""
    app = open_page("reconstruct")
    app.segmented_control(key="source").set_value("Your own file").run()
    data = nifti(*turned(brain, "LPS", (1, 1, 18)))
    app.file_uploader[0].upload("![x](http://evil.example)<b>_T1.nii", data, "").run()
    assert not app.exception
    assert len(app.error) == 1  # it is no whole head, and might show a face
    assert "slice number" not in app.session_state
    as_it_lies(app)
    return app


def as_it_lies(app) -> None:
    next(button for button in app.button if button.label == "Use as it lies").click().run()
    assert not app.exception
    assert not app.error


def captions(app) -> str:
    return " ".join(caption.value for caption in app.caption)


def test_a_volume_opens_in_the_middle_and_scrolls(opened):
    slider = opened.slider(key="slice number")
    assert (slider.min, slider.max) == (1, 7)
    before = metrics_of(opened)
    slider.set_value(slider.value + 1).run()
    assert not opened.exception
    assert metrics_of(opened)["SSIM"] != before["SSIM"]
    assert f"slice {slider.value} of 7" in captions(opened)
    assert "The letters come from the file's header" in captions(opened)


def test_nothing_of_a_file_name_becomes_markup(opened):
    assert "In use: ··x··http···evil.example··b·_T1.nii" in captions(opened)
    assert not any(sign in harmless("a`*[b](c)<d>$:e\n") for sign in "`*[]()<>$:\n")


def test_bytes_of_an_upload_are_let_go(opened):
    assert opened.file_uploader[0].value is None


def test_a_volume_stays_over_pages_until_it_is_forgotten(opened):
    opened.switch_page("pages/surprise.py").run()
    assert not opened.exception
    opened.segmented_control(key="source").set_value("Your own file").run()
    assert "_T1.nii" in captions(opened)
    next(button for button in opened.button if button.label == "Forget this file").click().run()
    assert not opened.exception
    assert "_T1.nii" not in captions(opened)


def test_the_whole_volume_is_measured_slice_by_slice(opened, brain, model):  # noqa: F811
    next(button for button in opened.button if button.label.startswith("Reconstruct all 7")).click().run()
    assert not opened.exception
    assert "The dotted line is the slice above." in captions(opened)
    scan = upload.read(nifti(*turned(brain, "LPS", (1, 1, 18))), "scan")
    steps = []
    kept = Kept("scan", scan, "key", {})
    found = examine.examine_scan(model, kept, lambda done, of: steps.append((done, of)))
    assert steps[-1] == (7, 7)
    pictures = to_model(scan.stack, model.preset.size)
    import torch

    again = model.reconstruct(torch.from_numpy(pictures)[:, None]).slices[:, 0].numpy()
    for mine, a, b in zip(found["ssim"], pictures, again, strict=True):
        expected = structural_similarity(
            a + 0.5, (b + 0.5).clip(0, 1), data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert mine == pytest.approx(expected, abs=1e-4)
    rows = examine.as_csv(found, scan.levels).splitlines()
    assert rows[0].startswith("slice,model_level,ssim,")
    assert len(rows) == 8


def test_one_dicom_slice_and_a_zipped_series_open_too(brain):
    slices = dicom_series(*turned(brain, "LPS", (1, 1, 18)))
    app = open_page("reconstruct")
    app.segmented_control(key="source").set_value("Your own file").run()
    app.file_uploader[0].upload("series.zip", zipped([dicom_bytes(one) for one in slices]), "").run()
    as_it_lies(app)
    assert "slice 4 of 7" in captions(app) or "slice 5 of 7" in captions(app)
    app.file_uploader[0].upload("IM0004", dicom_bytes(slices[4]), "").run()
    assert not app.exception
    assert "In use: IM0004" in captions(app)
    assert not app.slider


def test_a_refused_file_leaves_nothing_of_the_one_before(opened):
    opened.file_uploader[0].upload("broken.nii.gz", b"\x1f\x8b broken", "").run()
    assert [error.value.split(":")[0] for error in opened.error] == ["broken.nii.gz"]
    assert not metrics_of(opened)


def test_an_inverted_picture_and_a_crop_are_told():
    app = open_page("reconstruct")
    app.segmented_control(key="source").set_value("Your own file").run()
    picture = list(examples().values())[2]
    app.file_uploader[0].upload("negative.png", as_png(1 - picture), "image/png").run()
    assert "the picture was inverted" in captions(app)
    assert "does not say which side is left" in captions(app)
    app.file_uploader[0].upload("crop.png", as_png(picture[90:160, 90:160]), "image/png").run()
    assert any("up to its edge" in warning.value for warning in app.warning)


def test_where_a_slice_stands_comes_from_the_percentiles(monkeypatch, model):  # noqa: F811
    curve = np.linspace(0, 1, 101).tolist()
    results = (model.info["results"] or {}) | {"percentiles": {"ssim": curve, "psnr": np.linspace(0, 5, 101).tolist()}}
    monkeypatch.setitem(model.info, "results", results)
    app = open_page("reconstruct")
    assert not app.exception
    told = " ".join(html.proto.body for html in app.get("html"))
    assert f"Higher than {round(100 * float(metrics_of(app)['SSIM']))} % of the test slices" in told
    assert "Higher than 100 % of the test slices" in told
    assert examine.rank(0.5, [0, 0.5, 1]) == 1


def test_figures_put_the_slice_on_its_curve():
    figure = charts.standing([("SSIM", 0.9, np.linspace(0.8, 1, 101).tolist()), ("PSNR", 99, [1.0] * 101)])
    dots = [(trace.x[0], trace.y[0]) for trace in figure.data if trace.mode == "markers"]
    np.testing.assert_allclose(dots, [(0.9, 50), (99, 100)])
    curve = charts.by_slice({"SSIM": [0.9, 0.8, 0.7]}, shown=1)
    assert (curve.data[0].x[1], curve.data[0].y[1], curve.layout.shapes[0].x0) == (2, 0.8, 2)


def test_unlike_is_said_of_the_model_not_of_a_person():
    far = wording.unlike(Unlike(3.0, 1.2, ("the brain is darker than usual",), {}))
    assert "the brain is darker than usual" in far
    assert "says nothing about the person" in far
    assert "abnormal" not in far
    assert "as high as usual, but do not rely on its bits" in far
    for score, reason in ((3.0, out_of_distribution.MEASURES["ssim_foreground"][0]), (np.inf, "no brain was found")):
        nothing = wording.unlike(Unlike(score, 1.2, (reason,), {}))
        assert "Do not rely on what the model makes of this slice" in nothing
        assert "as high as usual" not in nothing
    assert wording.unlike(Unlike(0.3, 1.2, (), {})).startswith("Bits, codes")


def test_the_unlike_signal_is_shown_where_the_weights_are_calibrated(monkeypatch, model):  # noqa: F811
    pictures = shrunk(np.stack(list(examples().values())), model.preset.size)
    calibration = out_of_distribution.calibrate(out_of_distribution.measure(model, as_tensor(pictures)))
    monkeypatch.setitem(model.info, "results", (model.info["results"] or {}) | {"unlike": calibration})
    app = open_page("reconstruct")
    assert not app.exception
    [expected] = out_of_distribution.unlike(model, as_tensor(pictures[2:3]))
    assert metrics_of(app)["like the training data"] == ("no" if expected.unlike else "yes")
    assert (wording.unlike(expected) in [box.value for box in app.warning]) == expected.unlike
    turned_round = as_png(0.5 * np.roll(np.rot90(list(examples().values())[2]), 40, axis=0))
    for page in ("reconstruct", "surprise"):
        app = open_page(page)
        app.segmented_control(key="source").set_value("Your own file").run()
        app.file_uploader[0].upload("sideways.png", turned_round, "image/png").run()
        assert any(box.value.startswith("Unlike the training data:") for box in app.warning)


@pytest.mark.parametrize("count", [1, 2])
def test_a_slice_goes_before_a_head_that_is_drawn_and_a_scan_waits(count, model, monkeypatch):  # noqa: F811
    asked = []
    slot = examine.compute_slot
    monkeypatch.setattr(examine, "compute_slot", lambda urgent: asked.append(urgent) or slot(urgent))
    examine.examine(model, np.zeros((count, model.preset.size, model.preset.size), np.float32))
    assert asked == [count == 1]


def test_a_slice_without_a_brain_has_figures_where_it_can(model):  # noqa: F811
    """As the outermost of a volume that is shown as it lies."""
    [found] = examine.examine(model, np.zeros((1, model.preset.size, model.preset.size), np.float32))
    results = {"percentiles": {name: list(range(101)) for name in found.measured}}
    assert examine.figures_of(found, results, model.preset)
    info = model.info | {"results": results}
    told = json.loads(examine.report(info, Chosen("black", found.reconstruction, "key"), found, None))
    assert told["figures"]["ssim_foreground"] == {"value": None}
    assert told["figures"]["ssim"]["percent_of_test_slices_below"] >= 0


def test_what_is_taken_home_names_the_weights_and_no_file(model):  # noqa: F811
    picture = shrunk(list(examples().values())[2][None], model.preset.size)
    [found] = examine.examine(model, picture)
    chosen = Chosen("Doe_Jane.dcm", picture[0], "key", 3, 9, 20, ("L", "R", "A", "P"))
    told = json.loads(examine.report(model.info, chosen, found, None))
    assert "Doe" not in json.dumps(told)
    sha256 = model.info["files"]["vqvae.safetensors"]["sha256"]
    assert told["weights"]["vqvae_sha256"] == sha256
    assert told["weights"]["training_seed"] == model.preset.seed
    assert told["figures"]["ssim"]["value"] == pytest.approx(found.ssim)
    assert told["slice"]["edges_left_right_top_bottom"] == ["L", "R", "A", "P"]
    assert told["warning"] == wording.DISCLAIMER

    with np.load(io.BytesIO(examine.codes_file(model.info, found)), allow_pickle=False) as saved:
        assert str(saved["weights"]) == sha256
        np.testing.assert_array_equal(saved["indices"][0], found.indices)
        import torch

        again = model.decode(torch.from_numpy(saved["indices"]))[0, 0].numpy() + 0.5
    np.testing.assert_allclose(again, found.reconstruction, atol=1e-5)


def test_model_card_shows_rate_and_copies_that_came_with_the_weights(monkeypatch, model):  # noqa: F811
    app = open_page("model_card")
    assert any("it was not measured" in text.value for text in app.markdown) == (model.info["draws"] is None)
    copies = {"share_closer": 0.0125, "draws_median": 0.0654, "held_out_median": 0.0712}
    drawn = {"copies": copies, "count": 640, "seed": 3, "people": 20, "split": "test"}
    monkeypatch.setitem(model.info, "draws", drawn)
    foreign = {"coronal": {"slices": 8, "unlike": 0.75, "reasons": {"the brain lies off centre in the picture": 0.5}}}
    monkeypatch.setitem(model.info, "failures", {"foreign": foreign})
    app = open_page("model_card")
    assert not app.exception
    assert list(metrics_of(app).values()) == ["1.2%", "0.0654", "0.0712"]
    assert any("75%" in table.value.to_string() for table in app.table)
    assert any("640 draws with seed 3" in caption.value for caption in app.caption)
    assert any(model.info["files"]["vqvae.safetensors"]["sha256"] in code.value for code in app.code)
