"""What test_device.py runs with pytest in a process of its own: everything on the pretend device as on the CPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_device import DEVICE
from tiny_weights import CASCADE, TINY, write_weights
from torch import Tensor, nn

from oasisvq import OasisVQ
from oasisvq.models.presets import Preset
from oasisvq.models.tokenizer import Tokenizer
from oasisvq.models.vqvae import VQVAE
from oasisvq.training.loop import PriorTask, VQVAETask

CROPPED = replace(CASCADE, vqvae_crop=16)


def test_the_device_refuses_to_mix() -> None:
    here, there = torch.ones(3), torch.ones(3, device=DEVICE)
    assert there.device == DEVICE
    assert torch.equal((there + there.sum().cpu()).cpu(), here * 4)
    for mix in (lambda: there + here, lambda: torch.cat([here, there]), lambda: nn.Linear(3, 1).to(DEVICE)(here)):
        with pytest.raises(RuntimeError, match="is on the CPU"):
            mix()


@pytest.fixture(scope="module", params=["base", "tiny cascade"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[OasisVQ]:
    """The same on the CPU and on the device."""
    source: str | Path = request.param
    if source != "base":
        source = write_weights(tmp_path_factory.mktemp("weights") / "cascade", preset=CASCADE)
    return [OasisVQ.from_pretrained(source, device=device) for device in ("cpu", str(DEVICE))]


def agree(models: list[OasisVQ], verb: str, *args: Any, **kwargs: Any) -> Any:
    """What both give: the same codes, and the same numbers but for the order in which they were added up."""
    found = [getattr(model, verb)(*args, **kwargs) for model in models]
    for on_cpu, on_device in zip(*(one if isinstance(one, tuple) else (one,) for one in found), strict=True):
        if on_cpu is not None:
            assert type(on_device) is Tensor, "results lie on the CPU"
            torch.testing.assert_close(on_device, on_cpu)
    return found[0]


def test_every_verb_is_that_of_the_cpu(models: list[OasisVQ]) -> None:
    preset = models[0].preset
    for model in models[1].stages:
        assert {p.device for part in (model.vqvae, model.prior) for p in part.parameters()} == {DEVICE}
    slices = torch.rand(2, 1, preset.size, preset.size) - 0.5
    coded = agree(models, "reconstruct", slices)
    agree(models, "surprise", coded.indices, level=[3, 5], grade=0.5)
    agree(models, "likely", coded.indices[:1], preset.codes - 1)
    drawn = agree(models, "sample", 1, seed=3)
    assert len(drawn.indices.unique()) > 3
    region = torch.zeros(preset.size, preset.size, dtype=torch.bool)
    region[preset.size * 3 // 4 :, preset.size // 2 :] = True
    mask = preset.cells(region)
    filled = agree(models, "refill", coded.indices[:1], mask, seed=1, proposals=4)
    assert not torch.equal(filled.indices, coded.indices[:1])
    region[preset.size // 4 :] = False
    region[: preset.size // 4] = True
    steps: list[int] = []
    given = {"given": coded.indices[0], "mask": preset.cells(region), "on_step": lambda i, *_: steps.append(i)}
    agree(models, "sample", 1, seed=3, top_k=3, **given)
    assert len(steps) == 2 * preset.cells(region).sum()


def tokenizer(preset: Preset) -> Tokenizer:
    """Untrained and frozen, with codes that show something."""
    coarse = tokenizer(preset.coarse) if preset.coarse else None
    vqvae = VQVAE(preset)
    vqvae.codebook.normal_()
    return Tokenizer(preset, vqvae, coarse).eval().requires_grad_(False)


def learn(model: str, preset: Preset, device: torch.device) -> dict[str, Tensor]:
    """Loss and gradients of a first step of training, and what the model is worth after it, on the CPU."""
    torch.manual_seed(0)
    finished = tokenizer(preset)
    task = VQVAETask(preset, finished.coarse) if model == "vqvae" else PriorTask(preset, finished)
    task.tokenizer.to(device)
    task.model.to(device).train()
    slices = torch.rand(4, 1, preset.size, preset.size) - 0.5
    level = torch.arange(4)
    batch = {"slice": slices, "brightness": torch.rand(4), "level": level, "grade": level}
    batch = {name: values.to(device) for name, values in batch.items()}
    if model == "prior":
        both = [finished.encode(x).flatten(1) for x in (batch["slice"], batch["slice"].flip(3))]
        batch["codes"] = torch.stack(both, 1)
        task.fit_ranks(torch.rand(4).numpy(), level.numpy())
    optimiser = torch.optim.AdamW(task.model.parameters(), 1e-3)
    loss = task.loss(task.model, batch, torch.Generator().manual_seed(0))
    loss.backward()
    found = {"loss": loss} | {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
    optimiser.step()
    assert all(values.device == device for values in task.model.state_dict().values())
    with torch.no_grad():
        figures = task.validate(task.model.eval(), [batch])
    return {name: values.detach().cpu() for name, values in found.items()} | {
        name: torch.tensor(value) for name, value in figures.items()
    }


@pytest.mark.parametrize("model", ["vqvae", "prior"])
@pytest.mark.parametrize("preset", [TINY, CROPPED], ids=["one stage", "cascade"])
def test_training_is_that_of_the_cpu(preset: Preset, model: str) -> None:
    on_cpu, on_device = (learn(model, preset, device) for device in (torch.device("cpu"), DEVICE))
    assert len(on_cpu) > 20
    for name, values in on_cpu.items():
        torch.testing.assert_close(
            on_device[name], values, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
