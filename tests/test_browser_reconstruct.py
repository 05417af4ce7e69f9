"""Reconstruct in a real browser: an uploaded volume, scrolled by wheel, keys, slider; zoom, window, wipe, downloads."""

import base64
import io
import json
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from scans import head, nifti, turned
from test_browser import browser, pytestmark, seen, server, tab  # noqa: F401  fixtures

from benchmarks.system.app import settle, visit

PANELS = ("original", "reconstruction")
NAME = "volume.nii"


def volume() -> bytes:
    """Nine slices 14 mm apart."""
    return nifti(*turned(np.ascontiguousarray(head()[:, :, 17::14]), "LPS", (1, 1, 14)))


@pytest.fixture(scope="module")
def viewer(tab):  # noqa: F811
    """The viewer with an uploaded volume in it, in the middle of it."""
    visit(tab, "Reconstruct")
    tab.get_by_text("Your own file").click()
    settle(tab)
    upload(tab)
    return Viewer(tab)


def upload(tab) -> None:  # noqa: F811
    """It is no whole head: its slices are shown when asked for."""
    tab.locator("input[type=file]").set_input_files({"name": NAME, "mimeType": "", "buffer": volume()})
    tab.get_by_role("button", name="Use as it lies").click(timeout=60_000)
    tab.get_by_text(f"In use: {NAME}").wait_for(timeout=60_000)
    settle(tab)


@pytest.fixture(autouse=True)
def _as_it_was(viewer):
    for name in ("Side by side", "Plain", "Reset"):
        viewer.tab.get_by_role("button", name=name, exact=True).click()
    viewer.go_to(5)


class Viewer:
    def __init__(self, tab):  # noqa: F811
        self.tab = tab
        self.root = tab.locator(".viewer")
        self.root.wait_for()
        self.count = int(tab.locator(".viewer .slice").inner_text().split()[-1])

    def canvas(self, panel: str):
        return self.root.locator(f"[data-panel={panel}] canvas")

    def pixels(self, panel: str) -> np.ndarray:
        """What a canvas shows, (H, W, 3)."""
        self.tab.mouse.move(0, 0)  # no cursor
        url = self.canvas(panel).evaluate("canvas => canvas.toDataURL()")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)

    def all(self) -> dict[str, np.ndarray]:
        return {panel: self.pixels(panel) for panel in PANELS}

    def wait_for(self, number: int) -> None:
        """Until the server has answered and everything that tells the slice agrees."""
        self.tab.wait_for_function(
            """number => {
                const host = [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
                    .map(h => h.shadowRoot?.querySelector('.viewer')).find(v => v);
                return host?.dataset.slice === String(number - 1) && host.getAttribute('aria-busy') === 'false';
            }""",
            arg=number,
            timeout=20_000,
        )
        settle(self.tab)
        assert self.root.locator(".slice").inner_text() == f"Slice {number} of {self.count}"
        expect(self.slider()).to_have_value(str(number))

    def slider(self):
        return self.tab.get_by_test_id("stSlider").filter(has_text="Slice, from below").get_by_role("slider")

    def go_to(self, number: int) -> None:
        self.canvas("original").focus()
        self.tab.keyboard.press("Home")
        for _ in range(number - 1):
            self.tab.keyboard.press("ArrowUp")
        self.wait_for(number)


def test_both_pictures_show_and_say_what_they_are(viewer):
    for panel, pixels in viewer.all().items():
        assert pixels.std() > 5, panel
        label = viewer.canvas(panel).get_attribute("aria-label")
        assert NAME in label
        assert "left edge L, right edge R, top A, bottom P" in label
    assert "Which side is left is not known" not in viewer.tab.content()


def test_wheel_keys_and_slider_scroll_the_same_volume(viewer):
    middle = viewer.pixels("original")
    viewer.canvas("reconstruction").hover()
    for _ in range(3):
        viewer.tab.mouse.wheel(0, -50)
    viewer.wait_for(8)
    assert np.abs(viewer.pixels("original") - middle).mean() > 1
    viewer.canvas("original").hover()
    for _ in range(30):  # faster than any server answers, and further than the volume reaches
        viewer.tab.mouse.wheel(0, 50)
    viewer.wait_for(1)
    viewer.canvas("reconstruction").focus()
    viewer.tab.keyboard.press("End")
    viewer.wait_for(viewer.count)
    viewer.tab.keyboard.press("PageDown")
    viewer.wait_for(viewer.count - 1)
    viewer.slider().focus()
    for _ in range(viewer.count - 1 - 5):
        viewer.tab.keyboard.press("ArrowLeft")
    viewer.wait_for(5)
    np.testing.assert_array_equal(viewer.pixels("original"), middle)


def test_zoom_is_linked(viewer):
    before = viewer.all()
    viewer.canvas("reconstruction").hover()
    viewer.tab.keyboard.down("Control")
    viewer.tab.mouse.wheel(0, -300)
    viewer.tab.keyboard.up("Control")
    after = viewer.all()
    assert all(np.abs(after[panel] - before[panel]).mean() > 1 for panel in PANELS)
    box = viewer.canvas("original").bounding_box()
    viewer.tab.mouse.move(box["x"] + 150, box["y"] + 150)
    viewer.tab.mouse.down()
    viewer.tab.mouse.move(box["x"] + 100, box["y"] + 120)
    viewer.tab.mouse.up()
    moved = viewer.all()
    assert all(np.abs(moved[panel] - after[panel]).mean() > 0.5 for panel in PANELS)
    viewer.tab.get_by_role("button", name="Reset", exact=True).click()
    for panel, pixels in viewer.all().items():
        np.testing.assert_array_equal(pixels, before[panel])


def test_one_window_and_level_for_both_pictures_by_drag_preset_and_key(viewer):
    before = viewer.all()
    box = viewer.canvas("original").bounding_box()

    def changed() -> bool:
        differences = [np.abs(pixels - before[panel]).mean() for panel, pixels in viewer.all().items()]
        assert (min(differences) > 0.5) == (max(differences) > 0.5), "one scale for both"
        return min(differences) > 0.5

    for button in ("left", "right"):
        viewer.tab.mouse.move(box["x"] + 180, box["y"] + 100)
        viewer.tab.mouse.down(button=button)
        viewer.tab.mouse.move(box["x"] + 60, box["y"] + 130)
        viewer.tab.mouse.up(button=button)
        assert changed()
        viewer.tab.get_by_role("button", name="All greys").click()
        assert not changed()
    viewer.tab.get_by_role("button", name="Grey/white").click()
    assert changed()
    viewer.canvas("original").focus()
    viewer.tab.keyboard.press("1")
    assert not changed()
    viewer.tab.keyboard.press("[")
    assert changed()


@pytest.mark.parametrize("name", ["Difference", "SSIM", "Codes"])
def test_overlays_fade_in_over_the_reconstruction_and_leave_black_black(viewer, name):
    before = viewer.all()
    viewer.tab.get_by_role("button", name=name, exact=True).click()
    viewer.tab.wait_for_timeout(600)
    after = viewer.all()
    np.testing.assert_array_equal(after["original"], before["original"])
    coloured = np.ptp(after["reconstruction"], axis=2)
    assert coloured.max() > 30
    black = np.zeros(coloured.shape, bool)
    black[100:160, 20:120] = True  # a corner without brain, below the legend
    assert after["reconstruction"][black].mean() < 12
    viewer.root.locator(".strength input").fill("10")
    viewer.tab.wait_for_timeout(50)
    assert np.ptp(viewer.pixels("reconstruction"), axis=2).mean() < coloured.mean()
    viewer.root.locator(".strength input").fill("75")


def test_original_and_reconstruction_on_the_two_sides_of_a_line(viewer):
    viewer.tab.get_by_role("button", name="Slider", exact=True).click()
    line = viewer.root.get_by_role("slider", name="Line")
    shown = {}
    for place in ("0", "50", "100"):
        line.fill(place)
        shown[place] = viewer.pixels("slider")[100:800]
    after, half, before = shown["0"], shown["50"], shown["100"]
    assert np.abs(before - after).mean() > 0.5
    np.testing.assert_array_equal(half[:, :300], before[:, :300])
    np.testing.assert_array_equal(half[:, 520:], after[:, 520:])
    viewer.canvas("slider").focus()
    viewer.tab.keyboard.press("ArrowLeft")
    assert line.input_value() == "98"
    viewer.tab.keyboard.press("v")
    assert viewer.canvas("original").is_visible()


def test_a_value_under_the_pointer_is_told(viewer):
    viewer.canvas("original").hover()
    assert "left 0." in viewer.root.locator(".reading").first.inner_text()


def test_what_is_taken_home(viewer):
    files = {}
    viewer.tab.get_by_text("More: this slice among others").click()
    for label in ("Reconstruction, PNG", "Codes, npz", "Report, JSON"):
        with viewer.tab.expect_download() as waiting:
            viewer.tab.get_by_role("button", name=label).click()
        files[waiting.value.suggested_filename] = Path(waiting.value.path()).read_bytes()
    report = json.loads(files["oasisvq-report.json"])
    assert report["slice"]["number_from_below"] == 5
    assert "volume" not in files["oasisvq-report.json"].decode()
    with np.load(io.BytesIO(files["oasisvq-codes.npz"]), allow_pickle=False) as codes:
        assert codes["indices"].shape[1:] == tuple(report["codes_grid"])
    picture = Image.open(io.BytesIO(files["oasisvq-reconstruction.png"]))
    assert picture.text["Kind"] == "RECONSTRUCTION"
    assert np.asarray(picture)[-30:, :100].max() == 200  # the mark


def test_the_whole_volume_has_a_curve(viewer):
    viewer.tab.get_by_role("button", name=f"Reconstruct all {viewer.count} slices").click()
    viewer.tab.get_by_role("button", name="Figures of all slices, CSV").wait_for(timeout=60_000)
    settle(viewer.tab)
    assert viewer.tab.get_by_test_id("stException").count() == 0


def test_on_a_phone_the_scale_of_colours_covers_neither_picture_nor_line(viewer):
    viewer.tab.set_viewport_size({"width": 390, "height": 844})
    try:
        for way, panel in (("Side by side", "reconstruction"), ("Slider", "slider")):
            viewer.tab.get_by_role("button", name=way, exact=True).click()
            viewer.tab.get_by_role("button", name="SSIM", exact=True).click()
            scale = viewer.root.locator(".scale:visible")
            expect(scale).to_have_count(1)
            canvas, colours = viewer.canvas(panel).bounding_box(), scale.bounding_box()
            assert colours["y"] >= canvas["y"] + canvas["height"]
            panels = viewer.root.locator(".panels").bounding_box()
            assert colours["y"] + colours["height"] <= panels["y"] + panels["height"]
    finally:
        viewer.tab.set_viewport_size({"width": 1360, "height": 1300})


def test_another_source_may_be_chosen_while_a_slice_is_on_its_way(viewer):
    page = viewer.tab
    page.evaluate(
        """() => {
            const host = [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
                .map(h => h.shadowRoot?.querySelector('.viewer')).find(v => v);
            host.querySelector('[data-panel=original] canvas')
                .dispatchEvent(new KeyboardEvent('keydown', { key: 'End', bubbles: true }));
            [...document.querySelectorAll('button')].find(button => button.innerText.trim() === 'Example').click();
        }"""
    )
    page.wait_for_timeout(4_000)  # by then it would have been asked for again
    settle(page)
    assert page.get_by_test_id("stException").count() == 0
    assert "Colin 27" in viewer.canvas("original").get_attribute("aria-label")
    page.get_by_text("Your own file").click()
    settle(page)
    viewer.root.wait_for()


def test_an_upload_is_in_no_link_and_in_no_other_session(viewer, browser, server):  # noqa: F811
    assert urlparse(viewer.tab.url).query == ""
    other = browser.new_page(viewport={"width": 390, "height": 844})
    other.goto(f"{server}/reconstruct")
    other.get_by_text("Your own file").click(timeout=60_000)
    settle(other)
    expect(other.locator(".viewer")).to_have_count(0)
    assert other.get_by_text(NAME).count() == 0
    other.get_by_text("Example", exact=True).first.click()
    other.locator(".viewer").wait_for()
    settle(other)
    assert other.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [c.bounding_box() for c in other.locator(".viewer .panels canvas").all() if c.is_visible()]
    assert len(boxes) == 2
    assert all(box["width"] > 250 for box in boxes)
    other.close()


def test_forgetting_the_file_forgets_it(viewer, seen, server):  # noqa: F811
    viewer.tab.get_by_role("button", name="Forget this file").click()
    viewer.root.wait_for(state="detached")
    assert viewer.tab.get_by_text(NAME).count() == 0
    assert seen.crashes == []
    assert seen.hosts <= {urlparse(server).netloc, ""}
    upload(viewer.tab)
