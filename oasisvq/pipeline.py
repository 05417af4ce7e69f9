"""OasisVQ: both models behind the few verbs that the app, the command line and other code use."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from oasisvq.errors import OasisVQError
from oasisvq.hub import sources
from oasisvq.hub.manifest import COARSE, MODELS
from oasisvq.models import heads, sampling
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.presets import TOP_K, Preset
from oasisvq.models.tokenizer import Tokenizer
from oasisvq.models.vqvae import VQVAE

P = ParamSpec("P")
T = TypeVar("T")
Levels = int | Sequence[int] | Tensor | None
Grades = float | Sequence[float | None] | None


class Coded(NamedTuple):
    """Codes and the slices they decode to: (B, h, w) int64 and (B, 1, S, S) float32 in [-0.5, 0.5].

    Of samples also the level of each, (B,) int64, or None where it was left to the model.
    """

    indices: Tensor
    slices: Tensor
    levels: Tensor | None = None


class Head(NamedTuple):
    """Whole heads, level by level: codes (n, L, h, w) int64 and slices (n, L, 1, S, S) float32 in [-0.5, 0.5]."""

    indices: Tensor
    slices: Tensor


def _without_gpu_if_it_is_full(method: Callable[P, T]) -> Callable[P, T]:
    """The method of a model, which goes to the CPU for good and begins again when the GPU has no memory left."""

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        model: Any = args[0]
        device = model.device
        try:
            return method(*args, **kwargs)
        except RuntimeError as error:
            # Another thread may have moved the models away under this one, which then fails in whatever way.
            if model.device == device and (device.type == "cpu" or not isinstance(error, torch.OutOfMemoryError)):
                raise
        # Out here the error is gone, and with it what its frames held in the GPU's memory.
        model.leave_gpu()
        return method(*args, **kwargs)

    return run


class OasisVQ:
    """A VQ-VAE and its prior, ready to use. Inputs may lie on any device; outputs lie on the CPU.

    Codes of slices are (B, h, w): h and w are `preset.shape`. A cascade has a coarse stage, `coarse`, a whole model of
    its own; its codes hold those of the coarse stage and then its own, and `preset.split` parts them into grids.

    When a GPU runs out of memory, both models move to the CPU and stay there: `info["notes"]` then says so.
    """

    def __init__(
        self,
        preset: Preset,
        vqvae: VQVAE,
        prior: PixelCNN,
        info: dict[str, Any],
        device: str,
        coarse: OasisVQ | None = None,
    ) -> None:
        self.preset, self.coarse = preset, coarse
        self._moving = threading.Lock()
        self.device = torch.device(device)
        self.vqvae = vqvae.eval().requires_grad_(False).to(self.device)
        self.prior = prior.eval().requires_grad_(False).to(self.device)
        self.tokenizer: Tokenizer = Tokenizer(preset, self.vqvae, coarse.tokenizer if coarse else None)
        self.info = info | {"device": self._device_name()}

    @functools.cached_property
    def exact_prior(self) -> PixelCNN:
        """The prior in double precision, on the CPU: made once. Whoever changes weights must make a new model."""
        return sampling.in_double(self.prior)

    @functools.cached_property
    def _exact_tokenizer(self) -> Tokenizer:
        return sampling.in_double(self.tokenizer)

    @property
    def stages(self) -> tuple[OasisVQ, ...]:
        """The models of a cascade, the coarse one first; of any other, itself alone."""
        return (self.coarse, self) if self.coarse else (self,)

    @property
    def weights_sha256(self) -> dict[str, str]:
        """Of the files of all models, by name: what records of measurements carry."""
        files = self.info["files"]
        return {name: files[name]["sha256"] for name in (*COARSE, *MODELS) if name in files}

    def exact_picture(self, coarse: Tensor | None = None) -> Tensor | None:
        """What the prior of a cascade is given: (B, h, w) codes of the coarse stage -> (B, 1, S, S).

        In double precision, on the CPU: in float32 it would depend a little on the batch and the processor, and draws
        and compressed files with it.
        """
        return None if coarse is None else self._exact_tokenizer.picture(coarse.cpu())

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, revision: str | None = None, device: str = "auto", wait: bool = True
    ) -> OasisVQ:
        """Load verified weights.

        Args:
            source: the name of bundled weights (`oasisvq.hub.sources.bundled`), a folder, a Hugging Face Hub
                repository, or None: as `oasisvq.hub.sources.resolve` finds them.
            revision: commit of the repository.
            device: "auto" takes a GPU where there is one; or any name that torch knows.
            wait: for the Hub, where the environment names a repository; see `oasisvq.hub.sources.resolve`.

        Raises OasisVQError when no source holds whole and genuine weights.
        """
        found = sources.resolve(source, revision, wait)
        if device == "auto":
            # LOCAL_RANK: of several processes that `accelerate launch` starts, each takes a GPU of its own.
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        info, model = sources.describe(found), None
        for preset, (vqvae, prior) in zip(found.loaded.preset.stages, found.loaded.stages, strict=True):
            model = cls(preset, vqvae, prior, info, device, coarse=model)
        assert model is not None  # every preset has a stage
        return model

    def leave_gpu(self) -> None:
        """Move both models to the CPU, unless they are there, and say why in `info["notes"]`."""
        with self._moving:
            if self.device.type == "cpu":
                return
            # Before anything moves: another thread that fails meanwhile looks here.
            was, self.device = self.info["device"], torch.device("cpu")
            if self.coarse:
                self.coarse.leave_gpu()
            self.vqvae.to(self.device)
            self.prior.to(self.device)
            torch.cuda.empty_cache()
            self.info["device"] = self._device_name()
            note = f"{was} had no memory left: computing on the processor, more slowly"
            self.info["notes"] = [*self.info["notes"], note]

    @_without_gpu_if_it_is_full
    @torch.inference_mode()
    def encode(self, slices: Tensor) -> Tensor:
        """(B, 1, S, S) in [-0.5, 0.5] -> (B, h, w) int64 in [0, K). Raises OasisVQError on another shape or range."""
        size = self.preset.size
        if slices.ndim != 4 or slices.shape[1:] != (1, size, size):
            raise OasisVQError(f"slices have shape {tuple(slices.shape)}: this model takes (B, 1, {size}, {size})")
        if not bool(torch.isfinite(slices).all()) or slices.abs().max() > 0.5 + 1e-4:
            raise OasisVQError("slices leave [-0.5, 0.5]: scale pictures to [0, 1] and subtract 0.5")
        return self.tokenizer.encode(slices.to(self.device, torch.float32)).cpu()

    @_without_gpu_if_it_is_full
    @torch.inference_mode()
    def decode(self, indices: Tensor) -> Tensor:
        """(B, h, w) int64 in [0, K) -> (B, 1, S, S) in [-0.5, 0.5]. Raises OasisVQError on another shape or range."""
        checked = self._checked(indices)
        if not len(checked):  # PixelUnshuffle takes no empty batch
            return torch.zeros(0, 1, self.preset.size, self.preset.size)
        return self.tokenizer.decode(checked).cpu()

    def reconstruct(self, slices: Tensor) -> Coded:
        """Encode and decode again: (B, 1, S, S) in [-0.5, 0.5] -> codes and reconstructions."""
        indices = self.encode(slices)
        return Coded(indices, self.decode(indices))

    @_without_gpu_if_it_is_full
    @torch.inference_mode()
    def sample(
        self,
        n: int,
        seed: int | Sequence[int] = 0,
        temperature: float = 1.0,
        top_k: int | None = TOP_K,
        level: Levels = None,
        grade: Grades = None,
        on_step: Callable[[int, Tensor, Tensor], None] | None = None,
        first: int = 0,
        given: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Coded:
        """Draw n new slices from the prior: oriented as training slices, of random brightness, or to fit given codes.

        Args:
            n: how many; draw i depends on the seed and on `first` + i alone, not on n.
            seed: of all draws; or one for each, each of which is then draw `first` of its seed.
            temperature: above 0; logits are divided by it.
            top_k: keep only the k likeliest codes at each position; None keeps all, as does a stage that has no more.
            level: 0 (lowest) to levels - 1, of all draws or of each. None draws one for each first; with given codes it
                leaves the level to the model.
            grade: clinical dementia rating, one of the preset's grades, of all draws or of each; None leaves it to the
                model.
            on_step: called after each position with (position, indices so far, entropy of that code in bits (n,)).
                Codes not drawn yet are as given, else 0.
            first: number of the first draw in the stream of this seed.
            given, mask: (h, w) int64 codes, kept exactly where the mask, (h, w) bool, is False; to complete a slice.
        """
        if level is None and given is None and n > 0:
            level = sampling.draw_levels(self.preset.levels, n, seed, first).tolist()
        settings: dict[str, Any] = {
            "seed": seed,
            "first": first,
            "temperature": temperature,
            "top_k": top_k,
            "level": self._level(level),
            "grade": [self._grade(one) for one in grade] if isinstance(grade, Sequence) else self._grade(grade),
        }
        drawn = self.draw(n, given=given, mask=mask, on_step=on_step, **settings)
        levels = None if level is None else torch.as_tensor(level).expand(n)
        return Coded(drawn.cpu(), self.decode(drawn), levels)

    @_without_gpu_if_it_is_full
    @torch.inference_mode()
    def sample_head(
        self,
        n: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        grade: float | None = None,
        first: int = 0,
        given: Mapping[int, Tensor] | None = None,
        on_level: Callable[[int, Tensor], None] | None = None,
    ) -> Head:
        """Draw n whole heads, each level given those next to it, from the middle outwards.

        Args:
            n: how many; head i depends on the seed and on `first` + i alone, not on n.
            temperature, top_k, grade: as for `sample`, but of all codes unless a top_k is given.
            first: number of the first head in the stream of this seed.
            given: codes of some levels, (h, w) int64, which all heads keep: one slice is completed to a head, a gap
                between two is filled.
            on_level: called as on_level(level, slices) when a level is drawn: (n, 1, s, s) in [-0.5, 0.5]. A cascade
                calls it for its coarse stage first, whose slices are smaller. What it raises ends the draw.

        Raises OasisVQError when the prior knows nothing of neighbours, or a setting is out of range.
        """
        if not self.stages[0].prior.near:
            raise OasisVQError(
                "this model's prior draws single slices alone: take weights that know neighbouring levels"
            )
        given = given or {}
        self._level(list(given))
        for codes in given.values():
            self.check_codes(codes[None])
        settings = {"seed": seed, "first": first, "temperature": temperature, "grade": self._grade(grade)}
        codes = self._draw_heads(n, given, top_k, on_level, settings)
        slices = torch.stack([self.decode(head) for head in codes])
        return Head(codes, slices)

    def _draw_heads(
        self,
        n: int,
        given: Mapping[int, Tensor],
        top_k: int | None,
        on_level: Callable[[int, Tensor], None] | None,
        settings: dict[str, Any],
    ) -> Tensor:
        """Codes of heads, (n, L, h, w), stage after stage."""
        parts = {level: [part[0] for part in self.preset.split(codes[None])] for level, codes in given.items()}
        coarse, picture = None, None
        if self.coarse:
            before = {level: part[0] for level, part in parts.items()}
            coarse = self.coarse._draw_heads(n, before, top_k, on_level, settings)
            picture = torch.stack([cast(Tensor, self.exact_picture(head)) for head in coarse])
        report = None
        if on_level:

            def report(level: int, own: Tensor) -> None:
                codes = own if coarse is None else self.preset.join([coarse[:, level], own])
                on_level(level, self.decode(codes))

        own = heads.sample_heads(
            self.prior,
            n,
            self.exact_decode,
            given={level: part[-1] for level, part in parts.items()},
            coarse=picture,
            on_level=report,
            top_k=top_k and min(top_k, self.preset.codebook_size),
            stage=len(self.stages) - 1,
            exact=self.exact_prior,
            **settings,
        )
        if coarse is None:
            return own
        return torch.stack([self.preset.join([a, b]) for a, b in zip(coarse, own, strict=True)])

    def exact_decode(self, own: Tensor, picture: Tensor | None = None) -> Tensor:
        """Codes of this stage, (B, h, w), and what the coarse stage shows, (B, 1, S, S), to slices, (B, 1, S, S).

        In double precision, on the CPU: what the prior is given must not depend on the batch.
        """
        return self._exact_tokenizer.vqvae.decode(own.cpu(), picture)

    def stack(self, levels: int, coarse: Tensor | None = None) -> heads.Stack:
        """An empty stack of one head; `coarse`, (L, h, w), are the codes of the coarse stage of all its levels."""
        picture = self.exact_picture(coarse)
        return heads.Stack(self.prior, 1, levels, self.exact_decode, None if picture is None else picture[None])

    @torch.inference_mode()
    def draw(
        self,
        n: int,
        *,
        given: Tensor | None = None,
        mask: Tensor | None = None,
        on_step: Callable[[int, Tensor, Tensor], None] | None = None,
        top_k: int | None = None,
        **settings: Any,
    ) -> Tensor:
        """Codes alone, (n, h, w), stage after stage. `settings` are those of `oasisvq.models.sampling.sample`."""
        if self.coarse is None:
            return sampling.sample(
                self.prior,
                n,
                given=given,
                mask=mask,
                on_step=on_step,
                exact=self.exact_prior,
                top_k=top_k and min(top_k, self.preset.codebook_size),
                **settings,
            )
        (coarse_given, coarse_mask), (own_given, own_mask) = self._parts(given, mask)
        to_come = torch.zeros(self.preset.grid, dtype=torch.int64) if own_given is None else own_given

        def coarse_step(position: int, indices: Tensor, entropy: Tensor) -> None:
            if on_step:
                both = [indices.cpu(), to_come.expand(len(indices), -1, -1)]
                on_step(position, self.preset.join(both), entropy)

        coarse = self.coarse.draw(
            n, given=coarse_given, mask=coarse_mask, on_step=coarse_step, top_k=top_k, **settings
        ).cpu()
        done = coarse[0].numel()

        def own_step(position: int, indices: Tensor, entropy: Tensor) -> None:
            if on_step:
                on_step(done + position, self.preset.join([coarse, indices.cpu()]), entropy)

        own = sampling.sample(
            self.prior,
            n,
            given=own_given,
            mask=own_mask,
            on_step=own_step,
            top_k=top_k and min(top_k, self.preset.codebook_size),
            exact=self.exact_prior,
            picture=self.exact_picture(coarse),
            stage=1,
            **settings,
        )
        return self.preset.join([coarse, own.cpu()])

    @_without_gpu_if_it_is_full
    @torch.inference_mode()
    def refill(
        self,
        indices: Tensor,
        mask: Tensor,
        seed: int = 0,
        level: Levels = None,
        grade: float | None = None,
        proposals: int = 16,
    ) -> Coded:
        """Draw the masked codes again to fit the rest, which is kept exactly.

        Args:
            indices: (B, h, w) int64; repeat a grid for several fills of it.
            mask: (h, w) bool, True where codes are drawn again; `preset.cells` makes one of a region.
            seed: grid i is filled as the seed and i alone say.
            level: as in `sample`; None leaves it to the model.
            proposals: see `oasisvq.models.sampling.refill`.
        """
        self.check_codes(indices)
        if mask.shape != self.preset.shape:
            raise OasisVQError(f"the mask has shape {tuple(mask.shape)}: the grid is {self.preset.shape}")
        numbers = self._level(level)
        levels = numbers if isinstance(numbers, list) else [numbers] * len(indices)
        if len(levels) != len(indices):
            raise OasisVQError(f"{len(levels)} levels for {len(indices)} grids: give one level, or one for each grid")
        settings: dict[str, Any] = {"seed": seed, "grade": self._grade(grade), "proposals": proposals}
        indices, mask = indices.cpu(), mask.cpu()
        # A grid at a time: how numbers are rounded, and so the fill, depends on how many are computed together.
        fills = [
            self._refill(grid[None], mask, first=i, level=one, **settings)
            for i, (grid, one) in enumerate(zip(indices, levels, strict=True))
        ]
        filled = torch.cat([indices[:0], *fills])
        return Coded(filled, self.decode(filled))

    def _refill(self, indices: Tensor, mask: Tensor, **settings: Any) -> Tensor:
        """Of one slice, (1, h, w), stage after stage."""
        *coarse, own = self.preset.split(indices)
        *coarse_mask, own_mask = (part[0] for part in self.preset.split(mask[None]))
        if self.coarse is None:
            return sampling.refill(self.prior, own, own_mask, **settings).cpu()
        before = self.coarse._refill(*coarse, *coarse_mask, **settings)
        picture = self.exact_picture(before)
        return self.preset.join(
            [before, sampling.refill(self.prior, own, own_mask, picture=picture, stage=1, **settings).cpu()]
        )

    @_without_gpu_if_it_is_full
    @torch.inference_mode()
    def surprise(
        self, indices: Tensor, level: Levels = None, grade: float | None = None, stack: bool = False
    ) -> Tensor:
        """-log2 p of each code given those before it, in bits: (B, h, w).

        Args:
            level: as in `sample`; None: unknown.
            stack: the slices are of levels in succession, the lowest first: each is also given its neighbours, where
                the prior knows them.
        """
        condition = {"level": self._level(level), "grade": self._grade(grade)}
        bits = []
        for stage, own, coarse in self._by_stage(indices):
            picture = stage.tokenizer.picture(*coarse)
            if stack and stage.prior.near:
                slices = stage.vqvae.decode(own, picture)  # (B, 1, S, S)
                near = heads.neighbours(slices, stage.prior.near)
                picture = near if picture is None else torch.cat([picture, near], 1)
            bits.append(sampling.surprise(stage.prior, own, picture=picture, **condition).cpu())
        return self.preset.join(bits)

    @_without_gpu_if_it_is_full
    @torch.inference_mode()
    def likely(
        self, indices: Tensor, place: int, count: int = 5, level: int | None = None, grade: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """The likeliest codes at one place of a slice, given the codes before it.

        Args:
            indices: (1, h, w) int64.
            place: number of the code in the order of drawing, from 0.
            count: how many codes.

        Returns:
            Codes, (count,) int64, the likeliest first, and their probabilities, (count,).
        """
        condition = [torch.tensor([x], device=self.device) for x in (self._level(level), self._grade(grade))]
        for stage, own, coarse in self._by_stage(indices):
            if 0 <= place < own[0].numel():
                row, column = divmod(place, own.shape[2])
                logits = stage.prior(own[:, : row + 1], *condition, picture=stage.tokenizer.picture(*coarse))
                likely = logits[0, :, row, column].float().softmax(0).topk(count)
                return likely.indices.cpu(), likely.values.cpu()
            place -= own[0].numel()
        raise OasisVQError(f"the codes of a slice are numbered 0 to {self.preset.codes - 1}: name one of them")

    def nearest(self, indices: Tensor, training: Tensor) -> Tensor:
        """How far each slice is from the nearest training slice, or its mirror image, both decoded: no copy is near 0.

        Only the distance is returned, never which slice it is. No data of the training people comes with the weights,
        since codes are pictures too, and whatever finds neighbours tells who took part: bring their slices.

        Args:
            indices: (B, h, w) int64, of draws or of encoded slices.
            training: (N, h, w) int64, `encode` of the training slices.

        Returns:
            (B,) float64: root mean square difference of grey, whose range is 1.
        """
        from oasisvq.measure.realism import nearest_distance  # scikit-image and scipy.stats load slowly

        pictures, others = (
            torch.cat([self.decode(part)[:, 0] for part in codes.split(64)]).numpy() for codes in (indices, training)
        )
        return torch.from_numpy(nearest_distance(pictures, others))

    def _by_stage(self, indices: Tensor) -> Iterator[tuple[OasisVQ, Tensor, list[Tensor]]]:
        """Each stage, its own codes, (B, h, w), and those that its picture is made of, if it has one."""
        before: list[Tensor] = []
        for stage, own in zip(self.stages, self.preset.split(self._checked(indices)), strict=True):
            yield stage, own, before
            before = [own]

    def _parts(self, given: Tensor | None, mask: Tensor | None) -> list[tuple[Tensor | None, Tensor | None]]:
        """Given codes and mask of each stage, (h, w), where there are any."""
        if (given is None) != (mask is None):
            raise OasisVQError("given codes and a mask come together: True is drawn, False keeps the given code")
        if given is None or mask is None:
            return [(None, None)] * len(self.preset.parts)
        given, mask = torch.as_tensor(given).cpu(), torch.as_tensor(mask).cpu()
        if mask.shape != self.preset.shape:
            raise OasisVQError(f"the mask has shape {tuple(mask.shape)}: the grid is {self.preset.shape}")
        self.check_codes(given[None])
        grids, masks = ([part[0] for part in self.preset.split(x[None])] for x in (given, mask))
        return list(zip(grids, masks, strict=True))

    def check_codes(self, indices: Tensor) -> None:
        """Raises OasisVQError when these are not codes of slices, (B, h, w) int64."""
        shape = self.preset.shape
        if indices.ndim != 3 or indices.shape[1:] != shape or indices.dtype != torch.int64:
            raise OasisVQError(
                f"codes have shape {tuple(indices.shape)} {indices.dtype}: give (B, {shape[0]}, {shape[1]}) int64"
            )
        for stage, part in zip(self.preset.stages, self.preset.split(indices), strict=True):
            if part.numel() and (part.min() < 0 or part.max() >= stage.codebook_size):
                raise OasisVQError(f"codes leave the codebook: give integers from 0 to {stage.codebook_size - 1}")

    def _checked(self, indices: Tensor) -> Tensor:
        self.check_codes(indices)
        return indices.to(self.device)

    def _level(self, level: Levels) -> int | list[int]:
        if level is None:
            return self.preset.levels
        if isinstance(level, Tensor):
            level = level.tolist()
        for one in level if isinstance(level, Sequence) else [level]:
            if not 0 <= one < self.preset.levels:
                raise OasisVQError(f"level {one} does not exist: choose 0 (lowest) to {self.preset.levels - 1}")
        return list(level) if isinstance(level, Sequence) else level

    def _grade(self, grade: float | None) -> int:
        if grade is None:
            return len(self.preset.grades)
        if grade not in self.preset.grades:
            raise OasisVQError(f"grade {grade} is unknown: choose one of {', '.join(map(str, self.preset.grades))}")
        return self.preset.grades.index(grade)

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
