"""Weights on disk and on the Hub: safetensors files, and a manifest that vouches for every byte of them.

A folder of weights holds `vqvae.safetensors` and `prior.safetensors`, optionally `results.json` and the two training
logs, `manifest.json` with size and sha256 of all of these beside the preset that shapes them, and a model card. Nothing
is used before its manifest has been checked, wherever it came from, and a pickle is never opened: whatever is not
safetensors is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from oasisvq.errors import OasisVQError
from oasisvq.files import write_atomically
from oasisvq.hub.card import PICTURES, write_card
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import Preset
from oasisvq.models.vqvae import VQVAE

FORMAT = 1
MANIFEST = "manifest.json"
CARD = "README.md"
FIGURES = "figures"
MODELS = ("vqvae.safetensors", "prior.safetensors")
RESULTS = "results.json"
RATE = "rate.json"
FAILURES = "failures.json"
DRAWS = "draws.json"
LESIONS = "lesions.json"
MEASURED = (RESULTS, RATE, FAILURES, DRAWS, LESIONS)
RECORDS = (*MEASURED, "vqvae.jsonl", "prior.jsonl")
BUNDLED = Path(__file__).parents[2] / "checkpoints"
DEFAULT = "base"

# Seconds for all that the Hub may keep somebody waiting who did not ask for it by name. Its own client, left alone,
# retries a dead Hub for 23.
PATIENCE = 4.0

# Seconds between two tries in the background: the pause doubles from the first to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 600.0

# The Hub's client counts in pieces of 10 MB, which is more than a file of ours: too coarse to show progress by, and
# all of a piece is lost with the connection.
PIECE = 2**18

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[\w.-]+/[\w.-]+")

# What model cards and pages say of weights, so every manifest must say it.
_SAID: dict[str, dict[str, type | tuple[type, ...]]] = {
    "data": {"name": str, "description": str, "people": dict, "slices": dict, "fingerprint": str},
    "training": {
        "command": str,
        "precision": str,
        "versions": dict,
        "seed": int,
        "threads": (int, str),
    },  # "2, 1": of one model after the other
}

_LONGEST = 160  # characters of somebody else's words in a message of ours

T = TypeVar("T")
Report = Callable[[str, int, int], None]


class Loaded(NamedTuple):
    """A checked folder: the preset, the tensors of both models by name (float32), the manifest."""

    preset: Preset
    vqvae: dict[str, Tensor]
    prior: dict[str, Tensor]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Resolved:
    """Where weights were found, already verified, and why not elsewhere.

    Attributes:
        folder: holds the files.
        source: "folder" (given), "cache" or "hub" (the repository, from this disk or just now), or "bundled".
        repo: Hub id, if they came from one.
        revision: its commit, 40 hexadecimal digits.
        notes: one line for each source that was tried before and did not do.
    """

    folder: Path
    source: str
    repo: str | None = None
    revision: str | None = None
    notes: list[str] = field(default_factory=list)


def write_manifest(folder: Path, preset: Preset, data: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    """Describe the weights in `folder`: the manifest names every file that it finds, with size and sha256.

    Results that were measured on other weights, as their own hashes tell, are left out. Where the manifest changes,
    model card and pictures made for the old one are removed.

    Args:
        folder: holds both safetensors files, and any of `results.json`, `vqvae.jsonl`, `prior.jsonl`.
        preset: the shapes of both models.
        data: what the weights saw: name, description, people and slices by split, fingerprint.
        training: how to repeat them: command, precision, versions, threads, seed.

    Raises OasisVQError when a model is missing.
    """
    files: dict[str, dict[str, Any]] = {}
    for name in (*MODELS, *RECORDS):
        path = folder / name
        if path.is_file():
            content = path.read_bytes()
            if name not in MEASURED or _measured(content, files, path):
                files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        elif name in MODELS:
            raise OasisVQError(f"{path} is missing: finish `python -m oasisvq train {path.stem} --out {folder}` first")
    manifest = {
        "format": FORMAT,
        "preset": preset.to_dict(),
        "data": dict(data),
        "training": dict(training),
        "files": files,
    }
    content = (json.dumps(manifest, indent=2) + "\n").encode()
    path = folder / MANIFEST
    if not (path.is_file() and path.read_bytes() == content):
        write_atomically(path, content, [folder / CARD, *(folder / name for name in _figures(folder))])


def load(folder: Path) -> Loaded:
    """Read weights, checked against their manifest: sizes, hashes, and the exact tensors that the preset asks for.

    The bytes that are hashed are the bytes that are used. Raises OasisVQError naming the first file that will not do.
    """
    manifest = read_manifest(folder)
    content = {name: _read_checked(folder / name, stamp) for name, stamp in manifest["files"].items()}
    for name in RECORDS:
        if name in content and not _is_record(name, content[name]):
            raise OasisVQError(f"{folder / name}: not what oasisvq writes there: get the weights again")
    try:
        preset = Preset.from_dict(manifest["preset"])
        with torch.device("meta"), _Unfilled():
            models = VQVAE(preset), PixelCNN(preset)
    except Exception as error:  # layers of hostile sizes raise almost anything
        raise OasisVQError(f"{folder / MANIFEST}: no model can be made of its preset ({_line(error)})") from error
    states = [
        _read_tensors(folder / name, content[name], m.state_dict()) for name, m in zip(MODELS, models, strict=True)
    ]
    return Loaded(preset, states[0], states[1], manifest)


def verify(folder: Path) -> dict[str, Any]:
    """Check a folder of weights as `load` does and return its manifest. Raises OasisVQError with the reason."""
    return load(folder).manifest


def bundled() -> list[str]:
    """Names of the weights that come with this copy of oasisvq, the default first, each a folder in BUNDLED."""
    found = sorted(path.parent.name for path in BUNDLED.glob(f"*/{MANIFEST}"))
    return sorted(found, key=lambda name: name != DEFAULT)


def at_hand(source: str | Path) -> Path | None:
    """The folder that is meant by a bundled name or a path, not verified; None when there is none of either."""
    path = BUNDLED / source if source in bundled() else Path(source)
    return path if path.is_dir() else None


def resolve(source: str | Path | None = None, revision: str | None = None, wait: bool = True) -> Resolved:
    """Find weights that pass `verify`.

    The name of bundled weights (see `bundled`) or an existing folder given as `source` is used, or refused. A Hub id
    (`owner/name`) is taken from the local cache when the wanted commit is there, else from the Hub; a revision that is
    no commit, but a branch or tag, is looked up on the Hub first, and in the cache if the Hub does not answer. With no
    source, the environment variables OASISVQ_HUB_REPO and OASISVQ_HUB_REVISION name the repository; why it will not do
    goes to `notes`, and the bundled weights are next, the default first.

    A dead Hub costs PATIENCE seconds at most. When the environment named the repository, so does a slow one: the
    download then goes on in the background, and the next start finds it in the cache. Without `wait` the environment's
    repository is looked for on this disk alone, which costs no time: `fetch` asks the Hub behind the scenes.

    Raises OasisVQError when what was asked for by argument cannot be had, or nothing can.
    """
    if source is not None and (folder := at_hand(source)) is not None:
        if revision:
            raise OasisVQError(f"{source} is on this disk and has no revisions: leave out revision {revision}")
        verify(folder)
        return Resolved(folder, "bundled" if folder.parent == BUNDLED else "folder")
    if source is not None and not _REPO.fullmatch(str(source)):
        raise OasisVQError(
            f"{source}: no such folder, not bundled ({', '.join(bundled()) or 'nothing is'}), and not a Hub id of the "
            "form owner/name"
        )
    notes: list[str] = []
    if source is not None:
        found = _from_hub(str(source), revision, notes)
        if found is None:
            raise OasisVQError(f"{source} is not a folder here, and as a Hub id: {'; '.join(notes)}")
        return found
    repo, wanted = _wish()
    if repo:
        wanted = revision or wanted
        if wait:
            found = _from_hub(repo, wanted, notes, deadline=time.monotonic() + PATIENCE)
        else:
            found, _ = _from_cache(repo, wanted, notes)
        if found is not None:
            return found
    elif revision:
        raise OasisVQError(f"revision {revision} of what? Name a Hub repository too, or set OASISVQ_HUB_REPO")
    for name in bundled():
        try:
            verify(BUNDLED / name)
        except OasisVQError as error:
            notes.append(str(error))
        else:
            return Resolved(BUNDLED / name, "bundled", notes=notes)
    if not bundled():
        notes.append(f"no bundled weights at {BUNDLED}: give a folder of weights or set OASISVQ_HUB_REPO")
    raise OasisVQError("; ".join(notes))


class Fetch:
    """Weights of the Hub, fetched in the background while others are in use: tried again and again until they are here.

    Attributes:
        status: one line for the screen, what is being waited for and why; empty in the end.
    """

    def __init__(self, repo: str, revision: str | None, in_use: str | None, arrived: Callable[[], None]) -> None:
        """`arrived` is called once, from another thread, when verified weights of another commit than `in_use` lie in
        the cache."""
        self.status = f"Asking the Hub for {repo}."
        threading.Thread(target=self._run, args=(repo, revision, in_use, arrived), daemon=True).start()

    def _run(self, repo: str, revision: str | None, in_use: str | None, arrived: Callable[[], None]) -> None:
        pause = FIRST_PAUSE
        while (found := self._try(repo, revision, pause)) is None:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        if found.revision != in_use:
            arrived()
        self.status = ""

    def _try(self, repo: str, revision: str | None, pause: float) -> Resolved | None:
        def report(name: str, done: int, size: int) -> None:
            self.status = f"Downloading {repo}: {name}, {done / max(size, 1):.0%} of {size / 1e6:.1f} MB."

        notes: list[str] = []
        found = _from_hub(repo, revision, notes, report=report)
        if found is not None and (found.source == "hub" or not notes):
            return found
        self.status = f"{'; '.join(notes)}. Next try within {pause:.0f} s."
        return None


def fetch(in_use: str | None, arrived: Callable[[], None]) -> Fetch | None:
    """Begin to fetch what the environment asks for; None where it asks for nothing, or for the commit in use."""
    repo, revision = _wish()
    if not repo or (revision is not None and revision == in_use):
        return None
    return Fetch(repo, revision, in_use, arrived)


def describe(found: Resolved) -> dict[str, Any]:
    """What there is to say about weights, in plain values: `OasisVQ.info` but for the device."""
    manifest = read_manifest(found.folder)
    return {
        **{key: manifest[key] for key in ("preset", "data", "training", "files")},
        "source": found.source,
        "repo": found.repo,
        "revision": found.revision,
        "notes": found.notes,
        "results": _read_record(found.folder, manifest, RESULTS),
        "rate": _read_record(found.folder, manifest, RATE),
        "failures": _read_record(found.folder, manifest, FAILURES),
        "draws": _read_record(found.folder, manifest, DRAWS),
        "lesions": _read_record(found.folder, manifest, LESIONS),
        "history": {
            model: [json.loads(line) for line in (found.folder / f"{model}.jsonl").read_text().splitlines()]
            if f"{model}.jsonl" in manifest["files"]
            else []
            for model in ("vqvae", "prior")
        },
    }


def publish(folder: Path, repo: str, private: bool = False) -> str:
    """Upload verified weights, manifest, records, figures and model card in one commit. Returns the commit to pin.

    Creates the repository if there is none; `private` matters only then. Raises OasisVQError when the weights do not
    pass `verify`, or the Hub says no.
    """
    manifest = verify(folder)
    card = folder / CARD
    files = {
        CARD: card if card.is_file() else model_card(folder).encode(),
        **{name: folder / name for name in (MANIFEST, *manifest["files"], *_figures(folder))},
    }
    return _upload(repo, files, private, f"Publish oasisvq weights, preset {manifest['preset']['name']}")


def publish_space(repo: str, private: bool = False) -> str:
    """Upload the app and the bundled weights in one commit, as a Space that the Dockerfile builds. Returns the commit.

    Raises OasisVQError outside a clone of the repository, when weights do not pass `verify`, or the Hub says no.
    """
    root = BUNDLED.parent
    if not (root / "Dockerfile").is_file():
        raise OasisVQError(f"{root / 'Dockerfile'} is missing: a Space is published from a clone of the repository")
    for name in bundled():
        verify(BUNDLED / name)
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", (root / "Dockerfile").read_text(), re.MULTILINE)
    names = ["README.md", "Dockerfile", "docs", *(name for sources in copied for name in sources.split())]
    paths = (path for name in names for path in ((root / name).rglob("*") if (root / name).is_dir() else [root / name]))
    # Beside the code lies what Python made of it, beside weights perhaps the state of their training.
    files = {
        path.relative_to(root).as_posix(): path
        for path in paths
        if path.is_file() and not {"__pycache__", "state"} & set(path.parts)
    }
    return _upload(repo, files, private, "Publish the oasisvq app", space=True)


def model_card(folder: Path) -> str:
    """The README.md of a weights folder as the Hub wants it: of its manifest, and of results and figures it holds."""
    manifest = read_manifest(folder)
    return write_card(manifest, _read_record(folder, manifest, RESULTS) or {}, _figures(folder))


def _figures(folder: Path) -> list[str]:
    return [f"{FIGURES}/{name}" for name in PICTURES if (folder / FIGURES / name).is_file()]


def _upload(repo: str, files: Mapping[str, Path | bytes], private: bool, message: str, space: bool = False) -> str:
    """Put files by their names on the Hub in one commit, in a repository that is made if there is none."""
    from huggingface_hub import CommitOperationAdd, HfApi

    if not _REPO.fullmatch(repo):
        raise OasisVQError(f"{repo}: not a Hub id of the form owner/name")
    api = HfApi()
    kind, sdk = ("space", "docker") if space else ("model", None)
    try:
        api.create_repo(repo, private=private or None, exist_ok=True, repo_type=kind, space_sdk=sdk)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message, repo_type=kind)
    except Exception as error:  # the client raises httpx, operating system, value, runtime and Xet errors
        raise _hub_error(error, repo, None) from error
    return commit.oid


class _Unfilled(TorchFunctionMode):
    """Leaves parameters as made: to fill those without memory, torch first imports its compiler, for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise OasisVQError(
            f"{path} is missing: not a folder of weights, or `python -m oasisvq package` never ran"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise OasisVQError(f"{path} cannot be read ({_line(error)}): get the weights again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        written = manifest.get("format") if isinstance(manifest, dict) else None
        raise OasisVQError(
            f"{path}: its format is {_line(written)}, this oasisvq reads {FORMAT}: use the version that wrote it"
        )
    for key in ("preset", "data", "training", "files"):
        if not isinstance(manifest.get(key), dict):
            raise OasisVQError(f"{path}: `{key}` is missing: get the weights again")
    for part, kinds in _SAID.items():
        for key, kind in kinds.items():
            if not isinstance(manifest[part].get(key), kind):
                raise OasisVQError(f"{path}: `{part}` does not say its {key}: get the weights again")
    people, slices = manifest["data"]["people"], manifest["data"]["slices"]
    if people.keys() != slices.keys() or not all(isinstance(n, int) for n in (*people.values(), *slices.values())):
        raise OasisVQError(f"{path}: its numbers of people and slices make no sense: get the weights again")
    names = set(manifest["files"])
    if not set(MODELS) <= names <= {*MODELS, *RECORDS}:
        listed = _line(", ".join(sorted(names)) or "nothing")
        raise OasisVQError(f"{path}: lists {listed}: expected {', '.join(MODELS)}")
    return manifest


def _read_record(folder: Path, manifest: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Figures that the manifest lists, if it does."""
    return json.loads((folder / name).read_text()) if name in manifest["files"] else None


def _is_record(name: str, content: bytes) -> bool:
    """Whether figures or a training log are what pages and cards can show."""
    try:
        rows = [json.loads(line) for line in ([content] if name in MEASURED else content.splitlines())]
    except (ValueError, RecursionError):
        return False
    if not all(isinstance(row, dict) for row in rows):
        return False
    kinds = {"data": dict, "split": str, "people": int, "slices": int} if name == RESULTS else {}
    return all(isinstance(rows[0].get(key), kind) for key, kind in kinds.items())


def _measured(results: bytes, files: Mapping[str, Any], path: Path) -> bool:
    """Whether results are those of the models among `files`."""
    try:
        hashes = json.loads(results)["weights_sha256"]
        return all(hashes[name] == files[name]["sha256"] for name in MODELS)
    except (ValueError, KeyError, TypeError) as error:
        raise OasisVQError(f"{path}: not what `python -m oasisvq evaluate --json` writes: delete it") from error


def _read_checked(path: Path, stamp: Any) -> bytes:
    """The bytes of a file that the manifest vouches for."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OasisVQError(f"{path} cannot be read ({error.strerror}): get the weights again") from error
    if not isinstance(stamp, dict) or len(content) != stamp.get("bytes"):
        wanted = stamp.get("bytes") if isinstance(stamp, dict) else None
        raise OasisVQError(f"{path}: {len(content)} bytes, the manifest says {wanted}: get the weights again")
    if hashlib.sha256(content).hexdigest() != stamp.get("sha256"):
        raise OasisVQError(f"{path}: its sha256 is not the manifest's: changed or damaged, get the weights again")
    return content


def _read_tensors(path: Path, content: bytes, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a safetensors file, exactly those of `expected` in name and shape, in its types."""
    try:
        state = parse_safetensors(content)
    except SafetensorError as error:
        raise OasisVQError(
            f"{path}: not a safetensors file ({_line(error)}): refused, nothing else is opened"
        ) from error
    for words, names in (
        ("lacks", expected.keys() - state.keys()),
        ("has the unknown", state.keys() - expected.keys()),
    ):
        if names:
            raise OasisVQError(f"{path}: {words} tensor {_line(min(names))} ({len(names)} in all): not of this preset")
    for name, tensor in state.items():
        shape, wanted = tuple(tensor.shape), tuple(expected[name].shape)
        if shape != wanted or not tensor.is_floating_point():
            raise OasisVQError(f"{path}: {name} is {tensor.dtype} {shape}, the preset asks for floats {wanted}")
    return {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}


def _wish() -> tuple[str | None, str | None]:
    """Repository and revision that the environment names."""
    return os.environ.get("OASISVQ_HUB_REPO") or None, os.environ.get("OASISVQ_HUB_REVISION") or None


def _from_cache(repo: str, revision: str | None, notes: list[str]) -> tuple[Resolved | None, bool]:
    """The cached weights of a repository, and whether there are some that were refused, which `notes` tell of."""
    from huggingface_hub.constants import HF_HUB_CACHE

    # Looked for before the Hub's client is asked, whose import takes longer than all the rest of a start without it.
    if not Path(HF_HUB_CACHE, f"models--{repo.replace('/', '--')}").is_dir():
        return None, False
    try:
        folder = _gather(repo, revision, local_files_only=True)
        verify(folder)
    except FileNotFoundError:
        return None, False
    except OasisVQError as error:
        notes.append(f"the cached copy of {repo} was refused: {error}")
        return None, True
    return Resolved(folder, "cache", repo, folder.name, notes), False  # the cache names folders after commits


def _from_hub(
    repo: str,
    revision: str | None,
    notes: list[str],
    deadline: float | None = None,
    report: Report | None = None,
) -> Resolved | None:
    """The cached or downloaded weights of a repository; None, and why in `notes`, when neither can be had.

    `report` is told of a download: file, bytes that are here, bytes in all. Without it a bar shows on a terminal.
    """
    pinned = bool(revision and _COMMIT.fullmatch(revision))
    commit = revision if pinned else None
    if not pinned:
        try:
            commit = _ask_commit(repo, revision)
        except OasisVQError as error:
            notes.append(str(error))
    cached, damaged = _from_cache(repo, commit or revision, notes)
    if cached is not None or commit is None:
        return cached
    try:
        if pinned:
            _ask_commit(repo, revision)
        # By the name it was asked for: the cache then remembers what a branch stood for, for when the Hub is away.
        folder = _within(
            None if deadline is None else max(0.0, deadline - time.monotonic()),
            lambda: _gather(repo, revision, report, force_download=damaged),
        )
        verify(folder)
        return Resolved(folder, "hub", repo, folder.name, notes)
    except TimeoutError:
        notes.append(f"{repo} is still being downloaded: it will be used when that is done and oasisvq starts again")
    except OasisVQError as error:
        notes.append(str(error))
    return None


def _meter(name: str, report: Report) -> type[tqdm]:
    """A progress bar that is never drawn: it tells `report` of every step."""

    class Meter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})
            self.done = int(options.get("initial") or 0)
            self.update(0)

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            report(name, self.done, int(self.total or 0))

    return Meter


def _ask_commit(repo: str, revision: str | None) -> str:
    """The commit that a branch, tag or commit of a repository stands for, asked of the Hub once, without retries."""
    from huggingface_hub import HfApi

    try:
        # Name lookup heeds no timeout of the client's, hence the second one round it.
        info = _within(PATIENCE, lambda: HfApi().model_info(repo, revision=revision, timeout=PATIENCE))
    except Exception as error:  # see publish
        raise _hub_error(error, repo, revision) from error
    if info.sha is None:
        raise OasisVQError(f"{repo}: the Hub names no commit: the repository is empty")
    return info.sha


def _gather(repo: str, revision: str | None, report: Report | None = None, **options: Any) -> Path:
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
        raise _hub_error(error, repo, revision) from error
    return folder


def _within(seconds: float | None, call: Callable[[], T]) -> T:
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


def _hub_error(error: Exception, repo: str, revision: str | None) -> OasisVQError:
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
    return OasisVQError(f"{constants.ENDPOINT} failed ({_line(error.__cause__ or error)}): try again later")


def _line(said: object) -> str:
    """The first line of what an error or a stranger says, short and printable: pages and terminals show it."""
    first = (str(said).splitlines() or [type(said).__name__])[0]
    return "".join(letter if letter.isprintable() else "?" for letter in first[:_LONGEST])
