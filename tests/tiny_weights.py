"""Weights small enough to make in a test, and a Hub's client that knows nobody."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from oasisvq.hub.manifest import write_manifest
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import Preset
from oasisvq.models.vqvae import VQVAE

TINY = Preset(
    name="tiny",
    size=16,
    codebook_size=8,
    code_dim=4,
    channels=(4, 8),
    blocks=(1, 1),
    prior_channels=8,
    prior_layers=3,
    prior_heads=2,
)
CASCADE = replace(TINY, name="tiny cascade", size=24, codebook_size=6, coarse=TINY, prior_heads=0)
DATA = {
    "name": "Phantom cohort",
    "description": "Made up.",
    "people": {"train": 2, "test": 1},
    "slices": {"train": 64, "test": 32},
    "fingerprint": "f" * 64,
}
TRAINING = {
    "command": "python -m oasisvq train",
    "precision": "fp32",
    "versions": {"torch": "2"},
    "threads": 2,
    "seed": 0,
}
RESULTS = {
    "data": DATA,
    "split": "test",
    "people": 1,
    "slices": 32,
    "ssim_mean": 0.93125,
    "ssim_ci95": [0.92, 0.94],
    "nll_bits_per_code": 2.5,
}
REPO = "lab/brains"


def write_weights(folder: Path, seed: int = 0, preset: Preset = TINY) -> Path:
    """A whole folder of weights, its tensors half precision as trainings leave them."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    for stage in reversed(preset.stages):
        place = folder if stage is preset else folder / "coarse"
        place.mkdir(exist_ok=True)
        vqvae, prior = VQVAE(stage), PixelCNN(stage)
        if preset.prior_pictures:  # an empty codebook would show the prior one picture alone
            vqvae.codebook.normal_(generator=torch.Generator().manual_seed(seed))
        for model, name in ((vqvae, "vqvae"), (prior, "prior")):
            save_file({k: t.half() for k, t in model.state_dict().items()}, place / f"{name}.safetensors")
    (folder / "vqvae.jsonl").write_text('{"epoch": 1, "train_loss": 0.5}\n{"epoch": 2, "train_loss": 0.25}\n')
    models = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.safetensors")}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in models.items()}
    (folder / "results.json").write_text(json.dumps(RESULTS | {"weights_sha256": hashes}))
    write_manifest(folder, preset, DATA, TRAINING)
    return folder


def point_at(monkeypatch, url: str) -> None:
    """What HF_ENDPOINT does, for a client that is already imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def forget_the_hub(monkeypatch, tmp_path: Path) -> None:
    """No Hub, no cache, no login of whoever runs the tests."""
    for name in ("OASISVQ_HUB_REPO", "OASISVQ_HUB_REVISION", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    point_at(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
