"""Faults: killed at random moments, interrupted, no space, no home, a clock that jumps, a GPU that is full."""

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, HubServer, Repository
from safetensors.torch import load_file
from test_training import TINY
from tiny_weights import CASCADE, REPO, forget_the_hub, point_at, write_weights
from tiny_weights import TINY as WEIGHTS

from oasisvq import cli
from oasisvq.errors import OasisVQError
from oasisvq.files import write_atomically
from oasisvq.hub.card import model_card
from oasisvq.hub.manifest import CARD, MANIFEST
from oasisvq.hub.publish import publish
from oasisvq.hub.verification import verify
from oasisvq.models import sampling
from oasisvq.models.presets import PRESETS, Preset
from oasisvq.pipeline import OasisVQ
from oasisvq.training import loop as training

pytestmark = pytest.mark.slow

KILLS = 10
SMALL = replace(TINY, vqvae_epochs=2, prior_epochs=2)

# Children are forked from a server that has imported everything and computed nothing: they start in no time.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["test_faults", "huggingface_hub.hf_api", "oasisvq.hub.card_pictures", "oasisvq.training.reproducibility"]
)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.safetensors"))}


def train_and_package(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    PRESETS["tiny"] = SMALL
    for model in ("vqvae", "prior"):
        words = ["train", model, "--data", str(data), "--out", str(out), "--preset", "tiny", "--precision", "fp32"]
        assert cli.main(words) == 0
    assert cli.main(["package", str(out)]) == 0


def train_by_command(data: Path, out: Path, most: int | None = None, interrupted: bool = False) -> None:
    """What `python -m oasisvq train vqvae` does, ending with its exit status.

    No file grows beyond `most` bytes. `interrupted`: the terminal's Ctrl-C comes once three checkpoints were written.
    """
    torch.set_num_threads(1)
    if interrupted:
        # As in a terminal: whoever runs the tests in the background has them, and their children, ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        save, saved = training.Checkpoint.save, iter(range(40))

        def save_and_interrupt(*state) -> None:
            save(*state)
            if next(saved) == 2:
                signal.raise_signal(signal.SIGINT)

        training.Checkpoint.save = save_and_interrupt  # type: ignore[method-assign]
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    PRESETS["tiny"] = replace(SMALL, vqvae_epochs=40)
    words = ["train", "vqvae", "--data", data, "--out", out, "--preset", "tiny", "--precision", "fp32"]
    sys.stderr = open(out.parent / "stderr", "w")  # noqa: SIM115
    status = cli.main([str(word) for word in words])
    sys.stderr.close()
    os._exit(status)


def publish_to(folder: Path, url: str) -> None:
    patch = pytest.MonkeyPatch()
    forget_the_hub(patch, folder)
    point_at(patch, url)
    os.environ["HF_TOKEN"] = TOKEN
    publish(folder, REPO)


def start(work, *args) -> multiprocessing.Process:
    process = _forks.Process(target=work, args=args)
    process.start()
    return process


def seconds(work, *args) -> float:
    """How long it takes when nobody kills it."""
    began = time.monotonic()
    process = start(work, *args)
    process.join(120)
    assert process.exitcode == 0
    return time.monotonic() - began


def assert_whole(folder: Path) -> None:
    """Every file in a folder of a training is of one piece, and they are of one training."""
    for path in folder.rglob("*.safetensors"):
        assert load_file(path)
    for path in folder.glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    if (folder / MANIFEST).exists():
        verify(folder)
    if (folder / CARD).exists():
        assert (folder / CARD).read_text() == model_card(folder)


def test_killed_while_training_or_packaging(tiny_cohort: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    seconds(train_and_package, tiny_cohort, tmp_path / "warm")
    longest = seconds(train_and_package, tiny_cohort, whole)
    rng = random.Random(0)
    for _ in range(KILLS):
        process = start(train_and_package, tiny_cohort, out)
        process.join(rng.uniform(0, 0.6 * longest))
        finished = process.exitcode == 0
        process.kill()
        process.join()
        assert_whole(out)
        if finished:
            assert digests(out) == digests(whole)
            shutil.rmtree(out)
    seconds(train_and_package, tiny_cohort, out)
    assert digests(out) == digests(whole)
    verify(out)


def test_killed_while_publishing(tmp_path: Path) -> None:
    old, new = write_weights(tmp_path / "old", seed=1), write_weights(tmp_path / "new", seed=2)
    kinds = [digests(old), digests(new)]
    with HubServer() as hub:
        hub.repos[REPO] = Repository()
        longest = seconds(publish_to, old, hub.url)
        rng = random.Random(0)
        for _ in range(KILLS):
            process = start(publish_to, new, hub.url)
            process.join(rng.uniform(0, longest))
            process.kill()
            process.join()
        time.sleep(0.2)  # the last request may still be under way
        for oid, files in hub.repos[REPO].commits.items():
            if MANIFEST not in files:
                continue
            folder = tmp_path / oid
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            verify(folder)
            assert digests(folder) in kinds


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(tiny_cohort: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "a" / "out", tmp_path / "b" / "out"
    for folder in (whole, out):
        folder.mkdir(parents=True)
    seconds(train_by_command, tiny_cohort, whole)
    process = start(train_by_command, tiny_cohort, out, None, True)
    process.join(120)
    assert process.exitcode == 130
    assert "interrupted: run the same command again" in (tmp_path / "b" / "stderr").read_text()
    assert len((out / "vqvae.jsonl").read_text().splitlines()) == 3
    assert_whole(out)
    seconds(train_by_command, tiny_cohort, out)
    assert digests(out) == digests(whole)


def test_a_full_disk_is_one_line_and_costs_nothing_that_was_there(tiny_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(train_by_command, tiny_cohort, out, 10_000)
    process.join(60)
    assert process.exitcode == 2
    told = (tmp_path / "stderr").read_text()
    assert "cannot be written (File too large): free some space" in told
    assert "Traceback" not in told
    assert not list(out.rglob("*.partial"))
    assert_whole(out)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_what_cannot_be_written_leaves_the_old_files(number: int, tmp_path: Path, monkeypatch, capsys) -> None:
    folder = write_weights(tmp_path / "w")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def refuses(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuses)
    assert cli.main(["package", str(folder)]) == 2
    told = capsys.readouterr().err
    assert os.strerror(number) in told
    assert len(told.splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_home_cache_or_hub_the_bundled_weights_are_used() -> None:
    lost = {"HOME": "/proc/nowhere", "HF_ENDPOINT": "http://127.0.0.1:9", "OASISVQ_HUB_REPO": REPO}
    script = (
        "from oasisvq import OasisVQ\n"
        "model = OasisVQ.from_pretrained()\n"
        "print(model.info['source'], *model.info['notes'], sep='\\n')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))} | lost
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("bundled\n"), done.stderr
    assert "failed" in done.stdout


def test_the_clock_may_jump(tiny_cohort: Path, tmp_path: Path, monkeypatch) -> None:
    steady = training.train_vqvae(SMALL, tiny_cohort, tmp_path / "steady", "fp32")
    jumps = itertools.cycle((1e9, 2e9, 1.5e9, 3e8))
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    jumpy = training.train_vqvae(SMALL, tiny_cohort, tmp_path / "jumpy", "fp32")
    assert steady.read_bytes() == jumpy.read_bytes()
    lines = (tmp_path / "jumpy" / "vqvae.jsonl").read_text().splitlines()
    assert all(0 <= json.loads(line)["seconds"] < 60 for line in lines)


@pytest.mark.parametrize("preset", [WEIGHTS, CASCADE], ids=lambda preset: preset.name)
@pytest.mark.parametrize("verb", ["encode", "decode", "sample", "refill", "surprise", "likely"])
def test_a_full_gpu_hands_over_to_the_processor(
    verb: str, preset: Preset, tmp_path: Path, monkeypatch, request
) -> None:
    model = OasisVQ.from_pretrained(write_weights(tmp_path / "w", preset=preset), device="cpu")
    grid, size = model.preset.shape, model.preset.size
    codes = torch.zeros(1, *grid, dtype=torch.int64)
    call = {
        "encode": lambda: model.encode(torch.zeros(1, 1, size, size)),
        "decode": lambda: model.decode(codes),
        "sample": lambda: model.sample(1, seed=3).indices,
        "refill": lambda: model.refill(codes, torch.ones(grid, dtype=torch.bool), seed=3).indices,
        "surprise": lambda: model.surprise(codes),
        "likely": lambda: model.likely(codes, 3)[0],
    }[verb]
    expected = call()

    def out_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    # A GPU as far as the model can tell: nothing on it is ever computed, for it is full.
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    for stage in model.stages:
        stage.device, stage.info["device"] = torch.device("meta"), "Some GPU"
        for name in ("encode", "decode"):
            patch.setattr(stage.tokenizer, name, out_of_memory)
        patch.setattr(stage.prior, "forward", out_of_memory)
    for name in ("sample", "refill", "surprise"):
        patch.setattr(sampling, name, out_of_memory)
    moved = model.leave_gpu
    monkeypatch.setattr(model, "leave_gpu", lambda: (patch.undo(), moved()))
    first = model.stages[0].vqvae
    move = first.to

    def moves(device):
        assert model.device == device, "other threads, which fail now, must see why"
        return move(device)

    monkeypatch.setattr(first, "to", moves)

    assert torch.equal(call(), expected)
    for stage in model.stages:
        assert (stage.device.type, stage.info["device"]) == ("cpu", "cpu")
        assert stage.info["notes"] == ["Some GPU had no memory left: computing on the processor, more slowly"]
    monkeypatch.setattr(model.tokenizer, "decode", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):  # on the processor there is nothing left to try
        model.decode(codes)


def test_nothing_asks_for_the_time_of_day_to_measure_with() -> None:
    for path in Path(cli.__file__).parent.rglob("*.py"):
        assert "time.time(" not in path.read_text(), path


def test_an_error_of_the_disk_is_one_for_users(tmp_path: Path) -> None:
    with pytest.raises(OasisVQError, match=r"nothing-here.*cannot be written"):
        write_atomically(tmp_path / "nothing-here" / "file", b"")
