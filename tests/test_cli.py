"""The command line, from the words that are typed to the files that lie there."""

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from heads import head
from hub_server import TOKEN, HubServer, Repository
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_weights import DATA, REPO, TINY, TRAINING, forget_the_hub, point_at, write_weights

from oasisvq import OasisVQ, cli
from oasisvq.data.slices import normalise, to_model
from oasisvq.hub import sources
from oasisvq.hub.manifest import COARSE, MODELS, write_manifest
from oasisvq.hub.verification import verify
from oasisvq.models.presets import PRESETS

SOURCE = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    forget_the_hub(monkeypatch, tmp_path)


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    path = write_weights(tmp_path / "bundled" / "base")
    monkeypatch.setattr(sources, "BUNDLED", path.parent)
    return path


@pytest.fixture
def pictures(tiny_cohort):
    return sorted((tiny_cohort / "keras_png_slices_test").iterdir())[:3]


def run(*words) -> int:
    return cli.main([str(word) for word in words])


def python_m_oasisvq(*words, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "oasisvq", *words],
        cwd=SOURCE,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command_without_loading_torch():
    told = python_m_oasisvq("--help", PYTHONPROFILEIMPORTTIME="1")
    assert told.returncode == 0
    commands = ["app", "prepare", "train", "package", "verify", "evaluate", "encode", "decode"]
    for command in [*commands, "reconstruct", "sample", "publish", "pull", "benchmark"]:
        assert f"\n    {command} " in told.stdout or f"\n    {command}\n" in told.stdout
    assert " torch\n" not in told.stderr


@pytest.mark.parametrize("words", [[], ["fly"], ["sample", "--out", "x", "--count", "0"], ["train", "decoder"]])
def test_typing_errors_exit_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["evaluate", "--data", "/no/such"], "/no/such"),
        (["encode", "/no/such.png", "--out", "x.npz"], "/no/such.png"),
        (["verify", "/no/such"], "/no/such"),
        (["package", "/no/such"], "/no/such"),
        (["train", "vqvae", "--data", "/no/such", "--out", "x"], "/no/such"),
        (["sample", "--count", "1", "--out", "x", "--grade", "3"], "grade 3"),
        (["sample", "--count", "1", "--out", "x", "--weights", "nowhere"], "nowhere"),
        (["prepare", "--volumes", "/no/such", "--out", "x"], "/no/such"),
        (["benchmark", "sampler"], "sampler comes with the repository"),
        (["pull"], "OASISVQ_HUB_REPO"),
        (["publish", REPO], "HF_ENDPOINT"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(words, names, bundled, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "benchmarks", None)  # as where only the package is installed
    for name in [name for name in sys.modules if name.startswith("benchmarks.")]:
        monkeypatch.delitem(sys.modules, name)
    assert run(*words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert names.replace("HF_ENDPOINT", "http://127.0.0.1:9") in lines[-1]


def test_the_road_from_data_to_verified_weights(tiny_cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(
        PRESETS, "tiny", replace(TINY, levels=8, vqvae_batch=8, prior_batch=8, vqvae_epochs=2, prior_epochs=1)
    )
    out, figures = tmp_path / "run", tmp_path / "figures.json"
    common = ("--data", tiny_cohort, "--out", out, "--preset", "tiny", "--precision", "fp32", "--json", figures)
    assert run("train", "vqvae", *common) == 0
    assert json.loads(figures.read_text())["epochs"] == 2
    assert run("package", out) == 2, "the prior is missing"
    assert "train prior" in capsys.readouterr().err
    assert run("train", "prior", *common) == 0
    assert run("evaluate", "--data", tiny_cohort, "--weights", out, "--json", out / "results.json") == 0
    shown = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    low, high = results["ssim_ci95"]
    assert f"{results['ssim_mean']:.4g}  (95 % interval {low:.4g} to {high:.4g})" in shown
    assert (results["people"], results["slices"]) == (2, 16)
    before = json.loads((out / "manifest.json").read_text())
    codes = (out / "vqvae.safetensors").read_bytes()
    (out / "vqvae.safetensors").write_bytes(codes[:-1] + bytes([codes[-1] ^ 1]))
    assert run("train", "prior", *common) == 2, "the prior learned the codes of another VQ-VAE"
    assert "another VQ-VAE" in capsys.readouterr().err
    assert run("package", out) == 2
    assert "vqvae.safetensors: its sha256 is not the manifest's" in capsys.readouterr().err
    (out / "vqvae.safetensors").write_bytes(codes)
    assert run("train", "prior", *common) == 0, "the finished training is left as it is"
    assert run("package", out) == 0
    after = json.loads((out / "manifest.json").read_text())
    assert "results.json" in after["files"]
    assert (after["data"], after["training"]) == (before["data"], before["training"])
    assert after["training"]["precision"] in ("fp32", "bf16")
    assert after["data"]["people"] == {"train": 4, "validate": 2, "test": 2}
    assert f"{results['ssim_mean']:.4g}" in (out / "README.md").read_text()
    assert run("verify", out) == 0
    assert sources.describe(sources.resolve(out))["results"] == results
    second = shutil.copytree(out, tmp_path / "second", ignore=shutil.ignore_patterns("prior*"))
    assert run("train", "prior", *common, "--out", second, "--start", out) == 0
    made = json.loads((second / "manifest.json").read_text())["training"]
    assert made["command"].endswith("--start START")
    assert made["start"] == after["files"]["prior.safetensors"]["sha256"]


def test_a_prior_learns_from_a_vqvae_that_came_finished(tiny_cohort, tmp_path, monkeypatch, capsys):
    preset = replace(TINY, levels=8, vqvae_batch=8, prior_batch=8, vqvae_epochs=1, prior_epochs=1)
    others = replace(preset, name="other", prior_neighbours=2), replace(preset, name="more", codebook_size=99)
    for one in (preset, *others):
        monkeypatch.setitem(PRESETS, one.name, one)
    first, second = tmp_path / "first", tmp_path / "second"
    common = ("--data", tiny_cohort, "--precision", "fp32")
    for model in ("vqvae", "prior"):
        assert run("train", model, *common, "--preset", "tiny", "--out", first) == 0
    manifest = first / "manifest.json"
    before = json.loads(manifest.read_text())
    before["training"]["threads"] = f"{torch.get_num_threads()}, 99"
    before["training"]["resumed"] = "prior after epoch 1 (until then threads 2)"  # not of what is taken
    manifest.write_text(json.dumps(before))
    (second / "state" / "vqvae").mkdir(parents=True)
    shutil.copy(first / "vqvae.safetensors", second)
    shutil.copy(manifest, second / "state" / "vqvae")

    again = ("train", "prior", *common, "--preset", "other", "--out", second)
    assert run(*again) == 0
    made = json.loads((second / "manifest.json").read_text())
    vqvae, prior = made["training"]["command"].split(" && ")
    assert vqvae.startswith(f"OMP_NUM_THREADS={torch.get_num_threads()} python -m oasisvq train vqvae")
    assert vqvae.endswith("--preset other --precision fp32")
    assert f"OMP_NUM_THREADS={torch.get_num_threads()} python -m oasisvq train prior" in prior
    assert made["training"]["threads"] == torch.get_num_threads()
    assert "resumed" not in made["training"]
    assert made["preset"]["prior_neighbours"] == 2
    assert run("verify", second) == 0

    save_file(load_file(first / "vqvae.safetensors"), second / "vqvae.safetensors", {"another": "one"})
    (second / "state" / "prior.safetensors").unlink()
    assert run(*again) == 2
    assert "not the one of" in capsys.readouterr().err
    shutil.copy(first / "vqvae.safetensors", second)
    assert run(*again, "--preset", "more") == 2
    assert "was not made by preset more" in capsys.readouterr().err
    before["data"]["fingerprint"] = "0" * 64
    (second / "state" / "vqvae" / "manifest.json").write_text(json.dumps(before))
    assert run(*again) == 2
    assert "learned from other slices" in capsys.readouterr().err


@pytest.mark.slow
def test_the_road_of_a_cascade(tiny_cohort, tmp_path, monkeypatch, capsys):
    coarse = replace(TINY, levels=8, vqvae_batch=8, prior_batch=8, vqvae_epochs=2, prior_epochs=1)
    preset = replace(coarse, name="fine", size=32, vqvae_crop=16, coarse=coarse, prior_heads=0)
    for one in (coarse, preset):
        monkeypatch.setitem(PRESETS, one.name, one)
    out = tmp_path / "run"

    def train(model, folder, name):
        words = ("--data", tiny_cohort, "--out", folder, "--preset", name, "--precision", "fp32")
        return run("train", model, *words)

    assert train("vqvae", out, "fine") == 2
    assert "coarse/vqvae.safetensors is missing" in capsys.readouterr().err
    for model in ("vqvae", "prior"):
        assert train(model, out / "coarse", "tiny") == 0
    for model in ("vqvae", "prior"):
        assert train(model, out, "fine") == 0
    assert run("evaluate", "--data", tiny_cohort, "--weights", out, "--json", out / "results.json") == 0
    assert run("package", out) == 0
    assert run("verify", out, "--data", tiny_cohort) == 0
    assert "figures agree" in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert {*MODELS, *COARSE, "results.json"} <= set(manifest["files"])

    for name, words in (
        ("coarse/vqvae.safetensors", "not the stage that its VQ-VAE was trained on"),
        ("coarse/prior.safetensors", "is not the one of its manifest"),
        ("vqvae.safetensors", "another VQ-VAE"),
    ):
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert train("prior", out, "fine") == 2
        assert words in capsys.readouterr().err
        for command in ("package", "verify"):
            assert run(command, out) == 2
            assert f"{name}: its sha256 is not the manifest's" in capsys.readouterr().err
        (out / name).write_bytes(content)
    assert run("verify", out) == 0

    file = min((tiny_cohort / "keras_png_slices_test").iterdir())
    assert run("encode", file, "--out", tmp_path / "codes.npz", "--weights", out) == 0
    assert "4x4 + 8x8" in capsys.readouterr().out
    with np.load(tmp_path / "codes.npz") as saved:
        assert saved["indices"].shape == (1, 1, 16 + 64)
    assert run("sample", "--count", 2, "--out", tmp_path / "draws", "--weights", out) == 0
    with Image.open(tmp_path / "draws" / "draw_00001.png") as image:
        assert image.size == (32, 32)


def test_encode_gives_the_codes_that_python_gives(bundled, tiny_cohort, tmp_path):
    files = sorted((tiny_cohort / "keras_png_slices_test").iterdir())
    out = tmp_path / "deep" / "codes.npz"
    assert run("encode", *files, "--out", out) == 0
    with np.load(out) as saved:
        indices, names = saved["indices"], saved["files"]
    assert indices.shape == (16, 4, 4)
    assert names.tolist() == [str(file) for file in files]
    model = OasisVQ.from_pretrained()
    for file, codes in zip(files, indices, strict=True):
        with Image.open(file) as image:
            slices = to_model(normalise(np.asarray(image))[None], TINY.size)
        assert np.array_equal(model.encode(torch.from_numpy(slices)[None])[0].numpy(), codes)


def test_encode_takes_files_whose_names_alone_are_equal(bundled, pictures, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(pictures[0], tmp_path / folder / "level_00.png")
    one = [tmp_path / "IM.0001", tmp_path / "IM.0002"]
    for file in one:
        shutil.copy(pictures[0], file)
    files = [tmp_path / "a" / "level_00.png", tmp_path / "b" / "level_00.png", *one]
    assert run("encode", *files, "--out", tmp_path / "codes.npz") == 0
    with np.load(tmp_path / "codes.npz") as saved:
        assert len(saved["indices"]) == 4
    assert run("compress", *one, "--out", tmp_path) == 0
    assert {file.name for file in tmp_path.glob("*.ovq")} == {"IM.0001.ovq", "IM.0002.ovq"}


def test_encode_fills_a_file_no_further_than_decode_reads_it(bundled, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("oasisvq.data.codes.LARGEST", 2 * 2 * TINY.codes)
    assert run("encode", *pictures[:2], "--out", tmp_path / "codes.npz") == 0
    assert run("decode", tmp_path / "codes.npz", "--out", tmp_path) == 0
    assert run("encode", *pictures[:3], "--out", tmp_path / "more.npz") == 2
    assert "more than the 2 slices" in capsys.readouterr().err
    assert not (tmp_path / "more.npz").exists()


@pytest.mark.parametrize(("package", "named"), [("av", "requirements-dev.txt"), ("accelerate", "oasisvq[train]")])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, capsys, package, named):
    def command(_):
        raise ModuleNotFoundError(f"No module named '{package}.codec'", name=f"{package}.codec")

    monkeypatch.setattr(cli, "verify", command)
    assert run("verify", "anywhere") == 2
    assert named in capsys.readouterr().err


def test_decode_gives_the_pictures_that_python_gives(bundled, pictures, tmp_path, capsys):
    assert run("encode", *pictures, "--out", tmp_path / "codes.npz") == 0
    assert run("sample", "--count", 2, "--seed", 7, "--out", tmp_path / "drawn") == 0
    drawn = tmp_path / "drawn" / "codes_00000.npz"
    assert run("decode", tmp_path / "codes.npz", drawn, "--out", tmp_path / "out") == 0
    names = [f"codes_{i:05d}.png" for i in range(3)] + [f"codes_00000_{i:05d}.png" for i in range(2)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
    for i in range(2):  # what was drawn is decoded to the same grey
        with Image.open(tmp_path / "out" / f"codes_00000_{i:05d}.png") as again:
            with Image.open(tmp_path / "drawn" / f"draw_{i:05d}.png") as before:
                assert np.array_equal(np.asarray(again), np.asarray(before))
            assert "not for diagnosis" in again.text["Synthetic"]
    other = write_weights(tmp_path / "other", seed=1)
    assert run("decode", drawn, "--out", tmp_path / "out", "--weights", other) == 2
    assert "made with other weights" in capsys.readouterr().err


def test_reconstruct_writes_marked_pictures_and_figures(bundled, pictures, tmp_path):
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    assert run("reconstruct", *pictures, "--out", out, "--json", figures) == 0
    told = json.loads(figures.read_text())
    assert told["slices"] == 3
    assert told["ssim_mean"] == pytest.approx(np.mean([row["ssim"] for row in told["rows"]]))
    for file in pictures:
        with Image.open(out / f"{file.name.split('.')[0]}.png") as image:
            assert image.size == (16, 16)
            assert "oasisvq" in image.text["Synthetic"]


def test_two_files_of_one_name_are_not_written_over_each_other(bundled, pictures, tmp_path, capsys):
    assert run("reconstruct", pictures[0], pictures[0], "--out", tmp_path / "out") == 2
    assert "one name" in capsys.readouterr().err


def test_draws_depend_on_seed_and_number_alone(bundled, tmp_path):
    assert run("sample", "--count", 5, "--seed", 7, "--out", tmp_path / "a", "--batch", 5) == 0
    assert run("sample", "--count", 2, "--seed", 7, "--out", tmp_path / "b", "--batch", 1) == 0
    assert run("sample", "--count", 3, "--seed", 7, "--out", tmp_path / "b", "--first", 2, "--batch", 2) == 0
    names = [f"draw_{i:05d}.png" for i in range(5)]
    assert sorted(path.name for path in (tmp_path / "b").glob("*.png")) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with np.load(tmp_path / "a" / "codes_00000.npz") as a, np.load(tmp_path / "b" / "codes_00002.npz") as b:
        assert np.array_equal(a["indices"][2:], b["indices"])
    with Image.open(tmp_path / "a" / names[4]) as image:
        assert "seed 7, draw 4" in image.text["Synthetic"]
        assert "not for diagnosis" in image.text["Synthetic"]


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(bundled, tmp_path):
    assert run("sample", "--count", 5, "--first", 3, "--seed", 7, "--out", tmp_path / "one") == 0
    # Without a GPU too, it is --multi_gpu that makes it start more than one process; --cpu starts one.
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    two = [sys.executable, "-m", *launch, "--module", "oasisvq"]
    words = ["sample", "--count", "5", "--first", "3", "--seed", "7", "--out", tmp_path / "two", "--weights", bundled]
    told = subprocess.run([*two, *words], cwd=SOURCE, capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout.count("draws") == 1  # one of them speaks
    pictures = [{path.name: path.read_bytes() for path in (tmp_path / k).glob("*.png")} for k in ("one", "two")]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 5
    parts = {}
    for path in sorted((tmp_path / "two").glob("*.npz")):
        with np.load(path) as saved:
            parts[int(saved["first"])] = saved["indices"]
    assert [(first, len(codes)) for first, codes in parts.items()] == [(3, 2), (5, 3)]
    with np.load(tmp_path / "one" / "codes_00003.npz") as saved:
        assert np.array_equal(saved["indices"], np.concatenate(list(parts.values())))


def test_draws_by_the_million_are_split_without_gap_or_overlap(monkeypatch):
    for processes in (1, 2, 3, 7):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        shares = []
        for rank in range(processes):
            monkeypatch.setenv("RANK", str(rank))
            shares.append(cli._share(range(10, 1_000_010)))
        assert [i for share in shares for i in (share.start, share.stop)][1:-1:2] == [s.start for s in shares[1:]]
        assert (shares[0].start, shares[-1].stop) == (10, 1_000_010)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_codes_are_written_file_by_file(bundled, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "DRAWS_A_FILE", 2)
    assert run("sample", "--count", 3, "--out", tmp_path) == 0
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["codes_00000.npz", "codes_00002.npz"]


def test_draws_tell_how_near_training_people_are(bundled, tiny_cohort, tmp_path):
    figures = tmp_path / "figures.json"
    assert run("sample", "--count", 2, "--out", tmp_path, "--near", tiny_cohort, "--json", figures) == 0
    told = json.loads(figures.read_text())
    assert len(told["nearest"]) == 2
    assert 0 <= told["nearest_least"] == min(told["nearest"]) < 1


def test_a_share_of_the_draws_is_not_told_as_all_of_them(bundled, tiny_cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("sample", "--count", 2, "--out", tmp_path, "--near", tiny_cohort) == 2
    assert "leave out accelerate launch" in capsys.readouterr().err


def test_an_interrupted_draw_keeps_what_is_drawn(bundled, tmp_path, monkeypatch, capsys):
    drawn = OasisVQ.sample

    def sample(self, n, *, first, **options):
        if first == 2:
            raise KeyboardInterrupt
        return drawn(self, n, first=first, **options)

    monkeypatch.setattr(OasisVQ, "sample", sample)
    assert run("sample", "--count", 4, "--batch", 2, "--out", tmp_path / "out") == 130
    assert "--first" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("draw_*.png"))) == 2
    with np.load(tmp_path / "out" / "codes_00000.npz") as saved:
        assert len(saved["indices"]) == 2


def test_an_interrupted_training_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("oasisvq.training.loop.train_vqvae", stop)
    assert run("train", "vqvae", "--data", tmp_path, "--out", tmp_path) == 130
    assert "same command again" in capsys.readouterr().err


def test_publish_then_pull(bundled, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubServer() as hub:
        point_at(monkeypatch, hub.url)
        assert run("publish", REPO, "--private", "--json", tmp_path / "figures.json") == 0
        revision = json.loads((tmp_path / "figures.json").read_text())["revision"]
        assert revision in capsys.readouterr().out
        assert hub.repos[REPO].private
        monkeypatch.setenv("OASISVQ_HUB_REPO", REPO)
        assert run("pull", "--revision", revision) == 0
        assert run("sample", "--count", 1, "--out", tmp_path / "draws") == 0
    assert (tmp_path / "draws" / "draw_00000.png").is_file()


@pytest.mark.slow
def test_pull_heeds_hf_endpoint_and_shows_progress_on_a_terminal(bundled, tmp_path):
    with HubServer() as hub:
        hub.repos[REPO] = Repository()
        commit = hub.repos[REPO].commit({path.name: path.read_bytes() for path in bundled.iterdir()})
        terminal, stderr = os.openpty()
        fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        command = [sys.executable, "-m", "oasisvq", "pull", REPO]
        here = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        told = subprocess.run(
            command, cwd=SOURCE, env=os.environ | here, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        shown = os.read(terminal, 2**16).decode()
    assert told.returncode == 0, shown
    assert commit in told.stdout
    assert shown.count("100%") >= 2, "a bar for each of the models"
    assert verify(tmp_path / "home" / "hub" / "models--lab--brains" / "snapshots" / commit)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("publish", REPO, "--space"), "a Space is published from a clone"),
        (("publish", REPO, "--space", "--weights", "base"), "leave out --weights"),
        (("publish", "brains"), "not a Hub id"),
        (("verify", "nowhere"), "not bundled: base"),
    ],
)
def test_what_cannot_be_published_or_verified_is_one_line(words, told, bundled, capsys):
    assert run(*words) == 2
    assert told in capsys.readouterr().err


def test_verify_measures_again_and_says_what_does_not_agree(tiny_cohort, tmp_path, capsys):
    folder = write_weights(tmp_path / "weights")
    assert run("evaluate", "--weights", folder, "--data", tiny_cohort, "--json", folder / "results.json") == 0
    write_manifest(folder, TINY, DATA, TRAINING)
    assert run("verify", folder, "--data", tiny_cohort) == 0
    assert "figures agree within 0.002" in capsys.readouterr().out
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"ssim_mean": 0.99}))
    write_manifest(folder, TINY, DATA, TRAINING)
    assert run("verify", folder) == 0, "whole and unchanged since it was packaged"
    assert run("verify", folder, "--data", tiny_cohort) == 2
    assert "ssim_mean 0.99 is now" in capsys.readouterr().err


def test_a_note_tells_why_other_weights_are_in_use(bundled, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OASISVQ_HUB_REPO", REPO)
    assert run("sample", "--count", 1, "--out", tmp_path / "draws") == 0
    assert "note: http://127.0.0.1:9 failed" in capsys.readouterr().err


def test_half_trained_models_get_no_manifest(tiny_cohort, tmp_path, monkeypatch, capsys):
    preset = replace(TINY, vqvae_batch=16, prior_batch=16, vqvae_epochs=1, prior_epochs=1)
    monkeypatch.setitem(PRESETS, "tiny", preset)
    out = tmp_path / "out"
    words = ("--data", tiny_cohort, "--out", out, "--preset", "tiny", "--precision", "fp32")
    assert run("train", "vqvae", *words) == 0
    state = out / "state" / "vqvae.safetensors"
    with safe_open(state, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(state), state, metadata | {"history": "[]"})
    assert run("train", "prior", *words) == 2
    assert "vqvae has 0 of 1 epochs" in capsys.readouterr().err
    assert not (out / "prior.safetensors").exists()  # said before hours were spent
    assert not (out / "manifest.json").exists()
    state.write_bytes(b"cut")
    assert run("train", "prior", *words) == 2
    assert "is damaged: delete it and train again" in capsys.readouterr().err


def test_reconstruct_never_overwrites_the_original(bundled, pictures, tmp_path, capsys):
    original = tmp_path / "slice.png"
    original.write_bytes(pictures[0].read_bytes())
    assert run("reconstruct", original, "--out", tmp_path) == 2
    assert "overwrite" in capsys.readouterr().err
    assert original.read_bytes() == pictures[0].read_bytes()


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A head, and a map of its tissues, as NIfTI files."""
    folder = tmp_path_factory.mktemp("scans")
    voxels, affine = head()
    nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / "head.nii.gz")
    nibabel.save(nibabel.Nifti1Image(1.0 * (voxels > 0.1) + (voxels > 0.5), affine), folder / "labels.nii.gz")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("upright")
def test_align_writes_levels_and_goes_on_after_a_refusal(scans, tmp_path, capsys):
    files, out, figures = (scans / "labels.nii.gz", scans / "head.nii.gz"), tmp_path / "out", tmp_path / "figures.json"
    assert run("align", files[0], scans / "typo.nii.gz", files[1], "--out", out, "--json", figures) == 0
    assert "labels.nii.gz" in capsys.readouterr().err
    told = json.loads(figures.read_text())
    assert (told["heads"], told["refused"]) == (1, 2)
    bad, missing, good = told["rows"]
    assert "typo.nii.gz" in missing["refused"]
    assert "label map" in bad["refused"]
    assert good["refused"] is None
    assert 1.7 < good["litres"] < 2.3
    assert good["dice"] > 0.95
    assert good["seconds"] > 0
    levels = [np.asarray(Image.open(out / "head" / f"level_{k:02d}.png")) for k in range(32)]
    assert {(level.shape, level.dtype.name) for level in levels} == {((256, 256), "uint8")}
    volume = nibabel.load(out / "head" / "aligned.nii.gz")
    np.testing.assert_allclose(np.round(volume.get_fdata()[:, ::-1, 20].T * 255), levels[20], atol=0.5)
    # The middle of the head, from the scanner to the frame by the matrix, and from the frame to its voxel.
    x, y, z, _ = np.linalg.inv(volume.affine) @ good["matrix"] @ [0, -18, 12, 1]
    assert 110 < x < 145
    assert 110 < y < 145
    assert 10 < z < 22

    unknown = nibabel.load(files[1])
    unknown.set_sform(None, 0)
    unknown.set_qform(None, 0)
    nibabel.save(unknown, tmp_path / "unknown.nii.gz")
    assert run("align", tmp_path / "unknown.nii.gz", "--out", tmp_path / "unknown") == 0
    assert "which side is left is not known" in capsys.readouterr().err
    codes = "sform_code", "qform_code"
    assert [nibabel.load(tmp_path / "unknown" / "aligned.nii.gz").header[code] for code in codes] == [0, 0]
    assert all(volume.header[code] > 0 for code in codes)

    assert run("align", files[0], "--out", tmp_path / "none", "--json", figures) == 2
    assert "label map" in json.loads(figures.read_text())["rows"][0]["refused"]
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("upright")
def test_heads_are_read_as_levels_and_their_levels_told(bundled, pictures, scans, tmp_path):
    out = tmp_path / "codes.npz"
    assert run("encode", scans / "head.nii.gz", pictures[0], "--out", out) == 0
    with np.load(out) as codes:
        assert codes["indices"].shape == (33, *TINY.grid)
        assert codes["levels"].tolist() == [*range(32), TINY.levels]
        assert codes["files"][31] == str(scans / "head.nii.gz")
    assert run("compress", scans / "labels.nii.gz", "--out", tmp_path / "small") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("upright")
@pytest.mark.parametrize("command", ["reconstruct", "compress"])
def test_a_picture_called_like_a_level_of_a_head_is_not_written_over(
    command, bundled, pictures, scans, tmp_path, capsys
):
    alike = tmp_path / "head_level_31.png"
    alike.write_bytes(pictures[0].read_bytes())
    out = tmp_path / "out"
    assert run(command, alike, scans / "head.nii.gz", "--out", out) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in (str(alike), str(scans / "head.nii.gz"), "one at a time"))


@pytest.mark.slow
@pytest.mark.usefixtures("upright")
def test_a_folder_of_dicom_files_is_one_head(brain_folder, tmp_path, capsys, monkeypatch):
    """Read, put in order and judged; it is no brain to this eye, and that is what is said."""
    monkeypatch.setattr("oasisvq.data.upload.MAX_VOLUME_BYTES", 1000)  # of a file that is uploaded
    assert run("align", brain_folder, "--out", tmp_path / "out", "--json", tmp_path / "figures.json") == 2
    [row] = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert row["litres"] == pytest.approx(1.3, abs=0.15)
    assert row["matrix"] is not None
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.fixture
def brain_folder(tmp_path):
    """A made-up brain of ellipsoids as a series of DICOM files, in a folder with something else."""
    from scans import as_bytes, dicom_series, turned
    from scans import head as ellipsoids

    folder = tmp_path / "series"
    folder.mkdir()
    volume, affine = turned(np.ascontiguousarray(ellipsoids()[:, :, ::3]), "LPS", (1, 1, 3))
    for number, one in enumerate(dicom_series(volume, affine)):
        (folder / f"IM{number}").write_bytes(as_bytes(one))
    (folder / "README").write_text("hello")
    return folder
