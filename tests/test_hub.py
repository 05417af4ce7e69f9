"""Weights: what is refused and why, the order of sources, and the round trip through a Hub."""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import TOKEN, HubServer, Repository
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_weights import CASCADE, DATA, REPO, RESULTS, TINY, TRAINING, forget_the_hub, point_at, write_weights

from oasisvq import OasisVQ
from oasisvq.errors import OasisVQError
from oasisvq.files import write_atomically
from oasisvq.hub import background, client, sources
from oasisvq.hub.background import fetch
from oasisvq.hub.card import model_card
from oasisvq.hub.card_pictures import sheets
from oasisvq.hub.manifest import CARD, COARSE, MODELS, PICTURE_FOLDER, PICTURES, write_manifest
from oasisvq.hub.publish import publish, publish_space
from oasisvq.hub.verification import load, verify
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import Preset
from oasisvq.models.vqvae import VQVAE

pytestmark = pytest.mark.slow


def edit_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def restamp(folder: Path) -> None:
    """Make the manifest agree with whatever the files have become."""
    files = {}
    for name in json.loads((folder / "manifest.json").read_text())["files"]:
        content = (folder / name).read_bytes()
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit_manifest(folder, files=files)


@pytest.fixture
def folder(tmp_path):
    return write_weights(tmp_path / "weights")


@pytest.fixture
def cascade(tmp_path):
    return write_weights(tmp_path / "cascade", preset=CASCADE)


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    path = write_weights(tmp_path / "bundled" / "base", seed=1)
    monkeypatch.setattr(sources, "BUNDLED", path.parent)
    return path


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    forget_the_hub(monkeypatch, tmp_path)


@pytest.fixture
def hub(monkeypatch):
    with HubServer() as server:
        point_at(monkeypatch, server.url)
        yield server


def serve(hub: HubServer, folder: Path, **options) -> str:
    """Put a folder on the Hub as it is; the commit."""
    repo = hub.repos.setdefault(REPO, Repository(**options))
    return repo.commit({name: path.read_bytes() for name, path in files_in(folder).items()})


def files_in(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


# What is in a folder


def test_load_gives_back_what_was_written_as_float32(folder):
    manifest, preset, [(vqvae, prior)] = load(folder)
    assert preset == TINY
    assert manifest["data"] == DATA
    assert isinstance(vqvae, VQVAE)
    assert isinstance(prior, PixelCNN)
    written, found = load_file(folder / "prior.safetensors"), prior.state_dict()
    assert found.keys() == written.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, written[name].float())


def test_load_gives_back_each_stage_of_a_cascade(cascade):
    manifest, preset, stages = load(cascade)
    assert preset == CASCADE
    assert set(manifest["files"]) == {*MODELS, *COARSE, "results.json", "vqvae.jsonl"}
    for names, models in zip((COARSE, MODELS), stages, strict=True):
        for name, model in zip(names, models, strict=True):
            written, state = load_file(cascade / name), model.state_dict()
            assert state.keys() == written.keys()
            assert all(torch.equal(tensor, written[key].float()) for key, tensor in state.items())


@pytest.mark.parametrize("name", COARSE)
def test_a_coarse_stage_that_is_changed_missing_or_of_another_kind_is_refused(cascade, name):
    content = (cascade / name).read_bytes()
    (cascade / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(OasisVQError, match=rf"coarse/{name.split('/')[1]}.*sha256"):
        verify(cascade)
    shutil.copy(cascade / name.split("/")[1], cascade / name)  # the finer stage's own
    restamp(cascade)
    with pytest.raises(OasisVQError, match=f"{name}: .*(not of this preset|the preset asks for)"):
        verify(cascade)
    (cascade / name).unlink()
    with pytest.raises(OasisVQError, match=f"{name} cannot be read"):
        verify(cascade)
    with pytest.raises(OasisVQError, match=rf"{name} is missing: finish .* --out {cascade}/coarse"):
        write_manifest(cascade, CASCADE, DATA, TRAINING)
    files = json.loads((cascade / "manifest.json").read_text())["files"]
    edit_manifest(cascade, files={key: stamp for key, stamp in files.items() if key != name})
    with pytest.raises(OasisVQError, match=f"expected .*{name}"):
        verify(cascade)


def test_coarse_files_of_weights_without_a_coarse_stage_are_refused(folder, cascade):
    files = json.loads((cascade / "manifest.json").read_text())["files"]
    own = json.loads((folder / "manifest.json").read_text())["files"]
    edit_manifest(folder, files=own | {name: files[name] for name in COARSE})
    with pytest.raises(OasisVQError, match="lists coarse/prior"):
        verify(folder)


STAGE = TINY.to_dict()


@pytest.mark.parametrize(
    "coarse",
    [
        STAGE | {"coarse": STAGE},
        STAGE | {"coarse": {}},
        STAGE | {"towers": 3},
        {key: value for key, value in STAGE.items() if key != "size"},
        STAGE | {"size": "wide"},
        STAGE | {"size": 10**9},
        STAGE | {"size": 0},
        STAGE | {"size": -16},
        STAGE | {"size": 18},
        STAGE | {"prior_layers": 1000},
        STAGE | {"name": "two\nlines"},
        STAGE | {"levels": 31},
        STAGE | {"grades": [0.0]},
        [],
        {},
        "base",
        3,
        True,
    ],
)
def test_a_manifest_with_a_hostile_coarse_stage_is_refused(cascade, coarse):
    edit_manifest(cascade, preset=CASCADE.to_dict() | {"coarse": coarse})
    with pytest.raises(OasisVQError, match=r"no model can be made of its preset|expected vqvae") as caught:
        verify(cascade)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("digit", [0, 8, 63])
def test_every_digit_of_a_sha256_counts(folder, digit):
    manifest = json.loads((folder / "manifest.json").read_text())
    stamp = manifest["files"]["prior.safetensors"]
    other = "0" if stamp["sha256"][digit] != "0" else "1"
    stamp["sha256"] = stamp["sha256"][:digit] + other + stamp["sha256"][digit + 1 :]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(OasisVQError, match=r"prior.safetensors: its sha256 is not the manifest's"):
        verify(folder)


@pytest.mark.parametrize("name", ["vqvae.safetensors", "prior.safetensors", "results.json", "vqvae.jsonl"])
def test_one_flipped_bit_is_refused(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(OasisVQError, match=rf"{name}.*sha256"):
        verify(folder)


def test_a_truncated_file_is_refused(folder):
    path = folder / "prior.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OasisVQError, match=r"prior\.safetensors.*bytes, the manifest says"):
        verify(folder)


def test_a_missing_file_is_refused(folder):
    (folder / "prior.safetensors").unlink()
    with pytest.raises(OasisVQError, match=r"prior\.safetensors cannot be read"):
        verify(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("quantiser.codebook"), "lacks tensor quantiser.codebook"),
        (lambda state: state.update(extra=torch.zeros(1)), "has the unknown tensor extra"),
        (lambda state: state.update({"quantiser.codebook": torch.zeros(9, 4)}), r"codebook is .*\(9, 4\)"),
        (lambda state: state.update({"quantiser.counts": torch.zeros(8, dtype=torch.int64)}), "counts is torch.int64"),
    ],
)
def test_tensors_of_another_model_are_refused_though_the_hash_is_right(folder, change, words):
    path = folder / "vqvae.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    restamp(folder)
    with pytest.raises(OasisVQError, match=words):
        verify(folder)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickle_in_disguise_is_refused_unopened(folder):
    (folder / "vqvae.safetensors").write_bytes(pickle.dumps(Bomb()))
    restamp(folder)
    with pytest.raises(OasisVQError, match="not a safetensors file"):
        verify(folder)


def test_a_preset_from_before_there_were_ranks_has_none() -> None:
    old = {key: value for key, value in TINY.to_dict().items() if key != "prior_ranks"}
    assert Preset.from_dict(old) == replace(TINY, prior_ranks=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "its format is 2, this oasisvq reads 1"),
        ({"preset": TINY.to_dict() | {"towers": 3}}, "towers"),
        ({"preset": TINY.to_dict() | {"size": "wide"}}, "no model can be made"),
        ({"files": {"../../etc/passwd": {"sha256": "", "bytes": 0}}}, "lists"),
        ({"files": []}, "`files` is missing"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(folder, changes, words):
    edit_manifest(folder, **changes)
    with pytest.raises(OasisVQError, match=words) as caught:
        verify(folder)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_not_json_is_refused(folder):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(OasisVQError, match=r"manifest\.json cannot be read"):
        verify(folder)


def test_the_manifest_of_unfinished_weights_is_not_written(tmp_path):
    with pytest.raises(OasisVQError, match=r"vqvae\.safetensors is missing"):
        write_manifest(tmp_path, TINY, DATA, TRAINING)


def test_results_of_other_weights_are_left_out(folder):
    assert "results.json" in verify(folder)["files"]
    state = load_file(folder / "prior.safetensors")
    save_file({name: tensor + 1 for name, tensor in state.items()}, folder / "prior.safetensors")
    write_manifest(folder, TINY, DATA, TRAINING)
    assert "results.json" not in verify(folder)["files"]
    (folder / "results.json").write_text("{}")
    with pytest.raises(OasisVQError, match="move the file away"):
        write_manifest(folder, TINY, DATA, TRAINING)


@pytest.mark.parametrize("name", COARSE)
def test_results_of_another_coarse_stage_are_left_out(cascade, name):
    write_manifest(cascade, CASCADE, DATA, TRAINING)
    assert "results.json" in verify(cascade)["files"]
    state = load_file(cascade / name)
    save_file({key: tensor + 1 for key, tensor in state.items()}, cascade / name)
    write_manifest(cascade, CASCADE, DATA, TRAINING)
    assert "results.json" not in verify(cascade)["files"]


def test_card_and_pictures_never_stand_beside_the_manifest_of_others(folder, monkeypatch):
    made = [folder / CARD, folder / PICTURE_FOLDER / next(iter(PICTURES))]
    for path in made:
        path.parent.mkdir(exist_ok=True)
        path.write_text("of these weights")
    write_manifest(folder, TINY, DATA, TRAINING)
    assert all(path.is_file() for path in made)

    def killed(*_):
        assert not any(path.is_file() for path in made)
        raise KeyboardInterrupt

    old = (folder / "manifest.json").read_bytes()
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_manifest(folder, TINY, DATA | {"name": "another"}, TRAINING)
    assert (folder / "manifest.json").read_bytes() == old


def test_a_killed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


# Where weights come from


def test_without_any_wish_the_bundled_weights_are_used(bundled):
    assert sources.resolve() == sources.Resolved(bundled, load(bundled), "bundled")


def test_bundled_weights_go_by_name_the_default_first(bundled):
    for name in ("clear", "abacus"):
        write_weights(bundled.parent / name)
    (bundled.parent / "notes").mkdir()
    assert sources.bundled() == ["base", "abacus", "clear"]
    assert sources.resolve("clear") == sources.Resolved(
        bundled.parent / "clear", load(bundled.parent / "clear"), "bundled"
    )
    with pytest.raises(OasisVQError, match=r"notes: no such folder, not bundled \(base, abacus, clear\)"):
        sources.resolve("notes")
    with pytest.raises(OasisVQError, match="has no revisions"):
        sources.resolve("clear", "main")


def test_damaged_bundled_weights_give_way_to_the_next_but_not_when_named(bundled):
    other = write_weights(bundled.parent / "clear")
    (bundled / "prior.safetensors").write_bytes(b"")
    found = sources.resolve()
    assert found.folder == other
    assert "prior.safetensors: 0 bytes" in found.notes[0]
    with pytest.raises(OasisVQError, match="0 bytes"):
        sources.resolve("base")


@pytest.mark.parametrize("kind", ["folder", "cascade"])
def test_weights_are_read_and_hashed_once(kind, request, monkeypatch):
    folder = request.getfixturevalue(kind)
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    OasisVQ.from_pretrained(folder)
    models = (*MODELS, *COARSE) if kind == "cascade" else MODELS
    assert sorted(path for path in read if path.suffix == ".safetensors") == sorted(folder / name for name in models)


def test_a_folder_is_used_or_refused_but_never_replaced(folder, bundled):
    assert sources.resolve(folder).source == "folder"
    (folder / "prior.safetensors").unlink()
    with pytest.raises(OasisVQError, match="prior"):
        sources.resolve(folder)


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder", "a/b/c"])
def test_what_is_neither_folder_nor_hub_id_is_an_error(source, bundled):
    with pytest.raises(OasisVQError, match="no such folder"):
        sources.resolve(source)


def test_a_revision_without_repository_is_an_error(bundled):
    with pytest.raises(OasisVQError, match="OASISVQ_HUB_REPO"):
        sources.resolve(revision="main")


def test_missing_bundled_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BUNDLED", tmp_path / "none")
    with pytest.raises(OasisVQError, match="no bundled weights at"):
        sources.resolve()


def test_a_pinned_commit_comes_from_the_hub_once_and_then_from_the_cache(hub, folder):
    commit = serve(hub, folder)
    first = sources.resolve(REPO, commit)
    assert (first.source, first.repo, first.revision, first.notes) == ("hub", REPO, commit, [])
    asked = len(hub.requests)
    second = sources.resolve(REPO, commit)
    assert (second.source, second.revision, second.folder) == ("cache", commit, first.folder)
    assert len(hub.requests) == asked, "a pinned commit in the cache needs no Hub"


def test_a_branch_follows_the_hub_and_falls_back_to_the_cache(hub, folder, tmp_path, monkeypatch):
    serve(hub, folder)
    old = sources.resolve(REPO)
    assert sources.resolve(REPO).source == "cache"
    new = serve(hub, write_weights(tmp_path / "newer", seed=5))
    found = sources.resolve(REPO, "main")
    assert (found.source, found.revision) == ("hub", new)
    assert found.revision != old.revision
    point_at(monkeypatch, "http://127.0.0.1:9")
    offline = sources.resolve(REPO, "main")
    assert (offline.source, offline.revision) == ("cache", new)
    assert "failed" in offline.notes[0]


def test_a_damaged_cache_is_fetched_again(hub, folder):
    commit = serve(hub, folder)
    path = sources.resolve(REPO, commit).folder / "prior.safetensors"
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    found = sources.resolve(REPO, commit)
    assert found.source == "hub"
    assert "cached copy" in found.notes[0]
    assert (found.folder / "prior.safetensors").read_bytes() == (folder / "prior.safetensors").read_bytes()


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def with_tensors(folder: Path, change) -> None:
    state = load_file(folder / "prior.safetensors")
    change(state)
    save_file(state, folder / "prior.safetensors")
    restamp(folder)


def disguise(folder: Path) -> None:
    (folder / "vqvae.safetensors").write_bytes(pickle.dumps(Bomb()))
    restamp(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: flip(folder / "prior.safetensors"), "its sha256 is not the manifest's"),
        (lambda folder: (folder / "vqvae.safetensors").write_bytes(b"short"), "5 bytes, the manifest says"),
        (lambda folder: edit_manifest(folder, preset=TINY.to_dict() | {"towers": 3}), "towers"),
        (lambda folder: with_tensors(folder, lambda state: state.update(extra=torch.zeros(1))), "unknown tensor extra"),
        (lambda folder: with_tensors(folder, lambda state: state.pop(min(state))), "lacks tensor"),
        (disguise, "not a safetensors file"),
        (lambda folder: (folder / "manifest.json").write_text("<html>busy</html>"), "cannot be read"),
    ],
)
def test_bad_weights_on_the_hub_are_refused_with_the_reason_and_the_next_source_used(
    hub, folder, bundled, monkeypatch, damage, reason
):
    damage(folder)
    monkeypatch.setenv("OASISVQ_HUB_REPO", REPO)
    monkeypatch.setenv("OASISVQ_HUB_REVISION", serve(hub, folder))
    for _ in range(2):  # from the Hub, then from the cache and the Hub again
        found = sources.resolve()
        assert (found.source, found.folder) == ("bundled", bundled)
        assert reason in found.notes[0]
    assert sources.resolve(wait=False).source == "bundled"
    with pytest.raises(OasisVQError, match=reason):
        sources.resolve(REPO)


def test_a_lost_connection_is_resumed_where_it_broke(hub, folder, monkeypatch):
    monkeypatch.setattr(client, "PIECE", 100)
    commit = serve(hub, folder)
    hub.cut = 1000
    assert sources.resolve(REPO, commit).source == "hub"
    assert hub.ranges == ["bytes=1000-"]
    downloads = [line for line in hub.requests if line.startswith("GET /cdn/")]
    assert len(downloads) == 3, "two files, one of them in two parts"


@pytest.mark.parametrize(
    ("repo", "revision", "words"),
    [
        ("lab/nothing", None, "no repository lab/nothing, or it is private.*HF_TOKEN"),
        (REPO, "0" * 40, "no revision 0000"),
        (REPO, "draft", "no revision draft"),
    ],
)
def test_what_the_hub_lacks_is_named(hub, folder, bundled, monkeypatch, repo, revision, words):
    serve(hub, folder)
    with pytest.raises(OasisVQError, match=words):
        sources.resolve(repo, revision)
    monkeypatch.setenv("OASISVQ_HUB_REPO", repo)
    assert sources.resolve(revision=revision).source == "bundled"


def test_a_repository_of_something_else_is_named(hub, tmp_path):
    hub.repos[REPO] = Repository()
    hub.repos[REPO].commit({"pytorch_model.bin": b"no"})
    with pytest.raises(OasisVQError, match="holds no complete oasisvq weights"):
        sources.resolve(REPO)


def test_a_private_repository_opens_to_a_token_alone(hub, folder, monkeypatch):
    serve(hub, folder, private=True)
    with pytest.raises(OasisVQError, match="or it is private"):
        sources.resolve(REPO)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert sources.resolve(REPO).source == "hub"


@pytest.mark.parametrize("revision", [None, "0" * 40])
def test_a_hub_that_never_answers_is_given_up_in_time(bundled, monkeypatch, revision):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OASISVQ_HUB_REPO", REPO)
        started = time.monotonic()
        found = sources.resolve(revision=revision)
        assert time.monotonic() - started < 5
    assert found.source == "bundled"
    assert len(found.notes) == 1


def test_a_hub_that_is_down_is_named_at_once(bundled):
    started = time.monotonic()
    with pytest.raises(OasisVQError, match=r"127\.0\.0\.1:9 failed"):
        sources.resolve(REPO)
    assert time.monotonic() - started < 2


def test_a_broken_hub_is_given_up_without_retries(hub, bundled):
    hub.status = 503
    started = time.monotonic()
    with pytest.raises(OasisVQError, match="answered 503"):
        sources.resolve(REPO)
    assert time.monotonic() - started < 2


def test_a_slow_hub_goes_on_in_the_background(hub, folder, bundled, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", 0.5)
    commit = serve(hub, folder)
    monkeypatch.setenv("OASISVQ_HUB_REPO", REPO)
    monkeypatch.setenv("OASISVQ_HUB_REVISION", commit)
    hub.delay = 0.2
    found = sources.resolve()
    assert found.source == "bundled"
    assert "still being downloaded" in found.notes[0]
    hub.delay = 0.0
    deadline = time.monotonic() + 5
    while (found := sources.resolve()).source != "cache" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (found.source, found.revision) == ("cache", commit)


# Behind the scenes


@pytest.fixture
def wished(monkeypatch):
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(client, "PATIENCE", 0.5)
    monkeypatch.setattr(client, "PIECE", 100)
    monkeypatch.setenv("OASISVQ_HUB_REPO", REPO)


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_without_waiting_what_is_at_hand_is_used_and_the_hub_never_asked(hub, folder, bundled, wished):
    commit = serve(hub, folder)
    hub.delay = 30
    started = time.monotonic()
    assert sources.resolve(wait=False) == sources.Resolved(bundled, load(bundled), "bundled")
    assert time.monotonic() - started < 1
    assert not hub.requests
    hub.delay = 0
    sources.resolve(REPO)
    hub.requests.clear()
    found = sources.resolve(wait=False)
    assert (found.source, found.revision) == ("cache", commit)
    assert not hub.requests


def test_a_dead_hub_is_asked_again_until_its_weights_are_here(hub, folder, bundled, wished):
    hub.status = 500
    arrived = threading.Event()
    waiting = fetch(None, arrived.set)
    until(lambda: "the Hub answered 500 for lab/brains" in waiting.status and "Next try within" in waiting.status)
    hub.status, hub.hold = 0, threading.Event()
    commit = serve(hub, folder)
    until(lambda: re.search(r"Downloading lab/brains: .*safetensors, [1-9]\d% of 0.0 MB", waiting.status))
    assert not arrived.is_set()
    hub.hold.set()
    assert arrived.wait(10)
    until(lambda: waiting.status == "")
    found = sources.resolve(wait=False)
    assert (found.source, found.revision) == ("cache", commit)


def test_a_branch_in_use_is_exchanged_only_when_it_moved(hub, folder, wished, tmp_path):
    commit = serve(hub, folder)
    sources.resolve()
    arrived = threading.Event()
    same = fetch(commit, arrived.set)
    until(lambda: same.status == "")
    assert not arrived.is_set()
    serve(hub, write_weights(tmp_path / "newer", seed=5))
    fetch(commit, arrived.set)
    assert arrived.wait(10)


def test_nothing_is_fetched_where_nothing_is_missing(wished, monkeypatch):
    monkeypatch.setenv("OASISVQ_HUB_REVISION", "a" * 40)
    assert fetch("a" * 40, pytest.fail) is None
    monkeypatch.delenv("OASISVQ_HUB_REPO")
    assert fetch(None, pytest.fail) is None


def test_describe_says_what_is_in_use(hub, folder):
    commit = serve(hub, folder)
    info = sources.describe(sources.resolve(REPO, commit))
    assert (info["source"], info["repo"], info["revision"]) == ("hub", REPO, commit)
    assert info["results"].items() >= RESULTS.items()
    assert [line["epoch"] for line in info["history"]["vqvae"]] == [1, 2]
    assert info["history"]["prior"] == []
    content = (folder / "prior.safetensors").read_bytes()
    assert info["files"]["prior.safetensors"]["sha256"] == hashlib.sha256(content).hexdigest()


# Publishing


@pytest.mark.parametrize("kind", ["folder", "cascade"])
def test_what_is_published_comes_back_byte_for_byte(hub, kind, request, monkeypatch):
    folder = request.getfixturevalue(kind)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    commit = publish(folder, REPO, private=True)
    repo = hub.repos[REPO]
    assert repo.private
    assert len(repo.commits) == 2, "one commit on top of the empty repository"
    assert repo.commits[commit]["README.md"].decode() == model_card(folder)
    found = sources.resolve(REPO, commit)
    files = files_in(folder)
    assert set(repo.commits[commit]) - {".gitattributes"} == {*files, "README.md"}
    for name, path in files.items():
        assert (found.folder / name).read_bytes() == path.read_bytes()
    model, original = OasisVQ.from_pretrained(REPO, commit), OasisVQ.from_pretrained(folder)
    assert model.info["source"] == "cache"
    assert torch.equal(model.sample(1, seed=1).indices, original.sample(1, seed=1).indices)


def test_figures_travel_with_the_weights_and_the_card_shows_them(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, picture in sheets(OasisVQ.from_pretrained(folder)).items():
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / name).write_bytes(picture)
    commit = publish(folder, REPO)
    files = hub.repos[REPO].commits[commit]
    names = {"draws.png", "reconstructions.png", "training.png"}
    assert {name for name in files if name.endswith(".png")} == {f"figures/{name}" for name in names}
    for name in names:
        assert f"](figures/{name})" in files["README.md"].decode()
        assert Image.open(io.BytesIO(files[f"figures/{name}"])).width > 300
    assert sources.resolve(REPO, commit).source == "hub"


def test_a_space_holds_all_that_its_dockerfile_copies(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # A clone may lie anywhere, also under a folder that is called as one that is left out.
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "clone").symlink_to(sources.BUNDLED.parent)
    monkeypatch.setattr(sources, "BUNDLED", tmp_path / "state" / "clone" / "checkpoints")
    commit = publish_space("lab/brains-app", private=True)
    repo = hub.repos["lab/brains-app"]
    assert (repo.kind, repo.private) == ("space docker", True)
    files = repo.commits[commit]
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (front["sdk"], front["app_port"]) == ("docker", 8501)
    root = sources.BUNDLED.parent
    for name in ("Dockerfile", "app.py", "requirements.txt", ".streamlit/config.toml", "pages/home.py"):
        assert files[name] == (root / name).read_bytes()
    for name in sources.bundled():
        stated = json.loads(files[f"checkpoints/{name}/manifest.json"])["files"]
        for file, stamp in stated.items():
            assert hashlib.sha256(files[f"checkpoints/{name}/{file}"]).hexdigest() == stamp["sha256"]
    assert not [name for name in files if "__pycache__" in name or name.startswith(("tests", "state"))]
    readme = files["README.md"].decode()
    assert readme.endswith((root / "README.md").read_text())
    for link in re.findall(r"\]\(([^)]+)\)", readme):
        assert link.startswith("http") or link.partition("#")[0] in files


def test_publishing_needs_a_token(hub, folder):
    with pytest.raises(OasisVQError, match=r"refused access to lab/brains.*HF_TOKEN"):
        publish(folder, REPO)
    assert not hub.repos


def test_a_token_that_is_no_good_is_named(hub, folder, monkeypatch):
    serve(hub, folder, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_stolen")
    with pytest.raises(OasisVQError, match=r"or it is private.*HF_TOKEN"):
        sources.resolve(REPO)
    with pytest.raises(OasisVQError, match=r"refused access to lab/brains.*token that may do this"):
        publish(folder, REPO)
    assert len(hub.repos[REPO].commits) == 1


def test_a_connection_lost_while_publishing_leaves_no_half_and_goes_on(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's pauses between its tries
    hub.lose = 1
    publish(folder, REPO)
    (folder / "results.json").unlink()
    save_file({k: t + 1 for k, t in load_file(folder / "prior.safetensors").items()}, folder / "prior.safetensors")
    write_manifest(folder, TINY, DATA, TRAINING)
    hub.lose = 100
    with pytest.raises(OasisVQError, match="failed"):
        publish(folder, REPO)
    assert len(hub.repos[REPO].commits) == 2, "the old ones are whole, the new ones are not there"
    hub.lose = 0
    hub.requests.clear()
    commit = publish(folder, REPO)
    assert len([line for line in hub.requests if line.startswith("PUT")]) == 1, "one file is new to the Hub"
    assert sources.resolve(REPO, commit).source == "hub"


def test_damaged_weights_are_not_published(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (folder / "results.json").write_text("{}")
    with pytest.raises(OasisVQError, match=r"results\.json"):
        publish(folder, REPO)
    assert not hub.requests


# The model card


def test_the_card_carries_results_for_people_and_for_the_hub(folder):
    _, front, text = model_card(folder).split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["library_name"] == "oasisvq"
    assert data["license"] == "other"
    assert data["datasets"] == ["phantom-cohort"]
    index = {
        metric["type"]: metric["value"] for result in data["model-index"][0]["results"] for metric in result["metrics"]
    }
    assert index == {"ssim_mean": 0.93125, "nll_bits_per_code": 2.5}
    for result in ModelCard(model_card(folder)).data.eval_results:  # as the Hub itself reads it
        assert result.dataset_type == "phantom-cohort"
        assert result.dataset_split == "test"
        assert result.metric_value == index[result.metric_type]
    assert "| SSIM | 0.9313 (0.92 to 0.94) |" in text
    assert "not for diagnosis" in text
    assert "10.1162/jocn.2007.19.9.1498" in text
    assert "| train | 2 | 64 |" in text
    assert "1 people (32 slices) of the test split of Phantom cohort" in text


def test_the_card_of_unmeasured_weights_claims_nothing(folder):
    (folder / "results.json").unlink()
    write_manifest(folder, TINY, DATA, TRAINING)
    card = model_card(folder)
    assert "Nothing has been measured yet" in card
    assert "model-index" not in card


def test_the_card_of_a_cascade_names_the_codes_and_files_of_each_stage(cascade):
    card = model_card(cascade)
    assert "24x24 slice into\n4x4 indices into a codebook of 8 and 6x6 indices into a codebook of 6, and back" in card
    for name in (*COARSE, *MODELS):
        assert f"| {name} | {(cascade / name).stat().st_size:,} |" in card
