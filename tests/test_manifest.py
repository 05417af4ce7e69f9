"""The manifest, and what is checked against it, word by word."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from tiny_weights import DATA, RESULTS, TINY, TRAINING, write_weights
from torch import nn

from oasisvq.errors import OasisVQError
from oasisvq.hub import sources
from oasisvq.hub.manifest import MODELS, PICTURE_FOLDER, PICTURES, is_record, pictures_in, read_manifest, read_records
from oasisvq.hub.manifest import write_manifest as write
from oasisvq.hub.verification import _Unfilled, read_tensors, verify
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import Preset
from oasisvq.models.vqvae import VQVAE


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("written") / "weights")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "weights"))


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    how(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Another file, which the manifest agrees with."""
    (folder / name).write_bytes(content)
    stamp = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    change(folder, lambda manifest: manifest["files"].update({name: stamp}))


def test_the_manifest_says_what_was_told_and_stamps_every_file(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest["format"], manifest["data"], manifest["training"]) == (1, DATA, TRAINING)
    assert set(manifest["files"]) == {*MODELS, "results.json", "vqvae.jsonl"}
    for name, stamp in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert stamp == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


SAID = [("data", key) for key in DATA] + [("training", key) for key in TRAINING]


@pytest.mark.parametrize(("part", "key"), SAID)
def test_what_a_manifest_must_say_it_must_say_in_its_type(folder: Path, part: str, key: str) -> None:
    for wrong in (None, [1], 1.5):
        change(folder, lambda manifest, wrong=wrong: manifest[part].update({key: wrong}))
        with pytest.raises(OasisVQError, match=f"`{part}` does not say its {key}"):
            read_manifest(folder)
    change(folder, lambda manifest: manifest[part].pop(key))
    with pytest.raises(OasisVQError, match=f"`{part}` does not say its {key}"):
        read_manifest(folder)


@pytest.mark.parametrize("threads", [1, "2, 1"])
def test_threads_may_be_those_of_one_model_after_the_other(folder: Path, threads: int | str) -> None:
    change(folder, lambda manifest: manifest["training"].update(threads=threads))
    assert read_manifest(folder)["training"]["threads"] == threads


@pytest.mark.parametrize("key", ["preset", "data", "training", "files"])
def test_each_part_of_a_manifest_is_needed(folder: Path, key: str) -> None:
    change(folder, lambda manifest: manifest.pop(key))
    with pytest.raises(OasisVQError, match=f"`{key}` is missing"):
        read_manifest(folder)


@pytest.mark.parametrize(("text", "format"), [("{}", "None"), ("[]", "None"), ('{"format": 0}', "0")])
def test_a_manifest_of_another_format_is_refused(folder: Path, text: str, format: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(OasisVQError, match=f"its format is {format}, this oasisvq reads 1"):
        read_manifest(folder)


def test_a_folder_without_a_manifest_or_with_an_unreadable_one_is_told_apart(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(OasisVQError, match="is missing: not a folder of weights"):
        read_manifest(folder)
    (folder / "manifest.json").mkdir()
    with pytest.raises(OasisVQError, match="cannot be read"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "numbers",
    [
        {"people": {"train": 2}},
        {"slices": {"train": 64, "validate": 32}},
        {"people": {"train": 2, "test": 1.5}},
        {"slices": {"train": "64", "test": 32}},
    ],
)
def test_numbers_of_people_and_slices_are_of_the_same_splits(folder: Path, numbers: dict[str, object]) -> None:
    change(folder, lambda manifest: manifest["data"].update(numbers))
    with pytest.raises(OasisVQError, match="make no sense"):
        read_manifest(folder)


@pytest.mark.parametrize("name", MODELS)
def test_a_manifest_lists_both_models_and_nothing_unknown(folder: Path, name: str) -> None:
    stamp = read_manifest(folder)["files"][name]
    change(folder, lambda manifest: manifest["files"].update({"notes.txt": stamp}))
    with pytest.raises(OasisVQError, match=r"lists notes.txt, .* expected vqvae"):
        read_manifest(folder)
    change(folder, lambda manifest: (manifest["files"].pop("notes.txt"), manifest["files"].pop(name)))
    with pytest.raises(OasisVQError, match="expected vqvae"):
        read_manifest(folder)


def test_a_record_is_what_the_manifest_lists_and_nothing_else(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert read_records(folder, manifest)["results"]["ssim_mean"] == RESULTS["ssim_mean"]
    (folder / "rate.json").write_text("{}")
    assert read_records(folder, manifest)["rate"] is None


@pytest.mark.parametrize(
    ("name", "content", "taken"),
    [
        ("results.json", json.dumps(RESULTS).encode(), True),
        ("results.json", json.dumps(RESULTS, indent=1).encode(), True),
        ("results.json", b"{}", False),
        ("results.json", b"[]", False),
        ("results.json", b"{", False),
        ("results.json", b"[" * 100_000, False),
        ("draws.json", b"{}", True),
        ("draws.json", b"3", False),
        ("vqvae.jsonl", b'{"epoch": 1}\n{"epoch": 2}\n', True),
        ("vqvae.jsonl", b'{"epoch": 1}\n[2]\n', False),
        ("vqvae.jsonl", b'{"epoch":\n1}', False),
        *(
            ("results.json", json.dumps(RESULTS | {key: None}).encode(), False)
            for key in ("data", "split", "people", "slices")
        ),
    ],
)
def test_records_are_objects_and_results_say_of_what(folder: Path, name: str, content: bytes, taken: bool) -> None:
    assert is_record(name, content) is taken
    replace_file(folder, name, content)
    if taken:
        assert name in verify(folder)["files"]
    else:
        with pytest.raises(OasisVQError, match="not what oasisvq writes there"):
            verify(folder)


@pytest.mark.parametrize("content", [b"[]", b"{}", b"{", b'{"weights_sha256": {"vqvae.safetensors": "0"}}'])
def test_results_that_do_not_say_of_which_weights_they_are_are_never_shipped(folder: Path, content: bytes) -> None:
    (folder / "results.json").write_bytes(content)
    if b"0" in content:
        write(folder, TINY, DATA, TRAINING)
        assert "results.json" not in read_manifest(folder)["files"]
    else:
        with pytest.raises(OasisVQError, match="let it finish, or move the file away"):
            write(folder, TINY, DATA, TRAINING)


def test_pictures_of_a_card_are_those_that_are_there(folder: Path) -> None:
    assert pictures_in(folder) == []
    first, *_, last = PICTURES
    (folder / PICTURE_FOLDER).mkdir()
    for name in (first, last, "other.png"):
        (folder / PICTURE_FOLDER / name).write_bytes(b"")
    assert pictures_in(folder) == [f"figures/{first}", f"figures/{last}"]


@pytest.mark.parametrize(
    ("stamp", "words"),
    [
        ([], "the manifest says None"),
        ({}, "the manifest says None"),
        ({"bytes": 1}, "the manifest says 1"),
        ({"bytes": 10**9}, "the manifest says 1000000000"),
        (None, "its sha256 is not the manifest's"),
    ],
)
def test_a_file_has_the_size_and_the_hash_of_its_stamp(folder: Path, stamp: object, words: str) -> None:
    size = (folder / "vqvae.safetensors").stat().st_size
    change(
        folder,
        lambda manifest: manifest["files"].update(
            {"vqvae.safetensors": {"bytes": size} if stamp is None else stamp},
        ),
    )
    with pytest.raises(OasisVQError, match=words):
        verify(folder)


EXPECTED = {"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float64)}


def test_tensors_come_in_the_types_that_are_expected() -> None:
    stored = {"a": torch.arange(6.0).view(2, 3).half(), "b": torch.arange(4.0)}
    found = read_tensors(Path("file"), save(stored), EXPECTED)
    assert found.keys() == EXPECTED.keys()
    for name, tensor in found.items():
        assert tensor.dtype == EXPECTED[name].dtype
        assert torch.equal(tensor, stored[name].to(tensor.dtype))


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({}, r"lacks tensor a \(2 in all\)"),
        ({"a": torch.zeros(2, 3)}, r"lacks tensor b \(1 in all\)"),
        (EXPECTED | {"d": torch.zeros(1), "c": torch.zeros(1)}, r"has the unknown tensor c \(2 in all\)"),
        (EXPECTED | {"a": torch.zeros(3, 2)}, r"a is torch.float32 \(3, 2\), the preset asks for floats \(2, 3\)"),
        (EXPECTED | {"b": torch.zeros(4, dtype=torch.int32)}, "b is torch.int32"),
    ],
)
def test_other_tensors_than_expected_are_refused(stored: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(OasisVQError, match=words):
        read_tensors(Path("file"), save(stored), EXPECTED)


def test_parameters_are_left_unfilled_and_all_else_is_computed() -> None:
    before, tensor = torch.arange(3.0), torch.arange(3.0)
    with _Unfilled():
        assert nn.init.normal_(tensor) is tensor
        assert nn.init.uniform_(tensor, 5.0, 6.0) is tensor
        total = torch.sum(tensor, dim=0)
    assert torch.equal(tensor, before)
    assert total == 3


@pytest.mark.parametrize("folder", sorted(sources.BUNDLED.glob("*/manifest.json")), ids=lambda path: path.parent.name)
def test_weights_that_ship_have_the_shapes_of_their_preset(folder: Path) -> None:
    preset = Preset.from_dict(read_manifest(folder.parent)["preset"])
    for stage in preset.stages:
        place = folder.parent if stage.name == preset.name else folder.parent / "coarse"
        for name, model in zip(MODELS, (VQVAE(stage), PixelCNN(stage)), strict=True):
            with safe_open(place / name, "pt") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == shapes
