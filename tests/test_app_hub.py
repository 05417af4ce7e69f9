"""The app while the Hub is away: up at once on what is at hand, open about it, and changed over when it is back."""

import time
from pathlib import Path

import pytest
from hub_server import HubServer, Repository
from streamlit.testing.v1 import AppTest
from test_app import _navigation_is_known  # noqa: F401  a fixture for every test
from tiny_weights import REPO, forget_the_hub, point_at, write_weights

from oasisvq.app import models
from oasisvq.hub import background, client, sources

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture
def hub(monkeypatch, tmp_path):
    forget_the_hub(monkeypatch, tmp_path)
    monkeypatch.setenv("OASISVQ_HUB_REPO", REPO)
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(client, "PATIENCE", 1)
    with HubServer() as server:
        point_at(monkeypatch, server.url)
        forget()
        yield server
    forget()


def forget() -> None:
    for cached in (models.load_model, models.choices, models.hub):
        cached.clear()


def wait_for_the_hub() -> None:
    deadline = time.monotonic() + 40
    while models.hub().status:
        assert time.monotonic() < deadline, models.hub().status
        time.sleep(0.05)


def put_weights_on(hub: HubServer) -> str:
    """The commit."""
    repo = hub.repos.setdefault(REPO, Repository())
    folder = sources.BUNDLED / sources.DEFAULT
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return repo.commit(files)


def sidebar(app: AppTest) -> str:
    return "\n".join(caption.value for caption in app.caption)


def test_the_app_says_that_the_hub_is_away_and_changes_over_when_it_is_back(hub):
    hub.delay = 60
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    started = time.monotonic()
    app.run()
    assert not app.exception
    assert not app.error
    assert time.monotonic() - started < 30, "no page waits for the Hub"
    assert "bundled with the app" in sidebar(app)
    assert f"Asking the Hub for {REPO}" in sidebar(app)
    hub.status, hub.delay = 500, 0
    deadline = time.monotonic() + 20
    while "answered 500" not in models.hub().status:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    app.run()
    assert "the Hub answered 500 for lab/brains" in sidebar(app)
    assert "Next try within" in sidebar(app)

    commit = put_weights_on(hub)
    hub.status = 0
    wait_for_the_hub()
    app.run()
    assert not app.exception
    assert f"**Repository** {REPO}" in sidebar(app)
    assert commit[:12] in sidebar(app)
    assert "from this machine's cache" in sidebar(app)
    assert "Hub for" not in sidebar(app)
    labels = app.selectbox(key="model").options
    assert len(set(labels)) == len(labels), "the same preset from two places must not read the same"


def test_weights_that_come_from_the_hub_take_nothing_from_whoever_works(hub, monkeypatch, tmp_path):
    other = write_weights(tmp_path / "other", seed=5)
    hub.status = 500
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    app.switch_page("pages/edit_codes.py").run()
    at_work = app.session_state["session_store"]["editor"]
    repo = hub.repos.setdefault(REPO, Repository())
    commit = repo.commit({path.name: path.read_bytes() for path in other.iterdir() if path.is_file()})
    hub.status = 0
    wait_for_the_hub()
    app.run()
    assert not app.exception
    assert not app.toast
    assert app.session_state["session_store"]["editor"] == at_work
    assert "bundled with the app" in sidebar(app)
    next(button for button in app.button if button.label == "Use them").click().run()
    assert not app.exception
    assert commit[:12] in sidebar(app)
    assert app.session_state["session_store"]["editor"].epoch != at_work.epoch


def test_a_server_with_nothing_at_hand_fetches_and_begins(hub, monkeypatch, tmp_path):
    commit = put_weights_on(hub)
    monkeypatch.setattr(sources, "BUNDLED", tmp_path / "nothing")
    hub.status = 500
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert len(app.error) == 1
    assert "Hub" in sidebar(app)
    hub.status = 0
    wait_for_the_hub()
    app.run()
    assert not app.error
    assert commit[:12] in sidebar(app)
