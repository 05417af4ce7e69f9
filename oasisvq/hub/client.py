"""The Hub, asked through its own client: three things that oasisvq wants of it, and what to do when it says no."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from oasisvq.errors import OasisVQError, one_line
from oasisvq.hub.manifest import MANIFEST, read_manifest

# Seconds for all that the Hub may keep somebody waiting who did not ask for it by name. Its own client, left alone,
# retries a dead Hub for 23.
PATIENCE = 4.0

# The Hub's client counts in pieces of 10 MB, which is more than a file of ours: too coarse to show progress by, and
# all of a piece is lost with the connection.
PIECE = 2**18

REPO = re.compile(r"[\w.-]+/[\w.-]+")

T = TypeVar("T")
Report = Callable[[str, int, int], None]


def ask_commit(repo: str, revision: str | None) -> str:
    """The commit that a branch, tag or commit of a repository stands for, asked of the Hub once, without retries."""
    from huggingface_hub import HfApi

    try:
        # Name lookup heeds no timeout of the client's, hence the second one round it.
        info = within(PATIENCE, lambda: HfApi().model_info(repo, revision=revision, timeout=PATIENCE))
    except Exception as error:  # see publish
        raise _explained(error, repo, revision) from error
    if info.sha is None:
        raise OasisVQError(f"{repo}: the Hub names no commit: the repository is empty")
    return info.sha


def download(repo: str, revision: str | None, report: Report | None = None, **options: Any) -> Path:
    """Folder in the Hub's cache with the manifest of a revision and all that it lists, after download if need be.

    Raises FileNotFoundError when it may only look at the cache and a file is not there, OasisVQError otherwise.
    """
    from huggingface_hub import constants, hf_hub_download

    constants.DOWNLOAD_CHUNK_SIZE = PIECE

    def get(name: str) -> Path:
        bar = report and _meter(name, report)
        return Path(hf_hub_download(repo, name, revision=revision, tqdm_class=bar, **options))

    try:
        folder = get(MANIFEST).parent
        for name in read_manifest(folder)["files"]:
            get(name)
    except OasisVQError:
        raise
    except Exception as error:  # see publish
        if options.get("local_files_only") and isinstance(error, FileNotFoundError):
            raise
        raise _explained(error, repo, revision) from error
    return folder


def upload(repo: str, files: Mapping[str, Path | bytes], private: bool, message: str, space: bool = False) -> str:
    """Put files by their names on the Hub in one commit, in a repository that is made if there is none."""
    from huggingface_hub import CommitOperationAdd, HfApi

    if not REPO.fullmatch(repo):
        raise OasisVQError(f"{repo}: not a Hub id of the form owner/name")
    api = HfApi()
    kind, sdk = ("space", "docker") if space else ("model", None)
    try:
        api.create_repo(repo, private=private or None, exist_ok=True, repo_type=kind, space_sdk=sdk)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message, repo_type=kind)
    except Exception as error:  # the client raises httpx, operating system, value, runtime and Xet errors
        raise _explained(error, repo, None) from error
    return commit.oid


def within(seconds: float | None, call: Callable[[], T]) -> T:
    """The result of `call`; TimeoutError after `seconds` (None: never), with the call left to finish on its thread."""
    if seconds is None:
        return call()
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


def _meter(name: str, report: Report) -> type[tqdm]:
    """A progress bar that is never drawn: it tells `report` of every step."""

    class Meter(tqdm):  # type: ignore[misc]  # tqdm has no types
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})
            self.done = int(options.get("initial") or 0)
            self.update(0)

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            report(name, self.done, int(self.total or 0))

    return Meter


def _explained(error: Exception, repo: str, revision: str | None) -> OasisVQError:
    """Whatever the Hub's client raised, as one line that says what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    log_in = "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, TimeoutError):
        return OasisVQError(f"{constants.ENDPOINT} did not answer within {PATIENCE:.0f} s: try again later")
    if isinstance(error, RepositoryNotFoundError):
        return OasisVQError(f"the Hub has no repository {repo}, or it is private: check the name, or {log_in}")
    if isinstance(error, RevisionNotFoundError):
        return OasisVQError(f"{repo} on the Hub has no revision {revision}: check it on the repository's page")
    if isinstance(error, RemoteEntryNotFoundError):
        return OasisVQError(f"{repo} on the Hub holds no complete oasisvq weights: publish them there first")
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return OasisVQError(f"the Hub refused access to {repo}: {log_in} to a token that may do this")
    if isinstance(error, HfHubHTTPError):
        return OasisVQError(f"the Hub answered {error.response.status_code} for {repo}: try again later")
    # The client wraps what broke the connection in a longer story.
    return OasisVQError(f"{constants.ENDPOINT} failed ({one_line(error.__cause__ or error)}): try again later")
