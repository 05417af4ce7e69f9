"""Every page through axe-core, in light, dark and on a phone: no serious finding, nothing wider than the screen."""

import pytest
from test_browser import PAGES, browser, pytestmark, seen, server, settle, visit  # noqa: F401  fixtures

axe = pytest.importorskip("axe_playwright_python.sync_playwright")

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


@pytest.fixture(scope="module", params=["light", "dark", "phone"])
def tab(request, browser, server):  # noqa: F811
    """A tab in light, in dark, and as wide as a phone."""
    phone = request.param == "phone"
    context = browser.new_context(
        viewport={"width": 390, "height": 844} if phone else {"width": 1360, "height": 1300},
        color_scheme="dark" if request.param == "dark" else "light",
        has_touch=phone,
    )
    tab = context.new_page()
    tab.goto(server)
    tab.get_by_role("heading", level=1).wait_for(timeout=60_000)
    yield tab
    context.close()


@pytest.mark.parametrize("title", PAGES)
def test_axe_has_no_serious_finding_and_nothing_is_wider_than_the_screen(tab, server, title):  # noqa: F811
    tab.goto(f"{server}/{'' if title == 'Home' else title.lower().replace(' ', '_')}")
    tab.get_by_role("heading", name=PAGES[title], level=1).wait_for(timeout=60_000)
    settle(tab)
    found = axe.Axe().run(tab, options=RULES).response["violations"]
    serious = {
        f"{violation['id']}: {violation['help']}": [
            f"{node['target']}: {node['html'][:200]} {node['any'][0]['message'] if node['any'] else ''}"
            for node in violation["nodes"]
        ]
        for violation in found
        if violation["impact"] in ("serious", "critical")
    }
    assert serious == {}
    widths = tab.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
