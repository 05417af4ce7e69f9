"""What SECURITY.md promises and no other test shows: no pickle, pinned hashes, limits before decoding, silent logs."""

import ast
import asyncio
import io
import re
import runpy
import subprocess
import sys
import tomllib
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from urllib.request import urlopen

import pytest
import streamlit
from PIL import Image, PngImagePlugin

from oasisvq.app import guard
from oasisvq.data import upload
from oasisvq.errors import OasisVQError

ROOT = Path(__file__).parent.parent
SOURCES = [
    ROOT / "app.py",
    *(path for part in ("oasisvq", "pages", "benchmarks") for path in (ROOT / part).rglob("*.py")),
]
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_is_loaded(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not UNPICKLERS & {module.split(".")[0] for module in modules}, ast.unparse(node)
    for name, call in calls(tree):
        assert name not in ("torch.load", "eval", "exec"), ast.unparse(call)
        allowed = {key.arg: key.value for key in call.keywords}.get("allow_pickle")
        if name.endswith((".load", ".read_array")) and allowed is not None:
            assert ast.unparse(allowed) == "False", ast.unparse(call)
        assert "trust_remote_code" not in {key.arg for key in call.keywords}


@pytest.mark.slow
def test_a_whole_life_unpickles_nothing(tmp_path: Path) -> None:
    """Read, encode, draw, save and open codes while every unpickler is gone: none of it is missed."""
    script = """
import io, pickle, sys
import numpy as np, torch
from oasisvq import OasisVQ
from oasisvq.data.codes import read_codes, write_codes
def refuse(*args, **kwargs): raise SystemExit("a pickle was opened")
torch.load = pickle.load = pickle.loads = refuse
class Refuse:
    def __init__(self, *args, **kwargs): refuse()
pickle.Unpickler = pickle._Unpickler = Refuse
model = OasisVQ.from_pretrained(sys.argv[1])
codes = model.encode(torch.zeros(1, 1, model.preset.size, model.preset.size))
model.sample(1); model.refill(codes, torch.ones(codes.shape[1:], dtype=torch.bool)); model.surprise(codes)
p = model.preset
assert (read_codes(write_codes(codes.numpy(), "x"), "f", p.grid, p.codebook_size, "x") == codes.numpy()).all()
print("done")
"""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_weights import write_weights

    folder = write_weights(tmp_path / "w")
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "done\n", done.stderr


def pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_everything_is_pinned_and_locked_by_hash() -> None:
    wanted, locked = pins(ROOT / "requirements.txt"), pins(ROOT / "requirements.lock")
    del wanted["torch"]  # its builds are many, and come from elsewhere: see the head of the lock
    assert wanted.items() <= locked.items()
    text = (ROOT / "requirements.lock").read_text()
    for block in re.split(r"\n(?=\S)", text):
        if not block.startswith("#"):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block[:80]
    for name in ("requirements.txt", "requirements.lock", "requirements-dev.txt", "pyproject.toml"):
        assert "://" not in re.sub(r"#.*", "", (ROOT / name).read_text()), f"{name} names a host"


def test_the_server_refuses_what_is_too_large_before_it_is_read() -> None:
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    megabytes = config["server"]["maxUploadSize"]
    assert megabytes * 1_000_000 == upload.MAX_VOLUME_BYTES
    assert guard.MultiPartParser.spool_max_size > megabytes * 2**20  # none is put in a temporary file on its way
    assert config["client"]["showErrorDetails"] == "none"
    assert config["browser"]["gatherUsageStats"] is False
    assert config["server"]["fileWatcherType"] == "none"


def test_browsers_are_told_to_take_nothing_from_elsewhere() -> None:
    rules = dict(rule.split(" ", 1) for rule in guard.POLICY.split("; "))
    assert rules["default-src"] == "'self'"
    for kind, sources in rules.items():
        assert set(sources.split()) <= {"'self'", "'none'", "data:", "blob:"} or kind in ("style-src", "script-src")
    inline = re.findall(
        r"<script>(.*?)</script>", (Path(streamlit.__file__).parent / "static/index.html").read_text(), re.S
    )
    scripts = [*inline, guard.DARK_FIRST]
    hashes = [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert rules["script-src"].split() == ["'self'", "blob:", *hashes]


SECRET = "Jane-Doe-1931-secret"


def secret_files() -> dict[str, bytes]:
    """Files whose name, header or comment holds a name: good ones, and bad ones of which the readers complain."""
    sys.path.insert(0, str(ROOT / "tests"))
    from readers import dicom_file, flat_niftis, picture

    shown = Image.fromarray(picture(64))
    words = PngImagePlugin.PngInfo()
    words.add_text("Patient", SECRET)
    png, tiff = io.BytesIO(), io.BytesIO()
    shown.save(png, "PNG", pnginfo=words)
    shown.save(tiff, "TIFF", description=SECRET, artist=SECRET)
    nifti = flat_niftis()[0]
    nifti = nifti[:148] + SECRET.encode().ljust(80, b"\0") + nifti[228:]
    dicom = dicom_file(picture(64), PatientName=SECRET, StudyDate=SECRET, PatientAge=SECRET)
    odd_tiff = bytearray(tiff.getvalue())
    odd_tiff[len(odd_tiff) // 2 :] = SECRET.encode() * 9
    good = {"png": png.getvalue(), "tiff": tiff.getvalue(), "nii": nifti, "dcm": dicom}
    bad = {f"bad.{kind}": content[: len(content) * 2 // 3] for kind, content in good.items()}
    lies = {"lies.nii": nifti[:40] + b"\xff" * 70 + nifti[110:], "odd.tiff": bytes(odd_tiff)}
    return {f"{SECRET}.{kind}": content for kind, content in (good | bad | lies).items()}


def test_readers_write_nothing_to_any_log(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    files = secret_files()
    capfd.readouterr()
    caplog.clear()  # making them was noisy, reading them must not be
    for name, content in files.items():
        refused = ""
        try:
            upload.read(content, name)
        except OasisVQError as error:
            refused = str(error).replace(name, "")
        assert SECRET not in refused
    said = capfd.readouterr()
    assert said.out == said.err == ""
    assert not caplog.records


@pytest.mark.slow
def test_the_log_of_a_server_holds_nothing_of_an_upload(tmp_path: Path) -> None:
    """Streamlit's own log, at its most talkative, while files with a name in name, header and comment come in."""
    crowd = runpy.run_path(str(ROOT / "benchmarks" / "system" / "crowd.py"))
    log = tmp_path / "log"

    async def upload_all(host: str) -> list[str]:
        async with crowd["visitor"](host) as tab:
            await tab.visit("reconstruct")
            tab.values[tab.elements["button_group Slice"].id] = {"string_array_value": {"data": ["Your own file"]}}
            await tab.ask()
            for name, content in secret_files().items():
                await tab.upload(name, content)
            return tab.text

    with crowd["app"](log, "--logger.level", "debug") as (host, _):
        for path in ("/", "/_stcore/health"):
            assert urlopen(f"http://{host}{path}").headers["Content-Security-Policy"] == guard.POLICY
        shown = asyncio.run(upload_all(host))
    said = log.read_text()
    assert any(SECRET in text for text in shown)  # the files did arrive
    assert "Traceback" not in said
    assert SECRET not in said
