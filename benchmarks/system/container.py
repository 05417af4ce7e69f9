"""The container without Docker: what the Dockerfile says, done here, and the app opened as a Space shows it.

    python -m oasisvq benchmark container [--install] [--json FILE]

What the Dockerfile copies is copied and mounted read-only. Its command runs as user 1000 in an empty home, in a network
of its own that reaches nothing but itself, configured for weights of a Hub that never answers. Chromium opens the app
alone, and then inside a frame of a page of another site, where it uploads a picture. With `--install` the Dockerfile's
`pip install` comes first, in that home, from the index that pip is configured for; without, the packages of this Python
are used. Needs Linux, root, `unshare`, `setpriv` and Chromium.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from benchmarks._parser import new_parser
from benchmarks.system.app import CHROMIUM, running
from benchmarks.system.app import FLAGS as BROWSER_FLAGS
from oasisvq.errors import OasisVQError
from oasisvq.files import HOME
from oasisvq.measure.record import write_record

USER = 1000
PORT = 8501
SPACE, HUB = "space.test", "hub.test"
FLAGS = [
    *BROWSER_FLAGS,
    "--test-third-party-cookie-phaseout",  # the frame gets no cookies, as browsers now have it
    "--host-resolver-rules=MAP *.test 127.0.0.1",
]


class Dockerfile:
    """Its steps: `copied`, sources from the clone; `install`, the shell line of RUN pip; `command`; the environment."""

    def __init__(self, text: str) -> None:
        lines = re.sub(r"\\\n\s*", "", text).splitlines()
        copies = [shlex.split(line)[2:] for line in lines if line.startswith("COPY ")]
        self.copied = [source for *sources, _ in copies for source in sources]
        (self.install,) = (line.removeprefix("RUN ") for line in lines if line.startswith("RUN pip "))
        (command,) = (line.removeprefix("CMD ") for line in lines if line.startswith("CMD "))
        self.command: list[str] = json.loads(command)
        self.arguments = dict(line.removeprefix("ARG ").split("=", 1) for line in lines if line.startswith("ARG "))


class Place:
    """The folders of a container under `root`: the user's home, the app in it, the Python that the image brings."""

    def __init__(self, root: Path) -> None:
        self.root, self.home, self.app, self.python = root, root / "home", root / "app", root / "python"
        self.packages = root / "site-packages"  # by this name Streamlit knows that it is installed

    def lay_out(self, copied: list[str]) -> None:
        self.root.chmod(0o755)
        for folder in (self.home, self.app, self.python, self.packages):
            folder.mkdir()
        os.chown(self.home, USER, USER)
        for name in copied:
            source = HOME / name
            if source.is_dir():
                shutil.copytree(source, self.app / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.app / name)

    def mount(self, installed: bool) -> None:
        """Show the Python of this process, its packages and the app, all read-only. In a mount namespace alone."""
        for source, target in (
            (sys.base_prefix, self.python),
            (sysconfig.get_path("purelib"), self.packages),
            (self.app, self.app),
        ):
            if target != self.packages or not installed:
                subprocess.run(["mount", "--bind", source, target], check=True)
                subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)

    def as_user(self, command: list[str], **variables: str) -> list[str]:
        """`command` as the unprivileged user sees it: nothing of this process's environment."""
        path = f"{self.home}/.local/bin:{self.python}/bin:/usr/bin:/bin"
        names = {"HOME": self.home, "PATH": path, "PYTHONUNBUFFERED": "1", **variables}
        names |= {"PYTHONPATH": self.packages, "LD_LIBRARY_PATH": self.python / "lib"}  # as Python is not where it was
        drop = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--no-new-privs"]
        return [*drop, "env", "-i", *(f"{name}={value}" for name, value in names.items()), *command]


def install(place: Place, steps: Dockerfile) -> float:
    """Run the Dockerfile's pip as the user. Returns the seconds."""
    place.mount(installed=True)
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    started = time.monotonic()
    line = steps.install.replace("pip install", "python3 -m pip install -q --ignore-installed")
    subprocess.run(place.as_user(["bash", "-c", line], TORCH_INDEX="", **pip), cwd=place.app, check=True)
    return time.monotonic() - started


@contextmanager
def serving(place: Place, steps: Dockerfile, log: Path, variables: dict[str, str]) -> Iterator[float]:
    """The app under the container's command. Yields the seconds until it is healthy."""
    command = [str(place.python / "bin" / "python3"), "-m", *steps.command]
    started = time.monotonic()
    with running(place.as_user(command, **variables), PORT, place.app, log):
        yield time.monotonic() - started
    if "Traceback" in log.read_text():
        raise OasisVQError(f"the app broke: {log.read_text()[-1500:]}")


@contextmanager
def other_site(page: str) -> Iterator[str]:
    """A page of another site that holds the app in a frame; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HUB}:{server.server_port}"
        server.shutdown()


def browse(upload: Path) -> dict[str, Any]:
    """Open the app alone and in a frame, upload there; what was seen and which hosts were asked."""
    from playwright.sync_api import sync_playwright

    app = f"http://{SPACE}:{PORT}"
    hosts: set[str] = set()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1300, "height": 1000})
        tab.on("request", lambda request: hosts.add(urlparse(request.url).hostname or ""))
        started = time.monotonic()
        tab.goto(app)
        tab.get_by_role("heading", name="Brain slices as discrete codes", level=1).wait_for(timeout=60_000)
        painted = time.monotonic() - started
        tab.locator(".st-key-about button").first.click()
        tab.get_by_text("bundled with the app").first.wait_for(timeout=60_000)
        up = time.monotonic() - started
        tab.get_by_text("did not answer within").first.wait_for(timeout=60_000)
        with other_site(f'<iframe src="{app}/reconstruct" width="1250" height="950"></iframe>') as address:
            tab.goto(address)
            frame = tab.frame_locator("iframe")
            frame.get_by_role("heading", name="Reconstruct", level=1).wait_for(timeout=60_000)
            frame.get_by_text("Your own file").click()
            frame.locator("input[type=file]").set_input_files(upload)
            frame.get_by_text(f"In use: {upload.name}").wait_for(timeout=60_000)
            frame.get_by_text("brain only").first.wait_for(timeout=60_000)
        browser.close()
    return {
        "first_page_seconds": painted,
        "first_page_with_model_seconds": up,
        "upload_in_frame": True,
        "hosts": sorted(hosts - {""}),  # data: and blob: have none
    }


def inside(place: Place, steps: Dockerfile, installed: bool) -> dict[str, Any]:
    """Everything after the build, in namespaces of its own: mounts are private, the network is empty."""
    place.mount(installed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:  # 0x8914: SIOCSIFFLAGS, up and running
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
    if subprocess.run(place.as_user(["touch", str(place.app / "x")]), capture_output=True).returncode == 0:
        raise OasisVQError("the source is not read-only")
    upload = place.root / "phantom.png"
    shutil.copy(next((place.app / "oasisvq/data/example_slices").glob("Phantom*.png")), upload)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub = {"OASISVQ_HUB_REPO": "lab/brains", "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        with serving(place, steps, place.root / "log", hub) as start:
            return {"start_seconds": start, **browse(upload)}


def megabytes(folder: Path) -> float:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir()) / 1e6


def main(arguments: list[str] | None = None) -> None:
    """Print size, times and what the browser saw. Raises OasisVQError when a step fails."""
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--install", action="store_true", help="install the packages as the Dockerfile does")
    parser.add_argument("--stage", choices=("install", "inside"), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    steps = Dockerfile((HOME / "Dockerfile").read_text())
    if args.stage == "install":
        print(json.dumps({"install_seconds": install(Place(args.root), steps)}))
        return
    if args.stage == "inside":
        print(json.dumps(inside(Place(args.root), steps, args.install)))
        return
    if os.getuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", CHROMIUM))):
        raise OasisVQError("needs root, unshare, setpriv and Chromium: they stand in for Docker here")

    def stage(name: str, *namespaces: str) -> dict[str, Any]:
        command = ["unshare", *namespaces, sys.executable, "-m", "oasisvq", "benchmark", "container"]
        command += ["--stage", name, "--root", root, *(["--install"] if args.install else [])]
        done = subprocess.run(command, cwd=HOME, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise OasisVQError(f"the stage `{name}` failed, see above")
        return json.loads(done.stdout.splitlines()[-1])

    with tempfile.TemporaryDirectory() as root:
        place = Place(Path(root))
        place.lay_out(steps.copied)
        figures: dict[str, Any] = {"source_mb": megabytes(place.app)}
        if args.install:
            figures |= stage("install", "--mount") | {"packages_mb": megabytes(place.home / ".local")}
        figures |= stage("inside", "--mount", "--net")
    for name, value in figures.items():
        print(f"{name.replace('_', ' ')}: {value:.1f}" if isinstance(value, float) else f"{name}: {value}")
    if args.json:
        write_record(args.json, figures)
