"""A small server that speaks enough of the Hub's protocol for the real `huggingface_hub`: look up, pull, publish.

It answers as 127.0.0.1 and hands large files out as localhost, as the Hub does from another host than its own.
Faults are attributes of the server, set by a test and in force until it clears them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_let_me_in"


@dataclass
class Repository:
    """Commits in order, each all of its files by path."""

    private: bool = False
    kind: str = "model"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, changes: dict[str, bytes]) -> str:
        files = (list(self.commits.values())[-1] if self.commits else {}) | changes
        parts = b"".join(name.encode() + hashlib.sha256(content).digest() for name, content in sorted(files.items()))
        oid = hashlib.sha1(f"{len(self.commits)}".encode() + parts).hexdigest()
        self.commits[oid] = files
        return oid

    def find(self, revision: str) -> str | None:
        if revision == "main" and self.commits:
            return list(self.commits)[-1]
        return revision if revision in self.commits else None


class HubServer(ThreadingHTTPServer):
    """The Hub for one test: `with HubServer() as hub`, then point `HF_ENDPOINT` at `hub.url`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}"
        self.repos: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.delay = 0.0  # seconds before any answer
        self.status = 0  # answer everything with this status
        self.cut = 0  # hang up after so many bytes of a large file, once
        self.hold: threading.Event | None = None  # send half of a large file, the rest when this is set
        self.lose = 0  # hang up in the middle of so many uploads
        self.ranges: list[str] = []  # what downloads that went on asked for
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *args: Any) -> None:
        self.shutdown()
        super().__exit__(*args)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests, not worth a traceback."""


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".png"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def route(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.server.lose and self.path.startswith("/upload/"):
            self.server.lose -= 1
            self.rfile.read(length // 2)
            self.connection.close()
            return None
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        time.sleep(self.server.delay)
        if self.server.status:
            return self.answer(self.server.status, {"error": "out of order"})
        for pattern, action in _ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return action(self, body, *match.groups())
        return self.refuse(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = route

    def answer(self, status: int, content: bytes | dict[str, Any], **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        start = 0
        if status == 200 and (wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")):
            status, start = 206, int(wanted[1])
            self.server.ranges.append(wanted[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cut and self.path.startswith("/cdn/") and len(body) > self.server.cut:
            self.wfile.write(body[start : self.server.cut])
            self.server.cut = 0
            self.close_connection = True
            return
        if self.server.hold and self.path.startswith("/cdn/"):
            half = (start + len(body)) // 2
            self.wfile.write(body[start:half])
            self.server.hold.wait(10)
            start = half
        self.wfile.write(body[start:])

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.answer(
            401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials in Authorization header"
        )
        return False

    def open(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision; None after an answer that says why not."""
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self.refuse(401, "RepoNotFound")
            return None
        commit = repo.find(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound")
            return None
        return commit, repo.commits[commit]

    def info(self, body: bytes, name: str, revision: str | None) -> None:
        if found := self.open(name, revision or "main"):
            commit, files = found
            self.answer(200, {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]})

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        if not (found := self.open(name, revision)):
            return
        commit, files = found
        if path not in files:
            self.answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        elif is_large(path):
            oid = hashlib.sha256(files[path]).hexdigest()
            self.server.uploads[oid] = files[path]
            self.answer(
                302,
                b"",
                Location=f"{self.server.cdn}/cdn/{oid}",
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{oid}"',
                X_Linked_Size=str(len(files[path])),
            )
        else:
            etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
            self.answer(200, files[path], X_Repo_Commit=commit, ETag=etag)

    def download(self, body: bytes, oid: str) -> None:
        if "Authorization" in self.headers:  # a token must not leave the Hub's own host
            return self.answer(400, {"error": "token leaked"})
        return self.answer(200, self.server.uploads[oid])

    def create(self, body: bytes) -> None:
        if self.may_write():
            wanted = json.loads(body)
            name = "/".join(filter(None, (wanted["organization"], wanted["name"])))
            if name in self.server.repos:
                return self.answer(409, {"url": f"{self.server.url}/{name}", "error": "You already created this repo"})
            kind = f"{wanted['type']} {wanted['sdk']}" if wanted.get("sdk") else wanted.get("type") or "model"
            self.server.repos[name] = Repository(wanted.get("visibility") == "private", kind=kind)
            self.server.repos[name].commit({".gitattributes": b""})
            self.answer(200, {"url": f"{self.server.url}/{name}", "name": name})

    def validate(self, body: bytes) -> None:
        """The card must open with a front matter; the real Hub looks deeper."""
        good = re.match(r"---\n.+?\n---\n", json.loads(body)["content"], re.DOTALL)
        self.answer(200 if good else 400, {"errors": [] if good else [{"message": "no metadata"}], "warnings": []})

    def preupload(self, body: bytes, name: str) -> None:
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if is_large(f["path"]) else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self.answer(200, {"files": modes})

    def batch(self, body: bytes, name: str) -> None:
        """Where to upload what is not here yet."""
        if self.may_write():
            objects = [
                wanted
                if wanted["oid"] in self.server.uploads
                else {**wanted, "actions": {"upload": {"href": f"{self.server.url}/upload/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        good = hashlib.sha256(body).hexdigest() == oid
        if good:
            self.server.uploads[oid] = body
        self.answer(200 if good else 400, {})

    def commit(self, body: bytes, name: str) -> None:
        if not self.may_write():
            return
        changes = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.server.uploads[value["oid"]]
        oid = self.server.repos[name].commit(changes)
        self.answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (rf"GET /api/models/{_NAME}(?:/revision/(.+))?", _Handler.info),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (r"(?:GET|HEAD) /cdn/(\w+)", _Handler.download),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/(?:models|spaces)/{_NAME}/preupload/main", _Handler.preupload),
    (rf"POST /(?:spaces/)?{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /upload/(\w+)", _Handler.upload),
    (rf"POST /api/(?:models|spaces)/{_NAME}/commit/main", _Handler.commit),
]
