"""A crowd on one server: many visitors at once who upload, draw and edit, and many more who come and go.

    python -m oasisvq benchmark crowd --visitors 30 --come-and-go 500

Starts the app on a free port of this machine and talks to it as a browser does: WebSockets with Streamlit's own
messages, uploads by HTTP. Every visitor draws a slice with a seed of its own, opens it in the editor, paints, uploads
a picture that nobody else has; one in ten uploads a head, which has to be brought into the frame. Checked on the way:
no error, the draw is that of its seed, the codes hold exactly its own strokes, and nothing that it is sent names
another visitor's file. Measured: seconds from a stroke to the new picture, from asking for a draw to having it, from an
upload to its page, and the memory of the server with its workers.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

from benchmarks._parser import new_parser
from benchmarks.system.app import free_port, running
from oasisvq import OasisVQ
from oasisvq.app.gallery import EIGHT, levels_apart
from oasisvq.files import HOME
from oasisvq.measure.record import write_record

STROKES = 6
LEVEL = levels_apart(32)[EIGHT // 2]  # on which Generate opens
HEADS = 10  # one visitor in so many uploads a head
PATIENCE = 300.0  # seconds for one answer: heads wait for one another
GOOD = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)


@contextmanager
def app(log: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A fresh server of the app: its address without scheme, and its process; all that it says goes to `log`."""
    port = free_port()
    words = ["-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.headless", "true", *options]
    with running([sys.executable, *words], port, HOME, log) as process:
        yield f"localhost:{port}", process


def memory(pid: int) -> float:
    """MB that a process and those that it started hold, what several share counted once."""
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            [share] = re.findall(r"^Pss:\s+(\d+) kB", Path(f"/proc/{one}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(share) * 1024 / 1e6
            waiting += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
        except OSError:  # ended meanwhile
            pass
    return total


class Visitor:
    """One tab: what it was shown last, and what it set."""

    def __init__(self, socket: ClientConnection, host: str, token: str, cookie: str) -> None:
        self.socket, self.host, self.token, self.cookie = socket, host, token, cookie
        self.page = self.hash = self.session = self.query = ""
        self.elements: dict[str, Any] = {}  # by kind and label, or kind alone
        self.fragments: dict[str, str] = {}  # by the same
        self.values: dict[str, dict[str, Any]] = {}  # by the widget's id, as fields of WidgetState
        self.parsed: tuple[Any, dict[str, Any]] = (None, {})
        self.text: list[str] = []  # all words that it was ever sent

    def request(self, fragment: str = "") -> BackMsg:
        """Run the page, or a fragment of it, with all that was set."""
        request = BackMsg()
        run = request.rerun_script
        run.page_name, run.page_script_hash, run.fragment_id = "" if self.hash else self.page, self.hash, fragment
        run.query_string = self.query
        run.context_info.url = f"http://{self.host}/{self.page}"
        for widget, value in self.values.items():
            run.widget_states.widgets.add(id=widget, **value)
        return request

    async def ask(self, trigger: str | None = None, fragment: str = "") -> None:
        """Have the page run, perhaps by a click, and wait until it has."""
        request = self.request(fragment)
        if trigger:
            request.rerun_script.widget_states.widgets.add(id=trigger, trigger_value=True)
        if not fragment:
            self.elements.clear()
        await self.socket.send(request.SerializeToString())
        await self.until_done()

    async def until_done(self) -> None:
        while True:
            message = await self.receive()
            if message.WhichOneof("type") == "script_finished":
                if message.script_finished in GOOD:
                    return
                if message.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
                    raise AssertionError("a page does not compile")

    async def receive(self) -> ForwardMsg:
        message = ForwardMsg()
        message.ParseFromString(await asyncio.wait_for(self.socket.recv(), PATIENCE))
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self.session = message.new_session.initialize.session_id or self.session
        if kind == "page_info_changed":  # what the page writes into its address
            self.query = message.page_info_changed.query_string
        if kind == "navigation":
            self.hash = message.navigation.page_script_hash
        if kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            what = str(element.WhichOneof("type"))
            if what == "exception":
                raise AssertionError(f"an error on a page: {element.exception.message}")
            one = getattr(element, what)
            self.text.append(str(one) if what != "bidi_component" else "")
            for name in (what, f"{what} {getattr(one, 'label', '')}"):
                self.elements[name], self.fragments[name] = one, message.delta.fragment_id
        return message

    async def visit(self, page: str) -> None:
        self.page, self.hash, self.query = page, "", ""
        await self.ask()

    async def click(self, label: str) -> None:
        await self.ask(self.elements[f"button {label}"].id, self.fragments[f"button {label}"])

    def codes(self, which: str) -> np.ndarray:
        data = self.grid()
        return np.array(data[which]).reshape(data["height"], data["width"])

    def grid(self) -> dict[str, Any]:
        """What the code grid was sent last, or the player."""
        sent = self.elements["bidi_component"]
        if self.parsed[0] is not sent:  # of all that is sent, the largest: read once
            self.parsed = sent, json.loads(sent.json)
        return self.parsed[1]

    async def paint(self, cells: list[int], code: int, number: int) -> float:
        """One stroke; seconds until the picture with it is here."""
        grid = self.elements["bidi_component"]
        stroke = {"seq": number, "kind": "paint", "cells": cells, "code": code, "stroke": number}
        queue = {"epoch": self.grid()["epoch"], "operations": [stroke]}
        self.values[grid.id] = {"json_value": json.dumps({"queue": queue})}
        began = time.perf_counter()
        await self.socket.send(self.request(self.fragments["bidi_component"]).SerializeToString())
        seconds = 0.0
        while True:
            message = await self.receive()
            if not seconds and self.grid()["ack"] >= number:
                seconds = time.perf_counter() - began
            if message.WhichOneof("type") == "script_finished" and message.script_finished in GOOD:
                assert seconds, "a stroke was lost"
                return seconds

    async def upload(self, name: str, content: bytes) -> None:
        """As a browser does: ask where to, put it there, tell the page."""
        uploader = self.elements["file_uploader"]
        request = BackMsg()
        request.file_urls_request.request_id = uuid.uuid4().hex
        request.file_urls_request.session_id = self.session
        request.file_urls_request.file_names.append(name)
        await self.socket.send(request.SerializeToString())
        while (answer := await self.receive()).WhichOneof("type") != "file_urls_response":
            pass
        urls = answer.file_urls_response.file_urls[0]
        await asyncio.to_thread(self._put, urls.upload_url, name, content)
        state: dict[str, Any] = {"name": name, "size": len(content), "file_id": urls.file_id, "file_urls": urls}
        self.values[uploader.id] = {"file_uploader_state_value": {"uploaded_file_info": [state]}}
        await self.ask()

    def _put(self, url: str, name: str, content: bytes) -> None:
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={edge}", "X-Xsrftoken": self.token}
        headers["Cookie"] = self.cookie
        urllib.request.urlopen(urllib.request.Request(f"http://{self.host}{url}", body, headers, method="PUT"))


@asynccontextmanager
async def visitor(host: str) -> AsyncIterator[Visitor]:
    """A tab opens, and closes."""
    answer = await asyncio.to_thread(urllib.request.urlopen, f"http://{host}/_stcore/health")
    cookie = (answer.headers.get("Set-Cookie") or "").partition(";")[0]
    token = cookie.partition("=")[2].strip('"')
    # "streamlit", the token, and no session to come back to.
    address, protocols = f"ws://{host}/_stcore/stream", ["streamlit", token or "none"]
    async with connect(address, subprotocols=protocols, max_size=None, origin=f"http://{host}") as socket:  # type: ignore[arg-type]
        yield Visitor(socket, host, token, cookie)


def picture(number: int) -> bytes:
    """A brain-like picture of this visitor's own."""
    rows, columns = np.mgrid[:176, :176] - 88
    inside = np.hypot(rows / 80, columns / (60 + number % 12)) < 1
    grain = np.random.default_rng(number).normal(0, 8, rows.shape)
    content = io.BytesIO()
    Image.fromarray(np.where(inside, 150 + grain + 40 * (rows > number), 0).clip(0, 255).astype(np.uint8)).save(
        content, "PNG"
    )
    return content.getvalue()


@cache
def head() -> bytes:
    """The MNI152 template in voxels of 2 mm, as NIfTI."""
    from nilearn.datasets import load_mni152_template

    content: bytes = load_mni152_template(resolution=2).to_bytes()
    return content


async def spend_time(host: str, number: int, expected: np.ndarray, figures: dict[str, list[float]]) -> None:
    """What one visitor does, and what must come of it: codes (h, w) of the first part of its draw."""
    with_head = number % HEADS == 0
    name = f"visitor-{number:03d}-own.{'nii' if with_head else 'png'}"
    async with visitor(host) as tab:
        await tab.visit("generate")
        tab.values[tab.elements["number_input Seed"].id] = {"double_value": number}
        began = time.perf_counter()
        await tab.ask()
        figures["draw"].append(time.perf_counter() - began)
        await tab.click("Edit codes")
        assert (tab.codes("original") == expected).all(), f"the draw of seed {number} is not that of the seed"
        painted, codes = expected.ravel().copy(), len(tab.grid()["order"])
        for stroke in range(1, STROKES + 1):
            cells, code = [(number + 7 * stroke + k) % painted.size for k in range(3)], (number * 13 + stroke) % codes
            painted[cells] = code
            figures["stroke"].append(await tab.paint(cells, code, stroke))
        assert (tab.codes("indices").ravel() == painted).all(), "codes hold other strokes than this visitor's"
        await tab.visit("reconstruct")
        tab.values[tab.elements["button_group Slice"].id] = {"string_array_value": {"data": ["Your own file"]}}
        await tab.ask()
        began = time.perf_counter()
        await tab.upload(name, head() if with_head else picture(number))
        figures["head" if with_head else "upload"].append(time.perf_counter() - began)
        words = " ".join(tab.text)
        assert name in words, "the upload is not shown"
        assert words.count("visitor-") == words.count(f"visitor-{number:03d}"), "another visitor's file is named"


async def look_in(host: str, number: int) -> None:
    """Somebody who uploads a picture and leaves."""
    async with visitor(host) as tab:
        await tab.visit("reconstruct")
        tab.values[tab.elements["button_group Slice"].id] = {"string_array_value": {"data": ["Your own file"]}}
        await tab.ask()
        await tab.upload(f"visitor-{number:03d}-own.png", picture(number))


async def come_and_go(host: str, pid: int, count: int, at_once: int = 4) -> list[float]:
    """Memory of the server, read 20 times while so many come and go."""
    held, gate = [], asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with gate:
            await look_in(host, number)
            if number % max(1, count // 20) == 0:
                held.append(memory(pid))

    await asyncio.gather(*(one(number) for number in range(count)))
    return held


def draws(model: OasisVQ, seeds: range) -> list[np.ndarray]:
    """What each seed gives in this process, alone: codes (h, w) of the first part, which the editor opens on."""
    return [model.preset.split(model.sample(1, seed=seed, level=LEVEL).indices)[0][0].numpy() for seed in seeds]


def main(arguments: list[str] | None = None) -> None:
    """Let them all in, and print what it cost."""
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--visitors", type=int, default=30, help="at once, each uploading, drawing and editing")
    parser.add_argument("--come-and-go", type=int, default=0, metavar="N", help="then so many who look in and leave")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # as the app
    model = OasisVQ.from_pretrained(device="cpu")
    figures: dict[str, Any] = {"visitors": options.visitors, "cores": len(os.sched_getaffinity(0))}
    seconds: dict[str, list[float]] = {"draw": [], "stroke": [], "upload": [], "head": []}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        expected = draws(model, range(options.visitors))
        with app(log) as (host, process):

            async def crowd() -> list[BaseException | None]:
                await look_in(host, 999)  # the first visitor waits for the weights
                figures["memory_before_mb"] = memory(process.pid)
                tasks = [spend_time(host, n, expected[n], seconds) for n in range(options.visitors)]
                return await asyncio.gather(*tasks, return_exceptions=True)

            errors = [error for error in asyncio.run(crowd()) if error is not None]
            figures["memory_after_mb"] = memory(process.pid)
            for what, taken in seconds.items():
                if taken:
                    figures[f"{what}_median_s"] = statistics.median(taken)
                    figures[f"{what}_p95_s"] = float(np.percentile(taken, 95))
                    figures[f"{what}_longest_s"] = max(taken)
            if options.come_and_go:
                held = asyncio.run(come_and_go(host, process.pid, options.come_and_go))
                figures |= {"came_and_went": options.come_and_go, "memory_mb": [round(mb) for mb in held]}
        figures["errors"] = [f"{type(error).__name__}: {error}" for error in errors]
        figures["tracebacks_in_log"] = log.read_text().count("Traceback")
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):<20} {f'{value:.3g}' if isinstance(value, float) else value}")
    if options.json:
        write_record(options.json, figures | {"weights_sha256": model.weights_sha256})
    if errors or figures["tracebacks_in_log"]:
        raise SystemExit("error: not all went well")
