"""Weights are checked before use, wherever they came from: sizes, hashes, and the tensors that the preset asks for.

A pickle is never opened: whatever is not safetensors is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor
from torch.overrides import TorchFunctionMode

from oasisvq.errors import OasisVQError, one_line
from oasisvq.hub.manifest import COARSE, MANIFEST, MODELS, RECORDS, is_record, read_manifest
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import Preset
from oasisvq.models.vqvae import VQVAE


class Loaded(NamedTuple):
    """A checked folder: the manifest, the preset, and the models (float32) of each stage, the coarse one first."""

    manifest: dict[str, Any]
    preset: Preset
    stages: list[tuple[VQVAE, PixelCNN]]


def load(folder: Path) -> Loaded:
    """Read weights, checked against their manifest: sizes, hashes, and the exact tensors that the preset asks for.

    The bytes that are hashed are the bytes that are used. Raises OasisVQError naming the first file that will not do.
    """
    manifest = read_manifest(folder)
    content = {name: _read_checked(folder / name, stamp) for name, stamp in manifest["files"].items()}
    for name in RECORDS:
        if name in content and not is_record(name, content[name]):
            raise OasisVQError(f"{folder / name}: not what oasisvq writes there: get the weights again")
    try:
        preset = Preset.from_dict(manifest["preset"])
        with torch.device("meta"), _Unfilled():
            models = [(VQVAE(stage), PixelCNN(stage)) for stage in preset.stages]
    except Exception as error:  # layers of hostile sizes raise almost anything
        raise OasisVQError(f"{folder / MANIFEST}: no model can be made of its preset ({one_line(error)})") from error
    for names, pair in zip((COARSE, MODELS)[-len(models) :], models, strict=True):
        for name, model in zip(names, pair, strict=True):
            model.load_state_dict(read_tensors(folder / name, content[name], model.state_dict()), assign=True)
    return Loaded(manifest, preset, models)


def verify(folder: Path) -> dict[str, Any]:
    """Check a folder of weights as `load` does and return its manifest. Raises OasisVQError with the reason."""
    return load(folder).manifest


class _Unfilled(TorchFunctionMode):
    """Leaves parameters unfilled: to fill those without memory, torch first imports its compiler, for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _read_checked(path: Path, stamp: Any) -> bytes:
    """The bytes of a file, of the size and hash in the manifest."""
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


def read_tensors(path: Path, content: bytes, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a safetensors file, exactly those of `expected` in name and shape, in its types."""
    try:
        state = parse_safetensors(content)
    except SafetensorError as error:
        raise OasisVQError(
            f"{path}: not a safetensors file ({one_line(error)}): refused, nothing else is opened"
        ) from error
    for words, names in (
        ("lacks", expected.keys() - state.keys()),
        ("has the unknown", state.keys() - expected.keys()),
    ):
        if names:
            raise OasisVQError(
                f"{path}: {words} tensor {one_line(min(names))} ({len(names)} in all): not of this preset"
            )
    for name, tensor in state.items():
        shape, wanted = tuple(tensor.shape), tuple(expected[name].shape)
        if shape != wanted or not tensor.is_floating_point():
            raise OasisVQError(f"{path}: {name} is {tensor.dtype} {shape}, the preset asks for floats {wanted}")
    return {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}
