"""Where weights come from: a folder, those that come with oasisvq, the Hub's cache on this disk, or the Hub."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oasisvq.errors import OasisVQError
from oasisvq.files import HOME
from oasisvq.hub import client
from oasisvq.hub.manifest import MANIFEST, read_history, read_records
from oasisvq.hub.verification import Loaded, load

BUNDLED = HOME / "checkpoints"
# The weights that are used when none are asked for. A small server may prefer "base".
DEFAULT = os.environ.get("OASISVQ_MODEL") or "large"

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Resolved:
    """Where weights were found, and why not elsewhere.

    Attributes:
        folder: holds the files.
        loaded: what is in them, read and checked once.
        source: "folder" (given), "cache" or "hub" (the repository, from this disk or just now), or "bundled".
        repo: Hub id, if they came from one.
        revision: its commit, 40 hexadecimal digits.
        notes: one line for each source that was tried before and did not do.
    """

    folder: Path
    loaded: Loaded = field(compare=False, repr=False)
    source: str
    repo: str | None = None
    revision: str | None = None
    notes: list[str] = field(default_factory=list)


def bundled() -> list[str]:
    """Names of the weights that come with this copy of oasisvq, the default first; each is a folder in BUNDLED."""
    found = sorted(path.parent.name for path in BUNDLED.glob(f"*/{MANIFEST}"))
    return sorted(found, key=lambda name: name != DEFAULT)


def at_hand(source: str | Path) -> Path | None:
    """The folder of a bundled name or a path, not verified; None if there is neither."""
    path = BUNDLED / source if source in bundled() else Path(source)
    return path if path.is_dir() else None


def resolve(source: str | Path | None = None, revision: str | None = None, wait: bool = True) -> Resolved:
    """Find weights and load them, checked as `oasisvq.hub.verification.load` does.

    The name of bundled weights (see `bundled`) or an existing folder given as `source` is used, or refused. A Hub id
    (`owner/name`) is taken from the local cache when the wanted commit is there, else from the Hub; a revision that is
    no commit, but a branch or tag, is looked up on the Hub first, and in the cache if the Hub does not answer. With no
    source, the environment variables OASISVQ_HUB_REPO and OASISVQ_HUB_REVISION name the repository; why it will not do
    goes to `notes`, and the bundled weights are next, the default first.

    A dead Hub costs client.PATIENCE seconds at most. When the environment named the repository, so does a slow one: the
    download then goes on in the background, and the next start finds it in the cache. Without `wait` the environment's
    repository is looked for on this disk alone, which costs no time: `fetch` asks the Hub in the background.

    Raises OasisVQError when the weights named by argument cannot be loaded, or none can.
    """
    if source is not None and (folder := at_hand(source)) is not None:
        if revision:
            raise OasisVQError(f"{source} is on this disk and has no revisions: leave out revision {revision}")
        return Resolved(folder, load(folder), "bundled" if folder.parent == BUNDLED else "folder")
    if source is not None and not client.REPO.fullmatch(str(source)):
        raise OasisVQError(
            f"{source}: no such folder, not bundled ({', '.join(bundled()) or 'nothing is'}), and not a Hub id of the "
            "form owner/name"
        )
    notes: list[str] = []
    if source is not None:
        found = from_hub(str(source), revision, notes)
        if found is None:
            raise OasisVQError(f"{source} is not a folder here, and as a Hub id: {'; '.join(notes)}")
        return found
    repo, wanted = wish()
    if repo:
        wanted = revision or wanted
        if wait:
            found = from_hub(repo, wanted, notes, deadline=time.monotonic() + client.PATIENCE)
        else:
            found, _ = _from_cache(repo, wanted, notes)
        if found is not None:
            return found
    elif revision:
        raise OasisVQError(f"revision {revision} of what? Name a Hub repository too, or set OASISVQ_HUB_REPO")
    if "OASISVQ_MODEL" in os.environ and DEFAULT not in bundled():
        notes.append(f"OASISVQ_MODEL asks for {DEFAULT}, but bundled are {', '.join(bundled()) or 'none'}")
    for name in bundled():
        try:
            loaded = load(BUNDLED / name)
        except OasisVQError as error:
            notes.append(str(error))
        else:
            return Resolved(BUNDLED / name, loaded, "bundled", notes=notes)
    if not bundled():
        notes.append(f"no bundled weights at {BUNDLED}: give a folder of weights or set OASISVQ_HUB_REPO")
    raise OasisVQError("; ".join(notes))


def describe(found: Resolved) -> dict[str, Any]:
    """Everything known about weights, in plain values: `OasisVQ.info` without the device."""
    manifest = found.loaded.manifest
    return {
        **{key: manifest[key] for key in ("preset", "data", "training", "files")},
        "source": found.source,
        "repo": found.repo,
        "revision": found.revision,
        "notes": found.notes,
        **read_records(found.folder, manifest),
        "history": read_history(found.folder, manifest),
    }


def wish() -> tuple[str | None, str | None]:
    """Repository and revision that the environment names."""
    return os.environ.get("OASISVQ_HUB_REPO") or None, os.environ.get("OASISVQ_HUB_REVISION") or None


def _from_cache(repo: str, revision: str | None, notes: list[str]) -> tuple[Resolved | None, bool]:
    """The cached weights of a repository, and whether cached ones were refused; `notes` says why."""
    from huggingface_hub.constants import HF_HUB_CACHE

    # Looked for before the Hub's client is asked, whose import takes longer than all the rest of a start without it.
    if not Path(HF_HUB_CACHE, f"models--{repo.replace('/', '--')}").is_dir():
        return None, False
    try:
        folder = client.download(repo, revision, local_files_only=True)
        loaded = load(folder)
    except FileNotFoundError:
        return None, False
    except OasisVQError as error:
        notes.append(f"the cached copy of {repo} was refused: {error}")
        return None, True
    return Resolved(folder, loaded, "cache", repo, folder.name, notes), False  # the cache names folders after commits


def from_hub(
    repo: str,
    revision: str | None,
    notes: list[str],
    deadline: float | None = None,
    report: client.Report | None = None,
) -> Resolved | None:
    """The cached or downloaded weights of a repository; None, and why in `notes`, when neither can be had.

    `report` is called during a download with file, bytes received, bytes in all. Without it a bar shows on a terminal.
    """
    pinned = bool(revision and _COMMIT.fullmatch(revision))
    commit = revision if pinned else None
    if not pinned:
        try:
            commit = client.ask_commit(repo, revision)
        except OasisVQError as error:
            notes.append(str(error))
    cached, damaged = _from_cache(repo, commit or revision, notes)
    if cached is not None or commit is None:
        return cached
    try:
        if pinned:
            client.ask_commit(repo, revision)
        # By the name it was asked for: the cache then remembers what a branch stood for, for when the Hub is away.
        folder = client.within(
            None if deadline is None else max(0.0, deadline - time.monotonic()),
            lambda: client.download(repo, revision, report, force_download=damaged),
        )
        return Resolved(folder, load(folder), "hub", repo, folder.name, notes)
    except TimeoutError:
        notes.append(f"{repo} is still being downloaded: it will be used when that is done and oasisvq starts again")
    except OasisVQError as error:
        notes.append(str(error))
    return None
