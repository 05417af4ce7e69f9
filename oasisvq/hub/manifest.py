"""What a folder of weights holds, and the manifest that names every file of it with size and sha256.

A folder holds `vqvae.safetensors` and `prior.safetensors`, in a cascade those of the coarse stage in `coarse/`,
optionally what was measured and the two training logs, `manifest.json`, which names all of these beside the preset that
shapes them, and a model card with its pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oasisvq.errors import OasisVQError, one_line
from oasisvq.files import write_atomically
from oasisvq.models.presets import Preset

FORMAT = 1
MANIFEST = "manifest.json"
CARD = "README.md"
PICTURE_FOLDER = "figures"
MODELS = ("vqvae.safetensors", "prior.safetensors")
COARSE = tuple(f"coarse/{name}" for name in MODELS)
RESULTS = "results.json"
RATE = "rate.json"
FAILURES = "failures.json"
UNTOLD = "untold.json"  # as draws.json, of samples that are given neither level nor grade
CHOICES = ("strength.json", "top_k.json", "deviation.json")  # what was measured to choose a constant
MEASURED = (RESULTS, RATE, FAILURES, "draws.json", UNTOLD, "lesions.json", "codes.json", "heads.json", *CHOICES)
RECORDS = (*MEASURED, "vqvae.jsonl", "prior.jsonl")
PICTURES = {  # in PICTURE_FOLDER: what the card says under each
    "reconstructions.png": "Colin 27, the MNI152 template, phantom people; what the codes keep of them; the difference",
    "draws.png": "Eight draws of the prior, seed 0, temperature 1: synthetic, no real person",
    "training.png": "Loss by epoch: the VQ-VAE's, and the prior's in bits per code",
}

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


def write_manifest(folder: Path, preset: Preset, data: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    """Describe the weights in `folder`: the manifest names the models and all records of them, with size and sha256.

    Args:
        folder: holds the safetensors files of all stages, and any of RECORDS.
        preset: the shapes of both models.
        data: what the weights saw: name, description, people and slices by split, fingerprint.
        training: how to repeat them: command, precision, versions, threads, seed.

    Raises OasisVQError when a model is missing.
    """
    files = {}
    for name in (*COARSE, *MODELS) if preset.coarse else MODELS:
        path = folder / name
        if not path.is_file():
            raise OasisVQError(
                f"{path} is missing: finish `python -m oasisvq train {path.stem} --out {path.parent}` first"
            )
        files[name] = _stamp(path.read_bytes())
    _write(folder, preset, data, training, files)


def list_records(folder: Path) -> None:
    """Bring the records that a manifest lists up to date with those in the folder; its models stay what they were."""
    known = read_manifest(folder)
    models = {name: stamp for name, stamp in known["files"].items() if name not in RECORDS}
    _write(folder, Preset.from_dict(known["preset"]), known["data"], known["training"], models)


def _write(
    folder: Path, preset: Preset, data: Mapping[str, Any], training: Mapping[str, Any], models: Mapping[str, Any]
) -> None:
    """Write the manifest of models and of the records beside them.

    Results that were measured on other weights, as their own hashes tell, are left out. Where the manifest changes,
    model card and pictures made for the old one are removed.
    """
    files = dict(models)
    for name in RECORDS:
        path = folder / name
        if path.is_file():
            content = path.read_bytes()
            if name not in MEASURED or _measured(content, models, path):
                files[name] = _stamp(content)
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
        write_atomically(path, content, [folder / CARD, *(folder / name for name in pictures_in(folder))])


def _stamp(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder. Raises OasisVQError when it does not hold all that is said of weights."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise OasisVQError(
            f"{path} is missing: not a folder of weights, or `python -m oasisvq train prior` is not done"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise OasisVQError(f"{path} cannot be read ({one_line(error)}): get the weights again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        written = manifest.get("format") if isinstance(manifest, dict) else None
        raise OasisVQError(
            f"{path}: its format is {one_line(written)}, this oasisvq reads {FORMAT}: use the version that wrote it"
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
    models = (*COARSE, *MODELS) if manifest["preset"].get("coarse") else MODELS
    if not set(models) <= names <= {*models, *RECORDS}:
        listed = one_line(", ".join(sorted(names)) or "nothing")
        raise OasisVQError(f"{path}: lists {listed}: expected {', '.join(models)}")
    return manifest


def read_records(folder: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    """What was measured, by the names in MEASURED without their ending; None where the manifest lists nothing."""
    return {
        name.removesuffix(".json"): json.loads((folder / name).read_text()) if name in manifest["files"] else None
        for name in MEASURED
    }


def read_history(folder: Path, manifest: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The training logs of both models, a line an epoch; empty where the manifest lists none."""
    return {
        model: [json.loads(line) for line in (folder / f"{model}.jsonl").read_text().splitlines()]
        if f"{model}.jsonl" in manifest["files"]
        else []
        for model in ("vqvae", "prior")
    }


def is_record(name: str, content: bytes) -> bool:
    """Whether figures or a training log are what pages and cards can show."""
    try:
        rows = [json.loads(line) for line in ([content] if name in MEASURED else content.splitlines())]
    except (ValueError, RecursionError):
        return False
    if not all(isinstance(row, dict) for row in rows):
        return False
    kinds = {"data": dict, "split": str, "people": int, "slices": int} if name == RESULTS else {}
    return all(isinstance(rows[0].get(key), kind) for key, kind in kinds.items())


def pictures_in(folder: Path) -> list[str]:
    """Paths within `folder` of the pictures that its card shows."""
    return [f"{PICTURE_FOLDER}/{name}" for name in PICTURES if (folder / PICTURE_FOLDER / name).is_file()]


def _measured(results: bytes, models: Mapping[str, Any], path: Path) -> bool:
    """Whether results are those of the models."""
    try:
        hashes = json.loads(results)["weights_sha256"]
        return all(hashes[name] == stamp["sha256"] for name, stamp in models.items())
    except (ValueError, KeyError, TypeError) as error:
        raise OasisVQError(
            f"{path}: not what `evaluate` or a benchmark has written to its end: let it finish, or move the file away"
        ) from error
