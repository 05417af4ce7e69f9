"""One training loop for both models: a task holds what differs between them.

Accelerate runs the loop on one processor, one GPU or many (`accelerate launch -m oasisvq train ...`). The order of data
and the augmentation follow from seed and epoch alone, so a run that was killed and resumed makes the same weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from numpy.typing import NDArray
from pytorch_msssim import ssim
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from tqdm import tqdm

from oasisvq.data.layout import SliceSet, describe, load_split
from oasisvq.data.slices import FOREGROUND
from oasisvq.errors import OasisVQError
from oasisvq.files import write_atomically
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import Preset
from oasisvq.models.tokenizer import Tokenizer
from oasisvq.models.vqvae import VQVAE
from oasisvq.training.codes import encode_split
from oasisvq.training.reproducibility import circumstances

COMPARED = ("precision", "threads", "processes", "device", "code")  # circumstances that a resumed run should keep
SHIFT = 3  # pixels: the widest that leaves every head inside the picture
GAIN = 0.08  # relative change of intensity
CONDITION_DROPOUT = 0.1  # share of training slices whose level, or grade, is hidden from the prior
APPEARANCE_DROPOUT = 0.3  # share whose appearance is hidden: slices are scored without it
NEIGHBOURS = (0.4, 0.2, 0.2, 0.2)  # shares that are shown no neighbours, those below, those above, both
NEAREST_ALONE = 0.25  # share that is shown the nearest neighbour of a side, and none behind it
VALIDATED = 4  # every fourth validation slice picks the epoch: those between are nearly copies

Batch = Mapping[str, Tensor]
Figures = dict[str, float]


def mirror(slices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrors half of the slices, at random: (B, 1, S, S) -> the same, and which are mirrored, (B,) bool."""
    chosen = (torch.rand(len(slices), generator=generator) < 0.5).to(slices.device)
    return torch.where(chosen[:, None, None, None], slices.flip(3), slices), chosen


def augment(slices: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors, shifts by whole pixels and scales each slice at random: (B, 1, S, S) in [-0.5, 0.5], same out.

    Whole pixels, because interpolation would teach the models its blur.
    """
    b, _, size, _ = slices.shape
    slices, _ = mirror(slices, generator)
    shifts = torch.randint(0, 2 * SHIFT + 1, (b, 2), generator=generator)
    gains = 1 + GAIN * (2 * torch.rand(b, generator=generator) - 1)
    padded = F.pad(slices, (SHIFT,) * 4, value=-0.5)
    moved = torch.stack([p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, shifts.tolist(), strict=True)])
    return ((moved + 0.5) * gains.to(slices.device)[:, None, None, None]).clamp(0, 1) - 0.5


class Shuffle(Sampler[int]):
    """Numbers below `count`, each once, in torch's random order for this seed and epoch.

    Kept as a tensor, 8 bytes a number: samplers of torch and Accelerate make a list of them, of 44.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        for part in torch.randperm(self.count, generator=generator).split(4096):
            yield from part.tolist()


class Task(Protocol):
    """A model and how it learns: the loss of a batch, and its figures on the validation people."""

    name: str
    model: nn.Module
    tokenizer: Tokenizer
    epochs: int
    batch: int
    rate: float
    criterion: str  # the validation figure that picks the epoch to keep, lower is better

    def examples(self, slices: SliceSet, split: str, folder: Path, stamp: str) -> Dataset[Any]: ...

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor: ...

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> Figures: ...


class VQVAETask:
    """The VQ-VAE's loss: L1 with more weight on the brain, 1 - SSIM, and the commitment loss."""

    name = "vqvae"
    criterion = "val_loss"

    def __init__(self, preset: Preset, coarse: Tokenizer | None = None) -> None:
        self.preset = preset
        self.model: nn.Module = VQVAE(preset)
        self.tokenizer = Tokenizer(preset, self.model, coarse)
        self.epochs, self.batch, self.rate = preset.vqvae_epochs, preset.vqvae_batch, preset.vqvae_rate

    def examples(self, slices: SliceSet, split: str, folder: Path, stamp: str) -> Dataset[Any]:
        """The slices themselves: they are augmented anew at every step."""
        return slices

    def picture(self, slices: Tensor) -> Tensor | None:
        """The coarse stage's reconstruction of slices, if there is such a stage: (B, 1, S, S) -> the same."""
        with torch.no_grad():
            return self.tokenizer.picture_of(slices)

    def crop(self, slices: Tensor, picture: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """A random square of each slice and its picture, at the borders of cells and about the middle."""
        size, cell = self.preset.vqvae_crop, self.preset.cell
        margin = (self.preset.size - size) // (4 * cell)  # cells
        corners = torch.randint(margin, 3 * margin + 1, (len(slices), 2), generator=generator) * cell
        cut = [(slice(None), slice(y, y + size), slice(x, x + size)) for y, x in corners.tolist()]
        both = [slices, picture] if picture is not None else [slices]
        cropped = [torch.stack([one[c] for one, c in zip(x, cut, strict=True)]) for x in both]
        return cropped[0], cropped[1] if picture is not None else None

    def reconstruction_loss(self, slices: Tensor, output: Tensor) -> Tensor:
        weight = 1 + (self.preset.foreground_weight - 1) * (slices > FOREGROUND - 0.5)
        l1 = ((output - slices).abs() * weight).sum() / weight.sum()
        # Clipped as a picture is: SSIM is sensitive to a background a hundredth off black, which nobody would see.
        similarity = ssim(output.clamp(-0.5, 0.5) + 0.5, slices + 0.5, data_range=1.0, win_sigma=1.5)
        return l1 + self.preset.ssim_weight * (1 - similarity)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        slices = augment(batch["slice"], generator)
        picture = self.picture(slices)
        if self.preset.vqvae_crop:
            slices, picture = self.crop(slices, picture, generator)
        output, quantised = model(slices, picture)
        with torch.autocast(slices.device.type, enabled=False):
            loss = self.reconstruction_loss(slices, output)
        return loss + self.preset.commitment_weight * quantised.commitment

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> Figures:
        losses, similarities, used = [], [], []
        for batch in batches:
            output, quantised = model(batch["slice"], self.picture(batch["slice"]))
            losses.append(self.reconstruction_loss(batch["slice"], output))
            similarities.append(
                ssim(output.clamp(-0.5, 0.5) + 0.5, batch["slice"] + 0.5, data_range=1.0, win_sigma=1.5)
            )
            used.append(quantised.indices.flatten())
        share = torch.bincount(torch.cat(used), minlength=self.preset.codebook_size).cpu().double()
        share /= share.sum()
        return {
            "val_loss": torch.stack(losses).mean().item(),
            "val_ssim": torch.stack(similarities).mean().item(),
            "val_perplexity": torch.special.entr(share).sum().exp().item(),
            "val_utilisation": (share > 0).double().mean().item(),
        }


class PriorTask:
    """The prior's loss: cross-entropy of the codes that a finished VQ-VAE gives to slices, half of them mirrored.

    Conditions are level, grade and appearance, each sometimes hidden, and of the neighbouring slices none, one or both.
    Slices are augmented in no other way: a prior that learns from shifted slices samples shifted slices. The prior
    begins with what the codebook knows, see `begin_with_codebook`.
    """

    name = "prior"
    criterion = "val_nll_bits"

    def __init__(self, preset: Preset, tokenizer: Tokenizer) -> None:
        self.preset, self.tokenizer = preset, tokenizer
        prior = PixelCNN(preset)
        begin_with_codebook(prior, tokenizer.vqvae.codebook)
        self.model: nn.Module = prior
        self.epochs, self.batch, self.rate = preset.prior_epochs, preset.prior_batch, preset.prior_rate
        self.thresholds = torch.zeros(preset.levels, 0)

    def examples(self, slices: SliceSet, split: str, folder: Path, stamp: str) -> Dataset[Any]:
        """The codes of the slices, and with those of the training people the ranks of brightness."""
        device = next(self.tokenizer.parameters()).device
        codes = encode_split(self.tokenizer, slices, folder, split, stamp, device)
        if split == "train":
            self.fit_ranks(codes.records["brightness"], codes.records["level"])
        return codes

    def fit_ranks(self, brightness: NDArray[np.float32], levels: NDArray[np.int16]) -> None:
        """Sets the thresholds of brightness between ranks, (levels, ranks - 1): quantiles of each level's slices."""
        shares = np.arange(1, self.preset.prior_ranks) / max(1, self.preset.prior_ranks)
        own = [brightness[levels == level] for level in range(self.preset.levels)]
        # A level without slices takes the quantiles of all.
        thresholds = [np.quantile(values if len(values) else brightness, shares) for values in own]
        self.thresholds = torch.tensor(np.stack(thresholds), dtype=torch.float32)

    def appearance(self, batch: Batch, mirrored: Tensor, generator: torch.Generator) -> Tensor | None:
        """The appearance of each slice, (B,), as `PixelCNN.forward` takes it; at random, some are unknown."""
        ranks = self.preset.prior_ranks
        if not ranks:
            return None
        thresholds = self.thresholds.to(mirrored.device)[batch["level"]]  # (B, ranks - 1)
        rank = torch.searchsorted(thresholds, batch["brightness"][:, None])[:, 0]
        hidden = torch.rand(len(rank), generator=generator).to(rank.device) < APPEARANCE_DROPOUT
        return (rank + ranks * mirrored).masked_fill(hidden, 2 * ranks)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        both = batch["codes"]  # (B, 2, codes): as slices lie and mirrored
        mirrored = (torch.rand(len(both), generator=generator) < 0.5).to(both.device)
        indices, picture = self.stage(torch.where(mirrored[:, None], both[:, 1], both[:, 0]))
        if self.preset.prior_neighbours:
            shown = self.shown(len(both), generator).to(both.device)
            picture = self.add_neighbours(picture, batch, mirrored, shown)
        hidden = torch.rand(2, len(both), generator=generator).to(both.device) < CONDITION_DROPOUT
        level = batch["level"].masked_fill(hidden[0], self.preset.levels)
        grade = batch["grade"].masked_fill(hidden[1], len(self.preset.grades))
        appearance = self.appearance(batch, mirrored, generator)
        return F.cross_entropy(model(indices, level, grade, appearance, picture).float(), indices)

    def stage(self, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """All codes of slices, (B, codes) -> those of this stage, (B, h, w), and the coarse stage's reconstruction."""
        *coarse, own = self.preset.split(codes)
        with torch.no_grad():
            return own, self.tokenizer.picture(*coarse)

    def shown(self, n: int, generator: torch.Generator) -> Tensor:
        """Which of the neighbours each of n slices is shown, at random: bool (n, len(near))."""
        kind = torch.multinomial(torch.tensor(NEIGHBOURS), n, replacement=True, generator=generator)
        below, above = kind % 2 == 1, kind >= 2
        far = torch.rand(n, generator=generator) >= NEAREST_ALONE
        near = self.preset.near
        return torch.stack([(below if offset < 0 else above) & (far | (abs(offset) == 1)) for offset in near], 1)

    def add_neighbours(self, picture: Tensor | None, batch: Batch, mirrored: Tensor, shown: Tensor) -> Tensor:
        """The coarse picture, if any, and the decoded slices of the neighbouring levels: (B, P, S, S).

        Args:
            mirrored: (B,) bool, whose mirror images are wanted.
            shown: (B, len(near)) bool, the neighbours that are wanted; the others, and those that no one has, are 0.
        """
        shown = shown & batch["beside"]
        near, size = len(self.preset.near), self.preset.size
        orientation = mirrored.long()[:, None, None, None].expand(-1, near, 1, self.preset.codes)
        codes = batch["neighbours"].gather(2, orientation)[:, :, 0]  # (B, near, codes)
        slices = torch.zeros(len(shown), near, size, size, device=shown.device)
        if shown.any():
            with torch.no_grad():
                decoded = self.tokenizer.decode(codes[shown].unflatten(1, self.preset.shape))  # (shown, 1, S, S)
            slices[shown] = decoded[:, 0].float()
        return slices if picture is None else torch.cat([picture, slices], 1)

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> Figures:
        """Bits a code with no neighbour known, and where the prior can be given them, with the slices below, if any."""
        losses: dict[str, list[Tensor]] = {"val_nll_bits": []}
        for batch in batches:
            indices, picture = self.stage(batch["codes"][:, 0])
            pictures = {"val_nll_bits": picture}
            if self.preset.prior_neighbours:
                mirrored = torch.zeros_like(batch["level"], dtype=torch.bool)
                below = torch.tensor([offset < 0 for offset in self.preset.near], device=mirrored.device)
                below = below.expand(len(mirrored), -1)
                pictures["val_nll_bits_below_known"] = self.add_neighbours(picture, batch, mirrored, below)
            for name, given in pictures.items():
                logits = model(indices, batch["level"], batch["grade"], picture=given)
                losses.setdefault(name, []).append(F.cross_entropy(logits, indices))
        return {name: torch.stack(own).mean().item() / math.log(2) for name, own in losses.items()}


def mixed_precision(wanted: str) -> str:
    """ "fp32", "bf16" or "auto" -> Accelerate's name for it. Auto is bf16 where the hardware multiplies in it."""
    if wanted == "auto":
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if torch.cuda.is_available()
            else torch.cpu.get_capabilities().get("avx512_bf16", False)
        )
        wanted = "bf16" if native else "fp32"
    return {"fp32": "no", "bf16": "bf16"}[wanted]


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first twentieth, then a cosine to zero (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the tensors of a model, matrices in half precision (the codebook stays whole), to a safetensors file."""
    state = {
        name: (t.half() if t.is_floating_point() and not name.startswith("quantiser") else t).contiguous()
        for name, t in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(state))


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model from `save_weights`. Raises OasisVQError when the file is missing or belongs to another preset."""
    if not path.is_file():
        raise OasisVQError(f"{path} is missing: train that model first")
    tensors = _read_tensors(path)
    try:
        model.load_state_dict({name: t.float() for name, t in tensors.items()})
    except RuntimeError as error:
        raise OasisVQError(f"{path} does not fit this preset: use the preset it was trained with") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise OasisVQError(f"{path} is damaged or no file of weights ({error}): get or train it again") from error


def start_from(model: nn.Module, path: Path) -> None:
    """Fill a model from the weights of one like it. Pictures that only this one can be given do not count at first.

    Raises OasisVQError when the file is missing, or its model is of other sizes or is given other neighbours.
    """
    if not path.is_file():
        raise OasisVQError(f"{path} is missing: start from a folder of weights")
    wanted, found = model.state_dict(), _read_tensors(path)
    for name, tensor in found.items():
        if name in wanted and tensor.ndim == 4 and tensor.shape[0] == wanted[name].shape[0]:
            more = wanted[name].shape[1] - tensor.shape[1]
            # Pictures of neighbours that both are given would change places.
            if (
                more > 0
                and isinstance(model, PixelCNN)
                and more * model.pictures < len(model.near) * wanted[name].shape[1]
            ):
                raise OasisVQError(f"{path} is given other neighbours: start from a prior with the same, or with none")
            found[name] = F.pad(tensor, (0, 0, 0, 0, 0, max(0, more)))
    try:
        model.load_state_dict({name: t.float() for name, t in found.items()})
    except RuntimeError as error:
        raise OasisVQError(
            f"{path} is of other sizes than this preset, or is given no pictures where this is: start from a like one"
        ) from error


@torch.no_grad()
def begin_with_codebook(prior: PixelCNN, codebook: Tensor) -> None:
    """Let codes that are close in the codebook begin alike in a prior, on the way in and on the way out.

    Half of the variance of each code's embedding, and of the weights of its logit, becomes a random projection of its
    entry in the codebook, (K, D), each dimension scaled to unit variance. From random numbers alone the prior would
    have to learn from few slices which codes mean nearly the same: it needs several epochs more, and knows less of
    unseen slices in the end.
    """
    entries = (codebook - codebook.mean(0)) / codebook.std(0).clamp_min(1e-6)  # zero of a codebook that is not trained
    entries = entries.repeat(prior.depth, 1) / codebook.shape[1] ** 0.5  # (L K, D)
    last = cast(nn.Conv2d, prior.head[-1])
    for weight in (prior.embedding.weight, last.weight):
        projection = torch.randn(codebook.shape[1], weight.shape[1], device=weight.device)
        projected = (entries @ projection * weight.std()).view_as(weight)
        weight.add_(projected).mul_(0.5**0.5)


class Checkpoint:
    """Everything a killed run needs to go on, in one safetensors file: weights, optimiser, history."""

    def __init__(self, path: Path, preset: Preset, saw: str, start: str, precision: str, made: dict[str, Any]) -> None:
        self.path = path
        self.identity = {"preset": json.dumps(preset.to_dict()), "saw": saw, "start": start}
        self.precision, self.made = precision, dict(made)

    def save(self, model: nn.Module, optimiser: torch.optim.Optimizer, history: list[dict[str, Any]]) -> None:
        tensors = {f"model.{name}": t.contiguous() for name, t in model.state_dict().items()}
        for i, values in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": t.contiguous() for name, t in values.items()}
        metadata = self.identity | {
            "precision": self.precision,
            "made": json.dumps(self.made),
            "history": json.dumps(history),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, save(tensors, metadata))

    def load(self, model: nn.Module, optimiser: torch.optim.Optimizer, epochs: int) -> list[dict[str, Any]]:
        """Fill model and optimiser and return the history; an empty one when there is nothing to resume.

        Where some of the epochs are left and circumstances are no longer those of the ones before, this is said, and
        written down with what `save` writes.
        """
        if not self.path.is_file():
            return []
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata()
        except SafetensorError as error:
            raise OasisVQError(f"{self.path} is damaged ({error}): delete it, and the training begins again") from error
        preset = Preset.from_dict(json.loads(metadata["preset"]))  # an older one may lack fields
        found = {"preset": json.dumps(preset.to_dict()), "saw": metadata["saw"], "start": metadata.get("start", "")}
        differ = ("preset", "another preset"), ("saw", "other data, or on another VQ-VAE"), ("start", "another --start")
        for key, what in differ:
            if found[key] != self.identity[key]:
                raise OasisVQError(f"{self.path} belongs to a run of {what}: choose another --out or delete it")
        state: dict[int, dict[str, Tensor]] = {}
        weights = {}
        for name, tensor in load_file(self.path).items():
            kind, rest = name.split(".", 1)
            if kind == "model":
                weights[rest] = tensor
            else:
                i, value = rest.split(".")
                state.setdefault(int(i), {})[value] = tensor
        model.load_state_dict(weights)
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        history = json.loads(metadata["history"])
        before = {"precision": metadata["precision"], **json.loads(metadata.get("made", "{}"))}
        now = {"precision": self.precision, **self.made}
        other = [key for key in COMPARED if key in before and before[key] != now.get(key)]
        words = [before["resumed"]] if "resumed" in before else []
        if other and len(history) < epochs:
            until = " and ".join(f"{key} {before[key]}" for key in other)
            words.append(f"{self.path.stem} after epoch {len(history)} (until then {until})")
            if os.environ.get("RANK", "0") == "0":
                tqdm.write(f"note: resumed {words[-1]}: no single command makes the same bytes again", sys.stderr)
        if words:
            self.made["resumed"] = "; ".join(words)
        return history


def fit(task: Task, preset: Preset, data: Path, saw: str, out: Path, precision: str, start: Path | None = None) -> Path:
    """Train to the end of the schedule, going on from the checkpoint in `out` if there is one.

    `saw` is the fingerprint of what is learned from: a checkpoint of a run on anything else is refused. `start` is a
    folder of weights to begin with, instead of random ones.

    After each epoch writes `out/NAME.safetensors` (when the validation figure is the best yet), `out/NAME.jsonl` (a
    line an epoch) and the checkpoint. Returns the path of the weights.
    """
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else processes without a GPU would each train alone
        mixed_precision=mixed_precision(precision),
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    model = task.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), task.rate, weight_decay=preset.weight_decay)
    made = circumstances(accelerator.num_processes, accelerator.device.type)
    began = ""
    if start:
        path = start / f"{task.name}.safetensors"
        if start.resolve() == out.resolve():
            raise OasisVQError(f"{path} would be written over: choose another --out")
        start_from(model, path)
        began = hashlib.sha256(path.read_bytes()).hexdigest()
    used = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    checkpoint = Checkpoint(out / "state" / f"{task.name}.safetensors", preset, saw, began, used, made)
    weights = out / f"{task.name}.safetensors"
    history = checkpoint.load(model, optimiser, task.epochs)
    if task.batch % accelerator.num_processes:
        raise OasisVQError(f"a batch of {task.batch} does not divide by {accelerator.num_processes} processes")
    task.tokenizer.to(accelerator.device)
    stamp = hashlib.sha256(saw.encode()).hexdigest()
    slices = {s: load_split(data, s, preset.size, preset.levels, preset.grades) for s in ("train", "validate")}
    train, validate = (task.examples(some, split, out / "state", stamp) for split, some in slices.items())
    count = len(slices["train"])
    loader = DataLoader(train, task.batch, sampler=Shuffle(count, preset.seed), drop_last=True)
    if not len(loader):
        raise OasisVQError(f"{count} training slices do not fill one batch of {task.batch}: give more people")
    model, optimiser, loader = accelerator.prepare(model, optimiser, loader)
    # The loop enters autocast itself, so that validation, which picks the epoch to keep, runs in full precision.
    raw = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    held_out = DataLoader(Subset(validate, range(0, len(slices["validate"]), VALIDATED)), task.batch)
    steps = task.epochs * len(loader)
    for epoch in range(len(history), task.epochs):
        started = time.monotonic()
        # Dropout and augmentation differ between processes, and are those of this epoch however often it is begun.
        set_seed(preset.seed + 1000 * epoch, device_specific=True)
        generator = torch.Generator().manual_seed(torch.initial_seed())
        loader.set_epoch(epoch)
        model.train()
        total = 0.0
        bar = tqdm(loader, f"{task.name} {epoch + 1}/{task.epochs}", disable=not accelerator.is_main_process or None)
        for i, batch in enumerate(bar):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(epoch * len(loader) + i, steps, task.rate)
            with accelerator.autocast():
                loss = task.loss(model, batch, generator)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            total += loss.item()
            bar.set_postfix(loss=f"{loss.item():.4f}")
        model.eval()
        with torch.inference_mode():
            on_device = ({k: v.to(accelerator.device) for k, v in batch.items()} for batch in held_out)
            figures = task.validate(raw, on_device)
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * len(loader),
            "seconds": round(time.monotonic() - started, 1),
            "train_loss": total / len(loader),
            "lr": optimiser.param_groups[0]["lr"],
            **figures,
        }
        history.append(line)
        if accelerator.is_main_process:
            shown = "  ".join(f"{k} {line[k]:.4f}" for k in ("train_loss", *figures))
            tqdm.write(f"{task.name} {epoch + 1}/{task.epochs}  {shown}  {line['seconds']:.0f} s")
            if figures[task.criterion] == min(h[task.criterion] for h in history):
                save_weights(raw, weights)
            lines = "".join(json.dumps(h) + "\n" for h in history)
            write_atomically(out / f"{task.name}.jsonl", lines.encode())
            checkpoint.save(raw, optimiser, history)
        accelerator.wait_for_everyone()
    return weights


def train_vqvae(preset: Preset, data: Path, out: Path, precision: str = "auto", start: Path | None = None) -> Path:
    """Train the VQ-VAE on the training people of `data`; see `fit` for `start` and what is written to `out`.

    A cascade's coarse stage must be finished, in `out/coarse`.
    """
    set_seed(preset.seed)
    saw = describe(data)["fingerprint"]
    coarse = None
    if preset.coarse:
        coarse, sha256 = finished(preset.coarse, out / "coarse")
        saw = f"{saw} {sha256}"
    return fit(VQVAETask(preset, coarse), preset, data, saw, out, precision, start)


def train_prior(preset: Preset, data: Path, out: Path, precision: str = "auto", start: Path | None = None) -> Path:
    """Train the PixelCNN on the codes that `out/vqvae.safetensors` gives to the training people of `data`."""
    tokenizer, sha256 = finished(preset, out)
    set_seed(preset.seed)
    saw = f"{describe(data)['fingerprint']} {sha256}"
    return fit(PriorTask(preset, tokenizer), preset, data, saw, out, precision, start)


def finished(preset: Preset, folder: Path) -> tuple[Tokenizer, str]:
    """The trained VQ-VAE in a folder, with its coarse stage, frozen, and the sha256 of their weights."""
    coarse, before = finished(preset.coarse, folder / "coarse") if preset.coarse else (None, "")
    vqvae, path = VQVAE(preset), folder / "vqvae.safetensors"
    load_weights(vqvae, path)
    tokenizer = Tokenizer(preset, vqvae, coarse).eval().requires_grad_(False)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return tokenizer, f"{before} {hashlib.sha256(path.read_bytes()).hexdigest()}".strip()
