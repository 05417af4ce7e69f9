"""Making the same again: under what circumstances a training ran, and whether figures agree with those on record."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from oasisvq.errors import OasisVQError
from oasisvq.hub.manifest import COARSE, MODELS, read_manifest
from oasisvq.models.presets import Preset

# Figures agree when they differ by no more than this share, or by this much where they are below one; counts by no
# more than one. On the machine and with the threads that measured they are the same to the last digit. On another
# processor float rounding moves a few codes to a neighbour as near.
TOLERANCE = 2e-3

# Under what circumstances figures were measured stands here in a record, and is none of them.
MEASURED = "measured"

# In the folder of a prior that learns from a VQ-VAE of other weights, what holds their manifest.
TAKEN = "state/vqvae"

_CIRCUMSTANCES = ("versions", "threads", "processes", "device", "code", "resumed")
_PACKAGES = ("torch", "numpy", "accelerate", "safetensors", "pillow", "pytorch-msssim")


def circumstances(processes: int = 1, device: str = "cpu") -> dict[str, Any]:
    """What besides preset, data and precision decides the bytes of a training: to be written down while it runs."""
    found = {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "threads": torch.get_num_threads(),
        "processes": processes,
        "device": torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability(),
    }
    code = commit()
    return found | ({"code": code} if code else {})


def trained(folder: Path, data: Mapping[str, Any]) -> tuple[Preset, Mapping[str, Any], dict[str, Any]]:
    """What the manifest says of two finished trainings in a folder: their preset, their data, and how to repeat them.

    `data` is what `oasisvq.data.layout.describe` says of the slices. Raises OasisVQError where a training is missing or
    unfinished, or where the two do not belong together.
    """
    found = {"vqvae": _of_finished_vqvae(folder), "prior": _checkpoint(folder, "prior")}
    presets = [Preset.from_dict(json.loads(metadata["preset"])) for metadata in found.values()]
    # The VQ-VAE may have been trained before the prior was settled on, or for another prior.
    if _of_vqvae(presets[0].to_dict()) != _of_vqvae(presets[1].to_dict()):
        raise OasisVQError(f"{folder}: VQ-VAE and prior were trained with different presets: train one of them again")
    preset = presets[1]
    saw, coarse = found["vqvae"]["saw"], folder / "coarse"
    if saw.split()[0] != data["fingerprint"] or found["prior"]["saw"] != f"{saw} {_sha256(folder / MODELS[0])}":
        raise OasisVQError(f"{folder}: the prior learned the codes of another VQ-VAE, or other data: train it again")
    if preset.coarse:
        if saw.split()[1:] != [_sha256(coarse / MODELS[0])]:
            raise OasisVQError(f"{coarse}: not the stage that {folder} was trained on: put that one back")
        stated = read_manifest(coarse)["files"]
        if any(_sha256(coarse / name) != stated[name]["sha256"] for name in MODELS):
            raise OasisVQError(f"{coarse}: VQ-VAE or prior is not the one of its manifest: train its prior again")
    runs = {  # a run that was begun before circumstances were written down is taken to share those of this process
        model: {"precision": metadata["precision"], **(json.loads(metadata.get("made", "null")) or circumstances())}
        | ({"start": metadata["start"]} if metadata.get("start") else {})
        for model, metadata in found.items()
    }
    return preset, data, instructions(preset, runs)


def check_vqvae(folder: Path, preset: Preset, data: Mapping[str, Any]) -> None:
    """Raises OasisVQError where the VQ-VAE in a folder is no ground for this training of a prior, which takes hours.

    `data` is as for `trained`.
    """
    found = _of_finished_vqvae(folder)
    if _of_vqvae(json.loads(found["preset"])) != _of_vqvae(preset.to_dict()):
        raise OasisVQError(f"{folder}: its VQ-VAE was not made by preset {preset.name}: take that of another folder")
    fingerprint, *coarse = found["saw"].split()
    if fingerprint != data["fingerprint"]:
        raise OasisVQError(f"{folder}: its VQ-VAE learned from other slices: give these, or train a VQ-VAE of your own")
    if coarse and coarse != [_sha256(folder / COARSE[0])]:
        raise OasisVQError(f"{folder / 'coarse'}: not the stage that its VQ-VAE was trained on: put that one back")


def _of_finished_vqvae(folder: Path) -> dict[str, str]:
    """What the checkpoint of the VQ-VAE says, or would say if it was taken finished."""
    return _taken(folder) if (folder / TAKEN).is_dir() else _checkpoint(folder, "vqvae")


def _checkpoint(folder: Path, model: str) -> dict[str, str]:
    """What the checkpoint of a finished training says."""
    path = folder / "state" / f"{model}.safetensors"
    if not path.is_file():
        raise OasisVQError(f"{path} is missing: train both models with --out {folder} first")
    try:
        with safe_open(path, "np") as file:
            metadata: dict[str, str] = file.metadata()
    except SafetensorError as error:
        raise OasisVQError(f"{path} is damaged: delete it and train again ({error})") from error
    done = len(json.loads(metadata["history"]))
    wanted = getattr(Preset.from_dict(json.loads(metadata["preset"])), f"{model}_epochs")
    if done < wanted:
        raise OasisVQError(f"{folder}: {model} has {done} of {wanted} epochs: finish its training first")
    return metadata


def _of_vqvae(preset: Mapping[str, Any]) -> dict[str, Any]:
    """What of a preset decides its VQ-VAE."""
    return {
        key: _of_vqvae(value) if isinstance(value, Mapping) else value
        for key, value in preset.items()
        if key != "name" and not key.startswith("prior_")
    }


def _taken(folder: Path) -> dict[str, str]:
    """What the checkpoint of a VQ-VAE that was taken finished would say, from the manifest that came with it."""
    manifest = read_manifest(folder / TAKEN)
    if manifest["files"][MODELS[0]]["sha256"] != _sha256(folder / MODELS[0]):
        raise OasisVQError(f"{folder / MODELS[0]}: not the one of {folder / TAKEN}: take it again")
    preset, training = Preset.from_dict(manifest["preset"]), manifest["training"]
    coarse = [manifest["files"][COARSE[0]]["sha256"]] if preset.coarse else []
    # Where VQ-VAE and prior differ, a manifest says both, the VQ-VAE's first.
    own = {key: value.split(", ")[0] if isinstance(value, str) else value for key, value in training.items()}
    own |= {key: int(own[key]) for key in ("threads", "processes") if key in own}
    if not own.get("resumed", "vqvae").startswith("vqvae"):  # of the prior that came with it
        del own["resumed"]
    start = {"start": own["start"]} if "--start" in training["command"].split(" && ")[0] else {}
    return start | {
        "preset": json.dumps(preset.to_dict()),
        "saw": " ".join([manifest["data"]["fingerprint"], *coarse]),
        "history": json.dumps([None] * preset.vqvae_epochs),
        "precision": own["precision"],
        "made": json.dumps({key: own[key] for key in _CIRCUMSTANCES if key in own}),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def instructions(preset: Preset, runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`training` of a manifest: seed, circumstances, and the command that makes the same weights where they hold again.

    `runs` has, for each model in the order of training, its `precision` and its `circumstances`, and as `start` the
    sha256 of the weights that it began with, if it did.
    """
    commands = []
    for model, run in runs.items():
        count = run["processes"]
        start = "python" if count == 1 else f"accelerate launch --multi_gpu --num_processes {count}"
        commands.append(
            f"OMP_NUM_THREADS={run['threads']} {start} -m oasisvq train {model} --data DATA --out OUT "
            f"--preset {preset.name} --precision {run['precision']}{' --start START' if 'start' in run else ''}"
        )
    together: dict[str, Any] = {}
    for key in dict.fromkeys(key for run in runs.values() for key in run):
        values = [run[key] for run in runs.values() if key in run]
        # Where the two differ the command says what was what; versions are those of the later one.
        same = all(value == values[-1] for value in values) or isinstance(values[-1], Mapping)
        together[key] = values[-1] if same else ", ".join(map(str, values))
    return {"command": " && ".join(commands), "seed": preset.seed, **together}


def compare(stated: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, float]:
    """Hold figures of `oasisvq.measure.evaluation.evaluate` against those on record.

    Returns how many there are and the largest difference, as a share of what is allowed. Raises OasisVQError naming
    what differs by more, or is not of the same slices.
    """
    if stated["data"]["fingerprint"] != fresh["data"]["fingerprint"]:
        raise OasisVQError(f"not the slices that were measured: those were {stated['data']['name']}: give their folder")
    again = dict(_leaves(fresh))
    shares = {}
    stated = {name: value for name, value in stated.items() if name != MEASURED}
    for name, value in _leaves(stated):
        if name not in again:
            raise OasisVQError(f"{name} is on record but is not measured any more: evaluate these weights again")
        allowed = 1.0 if isinstance(value, int) else TOLERANCE * max(1.0, abs(value))
        difference = abs(value - again[name])
        # Not a number agrees with itself: there is nothing to measure in either.
        shares[name] = 0.0 if math.isnan(value) and math.isnan(again[name]) else difference / allowed
    off = [name for name, share in shares.items() if not share <= 1]
    if off:
        shown = ", ".join(f"{name} {dict(_leaves(stated))[name]:.6g} is now {again[name]:.6g}" for name in off[:3])
        raise OasisVQError(f"{len(off)} of {len(shares)} figures differ by more than {TOLERANCE:g}: {shown}")
    return {"figures": len(shares), "largest_difference": max(shares.values(), default=0.0)}


def _leaves(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested figures by their path."""
    for key, value in figures.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        elif isinstance(value, list):
            yield from _leaves({str(i): item for i, item in enumerate(value)}, f"{name}.")
        elif isinstance(value, int | float):
            yield name, value


def commit() -> str | None:
    """The commit of the clone that this code runs in, marked when files differ from it; None outside a clone."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
