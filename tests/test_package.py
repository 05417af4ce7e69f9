"""The package that pip makes: what is in the wheel, that it works far from a clone, and what its metadata promises."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from oasisvq import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel, as pip would lay it out."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=180)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name == f"oasisvq-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.mark.slow
def test_the_wheel_holds_library_app_and_weights(site: Path) -> None:
    within = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert tracked("oasisvq") <= within
    assert {f"oasisvq/shipped/{name}" for name in tracked("app.py", "pages", "checkpoints", ".streamlit")} <= within
    assert not [name for name in within if name.endswith(".pyc") or "/state/" in name]
    assert {name.split("/")[0] for name in within} == {"oasisvq", f"oasisvq-{__version__}.dist-info"}


@pytest.mark.slow
def test_the_installed_app_runs_from_any_folder(site: Path, tmp_path: Path) -> None:
    """Its own copy of the weights, its own settings of Streamlit, and pages without an error."""
    script = """
import sys
from pathlib import Path
from streamlit.testing.v1 import AppTest
from oasisvq.files import HOME
from oasisvq.hub import sources
assert HOME.is_relative_to(sys.argv[1]), HOME
assert sources.bundled()
page = AppTest.from_file(str(HOME / "app.py"), default_timeout=60).run()
assert not page.exception and not page.error, (page.exception, page.error)
assert sources.BUNDLED == Path(sys.argv[1]) / "oasisvq" / "shipped" / "checkpoints"
print("done")
"""
    words = [sys.executable, "-c", script, str(site)]
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.endswith("done\n"), done.stderr[-2000:]


def test_the_command_app_runs_streamlit_on_the_apps_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from oasisvq import cli

    ran = []
    monkeypatch.setattr(sys, "argv", ["oasisvq"])
    monkeypatch.setattr(cli.runpy, "run_module", lambda name, run_name: ran.append((name, run_name, sys.argv)))
    assert cli.main(["app", "--", "--server.port", "8600"]) == 0
    assert ran == [("streamlit", "__main__", ["streamlit", "run", str(ROOT / "app.py"), "--server.port", "8600"])]


def test_ranges_admit_what_was_tested_and_name_all_of_it() -> None:
    extra = PROJECT["optional-dependencies"]["train"]
    ranges = {canonicalize_name(one.name): one.specifier for one in map(Requirement, PROJECT["dependencies"] + extra)}
    pinned = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in pinned)}
    assert ranges.keys() == pins.keys()
    for name, version in pins.items():
        assert ranges[name].contains(version), f"{name} {version} is not in {ranges[name]}"
        assert not ranges[name].contains("99"), f"{name} has no upper end"


def test_what_training_needs_is_named_when_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from oasisvq import cli

    extra = {Requirement(one).name.replace("-", "_") for one in PROJECT["optional-dependencies"]["train"]}
    assert extra == set(cli.TRAINING)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delitem(sys.modules, "oasisvq.training.loop", raising=False)
    assert cli.main(["train", "vqvae", "--data", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "pip install 'oasisvq[train]'" in capsys.readouterr().err


def test_the_version_is_the_same_everywhere() -> None:
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited
    assert changes[0] == cited[1] == __version__
