"""A finer grid in a real browser: its model is chosen at the top, and fast fingers lose nothing."""

import pytest
from test_app_models import GEOMETRIES, write_untrained
from test_browser import Grid, browser, click_twenty, paint_eight, pytestmark, serve, settle, visit  # noqa: F401

MODEL = "clear"


@pytest.fixture(scope="module")
def tab(browser, tmp_path_factory):  # noqa: F811
    """Edit codes with the second of two models."""
    folder = tmp_path_factory.mktemp("server")
    bundled = write_untrained(folder / "weights", {name: GEOMETRIES[name] for name in ("base", MODEL)})
    with serve(folder / "log", bundled) as address:
        tab = browser.new_page(viewport={"width": 1360, "height": 1300})
        tab.goto(f"{address}/model_card")  # which draws nothing
        tab.locator(".st-key-model").get_by_role("combobox").wait_for(timeout=60_000)
        settle(tab)
        tab.locator(".st-key-model").get_by_role("combobox").click()
        tab.get_by_role("option", name=MODEL, exact=False).click()
        tab.wait_for_url(f"**model={MODEL}**")  # the links to other pages follow the choice
        settle(tab)
        visit(tab, "Edit codes")
        tab.locator("canvas.picture").wait_for()
        yield tab
        tab.close()


@pytest.fixture
def grid(tab):
    grid = Grid(tab)
    assert (grid.rows, grid.columns) == GEOMETRIES[MODEL].parts[0]
    return grid


def test_twenty_rapid_clicks_and_eight_strokes_on_a_finer_grid(tab, grid):
    clicked = click_twenty(grid)
    assert grid.changed() == clicked
    tab.get_by_role("button", name="Reset", exact=True).click()
    assert grid.changed() == set()
    strokes = paint_eight(grid)
    assert grid.changed() == {cell for stroke in strokes for cell in stroke}
