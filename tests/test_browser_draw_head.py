"""A drawn head in a real browser: three planes grow, one crosshair links them, mouse and keys move it."""

from urllib.parse import urlparse

import pytest
from test_app_draw_head import KNOWING
from test_browser import browser, pytestmark, serious, serve  # noqa: F401
from tiny_weights import write_weights


@pytest.fixture(scope="module")
def tab(browser, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("server")
    write_weights(folder / "weights" / "base", preset=KNOWING)
    with serve(folder / "log", folder / "weights") as address:
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.hosts = set()
        tab.on("request", lambda request: tab.hosts.add(urlparse(request.url).netloc))
        tab.goto(f"{address}/draw_a_head")
        tab.locator(".planes[data-known='32']").wait_for(timeout=60_000)
        tab.get_by_role("button", name="Save").wait_for()
        yield tab
        tab.close()


def at(tab) -> tuple[int, int, int]:
    """Column, row and level of the crosshair."""
    planes = tab.locator(".planes")
    return tuple(int(planes.get_attribute(f"data-{axis}")) for axis in "xyz")


def canvas(tab, plane: str):
    return tab.locator(f'[data-plane="{plane}"] canvas')


def test_a_click_in_one_plane_moves_the_others(tab):
    box = canvas(tab, "coronal").bounding_box()
    canvas(tab, "coronal").click(position={"x": box["width"] / 4, "y": box["height"] * 4.5 / 32})
    x, _, z = at(tab)
    assert (x, z) == (5, 27)  # 16 pixels of 16 mm, the outer 40 mm left out; 32 levels, the highest on top
    assert "Level 27" in canvas(tab, "axial").get_attribute("aria-label")
    box = canvas(tab, "axial").bounding_box()
    canvas(tab, "axial").click(position={"x": box["width"] / 2 + 2, "y": box["height"] / 4})
    assert at(tab) == (8, 4, 27)


def test_the_wheel_and_the_keys_scroll_each_plane(tab):
    canvas(tab, "axial").hover()
    level = at(tab)[2]
    tab.mouse.wheel(0, 100)
    tab.locator(f".planes[data-z='{level - 2}']").wait_for()
    canvas(tab, "axial").focus()
    before = at(tab)
    tab.keyboard.press("ArrowUp")
    assert at(tab) == (before[0], before[1], before[2] + 1)
    tab.keyboard.press("Home")
    assert at(tab)[2] == 0
    tab.keyboard.press("Shift+ArrowRight")
    assert at(tab) == (before[0] + 1, before[1], 0)
    tab.keyboard.press("Tab")
    tab.keyboard.press("PageDown")  # the coronal plane goes to the back
    assert at(tab) == (before[0] + 1, before[1] + 1, 0)


def test_it_can_be_used_by_everybody_and_asks_no_other_host(tab):
    assert serious(tab) == {}
    assert tab.hosts - {""} == {urlparse(tab.url).netloc}  # pictures come as data: URLs, of no host
