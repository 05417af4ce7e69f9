"""A slice as a file of a few hundred bytes or less: its codes, arithmetic-coded under the probabilities of the prior.

The decoder must work with exactly the probabilities of the encoder, and floating point does not promise that: another
processor, batch size or order of additions moves the last digits, and one digit is enough to turn the rest of a slice
into noise. So both sides agree on whole numbers. The prior runs in double precision and its logits are rounded to
sixteenths of a bit, after a shift by one of 32 amounts that the encoder chooses such that no logit lies within MARGIN
of where rounding turns. The whole numbers are then the same wherever logits are off by less than MARGIN, and the
encoder may take one parallel pass where the decoder goes code by code. A cascade writes one stage after the other.

The content of a file: MAGIC; the first 2 bytes of the sha256 of the weights' own; CRC-32 of weights, conditions and
codes; the level; the grade and the shift in one byte; what the range coder wrote (Martin 1979, in the library
`constriction`, Bamler 2022, arXiv:2201.01741), cut where zeros may follow.

A file may also hold a head, slices of levels in succession: HEAD instead of MAGIC, and the number of levels after the
first level. They are written from the middle outwards, each given the one next to it (`oasisvq.models.heads`).
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from constriction import stream
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from oasisvq.errors import OasisVQError
from oasisvq.hub.manifest import COARSE, MODELS
from oasisvq.models import heads
from oasisvq.models.sampling import Sampler, grids_at_a_time
from oasisvq.pipeline import OasisVQ

Numbers = Sequence[int] | NDArray[np.int64]

SUFFIX = ".ovq"
MAGIC, HEAD = b"Q\x01", b"Q\x02"
MARGIN = 1e-9  # in nats
BATCH = 16  # grids at a time; changes memory and speed alone

_HEADER = struct.Struct(">2s2sIBB")
_HEAD_HEADER = struct.Struct(">2s2sIBBB")
_SHIFTS = 32
_STEPS = 16  # to a bit
# Weight of a code whose logit lies so many steps under the likeliest one's; the last stands for all below.
_WEIGHTS = np.array([math.floor(2 ** (22 - step / _STEPS)) for step in range(22 * _STEPS + 1)], np.float64)
_FAMILY = stream.model.Categorical(perfect=False)


def compress(
    model: OasisVQ, indices: Tensor, levels: Numbers | None = None, grades: Numbers | None = None
) -> list[bytes]:
    """Grids of codes to the contents of files, one each.

    Args:
        model: its prior sets the price of each code.
        indices: (B, h, w) int64 in [0, K), as `OasisVQ.encode` returns them.
        levels, grades: (B,) each, in [0, levels] and [0, number of grades], the last meaning unknown, as `SliceSet`
            has them. None: all unknown. What is known makes files smaller.

    Raises OasisVQError when a shape or a range is wrong.
    """
    preset = model.preset
    model.check_codes(indices)
    unknown = preset.levels, len(preset.grades)
    known = [most if given is None else given for given, most in zip((levels, grades), unknown, strict=True)]
    if any(np.size(given) not in (1, len(indices)) for given in known):
        raise OasisVQError(f"{len(indices)} slices need as many levels and grades")
    conditions = np.stack([np.broadcast_to(values, len(indices)) for values in known])  # (2, B)
    if ((conditions < 0) | (conditions > np.array(unknown)[:, None])).any():
        raise OasisVQError(f"levels go from 0 to {unknown[0]}, grades from 0 to {unknown[1]}, the last for unknown")
    signature = _signature(model)
    files = []
    together = min(BATCH, *(grids_at_a_time(stage.prior) for stage in model.stages))
    for start in range(0, len(indices), together):
        some = slice(start, start + together)
        conditioned_on = torch.from_numpy(conditions[:, some]).long()
        parts = preset.split(indices[some])
        with torch.inference_mode():
            tables = [  # (b, h * w, K) of each stage
                stage.exact_prior(own, *conditioned_on, picture=stage.exact_picture(*before)).flatten(2).mT.numpy()
                for stage, own, before in zip(model.stages, parts, ([], parts[:1]), strict=False)
            ]
        for i, (level, grade) in enumerate(conditioned_on.T.tolist()):
            grids, own = [part[i].numpy() for part in parts], [table[i] for table in tables]
            shift = _safe_shift(own)
            condition = bytes((level, grade * _SHIFTS + shift))
            header = _HEADER.pack(MAGIC, signature[:2], _checksum(signature, condition, grids), *condition)
            files.append(header + _write([grid.ravel() for grid in grids], [_weights(table, shift) for table in own]))
    return files


def decompress(model: OasisVQ, files: Mapping[str, bytes]) -> Tensor:
    """The codes in the contents of files that `compress` made: (B, h, w) int64, exactly those that went in.

    The names of the files are for messages only. Raises OasisVQError naming the file when one is something else, was
    made with other weights, or is damaged.
    """
    preset, signature = model.preset, _signature(model)
    opened = [_open(model, signature, name, content) for name, content in files.items()]
    grids = [torch.zeros(len(opened), *grid, dtype=torch.int64) for grid in preset.parts]
    for start in range(0, len(opened), BATCH):
        some = opened[start : start + BATCH]
        shifts = np.array([[file.shift] for file in some])
        levels, grades = torch.tensor([[file.level, file.grade] for file in some]).T
        before: list[Tensor] = []
        for stage, grid in zip(model.stages, grids, strict=True):
            part = grid[start : start + BATCH]
            with torch.inference_mode():
                sampler = Sampler(stage.exact_prior, part, levels, grades, picture=stage.exact_picture(*before))
                for _, row, column in sampler.walk(0, grid[0].numel()):
                    weights = _weights(sampler.logits().numpy(), shifts)
                    part[:, row, column] = torch.tensor(
                        [_next(file.name, file.decoder, w) for file, w in zip(some, weights, strict=True)]
                    )
            before = [part]
    for i, file in enumerate(opened):
        if _checksum(signature, file.condition, [grid[i].numpy() for grid in grids]) != file.checksum:
            raise _damaged(file.name)
    return preset.join(grids)


def compress_head(model: OasisVQ, indices: Tensor, lowest: int = 0, grade: int | None = None) -> bytes:
    """The slices of one head to the content of one file.

    Args:
        model: its prior sets the price of each code.
        indices: (L, h, w) int64 in [0, K), of the levels `lowest` to `lowest` + L - 1.
        grade: in [0, number of grades], the last meaning unknown. None: unknown.

    Raises OasisVQError when a shape or a range is wrong, or the prior knows nothing of neighbours.
    """
    preset = model.preset
    model.check_codes(indices)
    grade = len(preset.grades) if grade is None else grade
    _check_head(model, lowest, len(indices), grade)
    parts, tables = [], []  # of each step: codes (positions, levels) and logits (positions, levels, K)
    before: Tensor | None = None
    for stage, own in zip(model.stages, preset.split(indices), strict=True):
        stack = stage.stack(len(indices), before)
        for step in heads.steps(stage.prior, range(len(indices))):
            codes = own[step]
            levels, grades = torch.tensor(step) + lowest, torch.full((len(step),), grade)
            with torch.inference_mode():
                logits = stage.exact_prior(codes, levels, grades, picture=stack.pictures(step))
            parts.append(codes.flatten(1).T.numpy())
            tables.append(logits.flatten(2).permute(2, 0, 1).numpy())
            stack.put(step, codes[None])
        before = own
    shift = _safe_shift(tables)
    condition = bytes((lowest, len(indices), grade * _SHIFTS + shift))
    signature = _signature(model)
    header = _HEAD_HEADER.pack(HEAD, signature[:2], _checksum(signature, condition, [indices.numpy()]), *condition)
    weights = [_weights(table.reshape(-1, table.shape[2]), shift) for table in tables]
    return header + _write([part.ravel() for part in parts], weights)


def decompress_head(model: OasisVQ, name: str, content: bytes) -> tuple[Tensor, int]:
    """The codes of a head, (L, h, w) int64, exactly those that went in, and its lowest level.

    Raises OasisVQError naming the file when it is something else, was made with other weights, or is damaged.
    """
    preset, signature = model.preset, _signature(model)
    if len(content) < _HEAD_HEADER.size or not content.startswith(HEAD):
        raise OasisVQError(f"{name}: not a head that `python -m oasisvq compress --head` wrote")
    _, made_with, checksum, lowest, count, packed = _HEAD_HEADER.unpack_from(content)
    _check_weights(name, made_with, signature)
    grade, shift = divmod(packed, _SHIFTS)
    longest = _HEAD_HEADER.size + 4 * preset.codes * preset.levels
    try:
        _check_head(model, lowest, count, grade)
    except OasisVQError as error:
        raise _damaged(name) from error
    if len(content) > longest:
        raise _damaged(name)
    decoder = stream.queue.RangeDecoder(_words(content[_HEAD_HEADER.size :]))
    grids = [torch.zeros(count, *grid, dtype=torch.int64) for grid in preset.parts]
    before: Tensor | None = None
    for stage, own in zip(model.stages, grids, strict=True):
        stack = stage.stack(count, before)
        for step in tqdm(heads.steps(stage.prior, range(count)), name, unit="step", disable=None, leave=False):
            levels, grades = torch.tensor(step) + lowest, torch.full((len(step),), grade)
            codes = own[step]
            with torch.inference_mode():
                sampler = Sampler(stage.exact_prior, codes, levels, grades, picture=stack.pictures(step))
                for _, row, column in sampler.walk(0, codes[0].numel()):
                    weights = _weights(sampler.logits().numpy(), shift)
                    codes[:, row, column] = torch.tensor([_next(name, decoder, level) for level in weights])
            own[step] = codes
            stack.put(step, codes[None])
        before = own
    indices = preset.join(grids)
    if _checksum(signature, bytes((lowest, count, packed)), [indices.numpy()]) != checksum:
        raise _damaged(name)
    return indices, lowest


def _check_head(model: OasisVQ, lowest: int, count: int, grade: int) -> None:
    if not model.stages[0].prior.near:
        raise OasisVQError("this model's prior knows single slices alone: compress them one by one")
    if not (lowest >= 0 and 1 <= count <= model.preset.levels - lowest and 0 <= grade <= len(model.preset.grades)):
        raise OasisVQError(f"a head has levels from 0 to {model.preset.levels - 1} and grades that the preset knows")


class _Opened(NamedTuple):
    name: str
    decoder: stream.queue.RangeDecoder
    checksum: int
    condition: bytes
    level: int
    grade: int
    shift: int


def _open(model: OasisVQ, signature: bytes, name: str, content: bytes) -> _Opened:
    if len(content) < _HEADER.size or not content.startswith(MAGIC):
        raise OasisVQError(f"{name}: not a file that `python -m oasisvq compress` wrote")
    _, made_with, checksum, level, packed = _HEADER.unpack_from(content)
    _check_weights(name, made_with, signature)
    grade, shift = divmod(packed, _SHIFTS)
    longest = _HEADER.size + 4 * model.preset.codes  # the coder spends at most 3 bytes on a code
    if level > model.preset.levels or grade > len(model.preset.grades) or len(content) > longest:
        raise _damaged(name)
    decoder = stream.queue.RangeDecoder(_words(content[_HEADER.size :]))
    return _Opened(name, decoder, checksum, bytes((level, packed)), level, grade, shift)


def _check_weights(name: str, made_with: bytes, signature: bytes) -> None:
    if made_with != signature[:2]:
        raise OasisVQError(
            f"{name}: made with weights {made_with.hex()}, these are {signature[:2].hex()}: name the right --weights"
        )


def _damaged(name: str) -> OasisVQError:
    return OasisVQError(f"{name}: damaged, does not decode to what went in: get the file again")


def _signature(model: OasisVQ) -> bytes:
    """What stands for the weights: the sha256 over those of all models, own ones first."""
    files = model.info["files"]
    names = [name for name in (*MODELS, *COARSE) if name in files]
    return hashlib.sha256(b"".join(bytes.fromhex(files[name]["sha256"]) for name in names)).digest()


def _checksum(signature: bytes, condition: bytes, grids: Sequence[NDArray[np.int64]]) -> int:
    return zlib.crc32(signature + condition + b"".join(grid.astype(">u4").tobytes() for grid in grids))


def _safe_shift(tables: Sequence[NDArray[np.float64]]) -> int:
    """The first shift with which no logit is rounded one way here and could be rounded the other way elsewhere."""
    steps = np.concatenate([logits.ravel() for logits in tables]) * (_STEPS / math.log(2))
    margin = MARGIN * _STEPS / math.log(2)
    for shift in range(_SHIFTS):
        moved = steps + shift / _SHIFTS
        if (np.abs(moved - np.rint(moved)) > margin).all():
            return shift
    raise OasisVQError("no rounding of this slice's logits is safe: the prior gives numbers that are not finite")


def _weights(logits: NDArray[np.float64], shift: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Whole numbers in proportion to the probabilities, (n, K) from (n, K)."""
    steps = np.floor(logits * (_STEPS / math.log(2)) + shift / _SHIFTS)
    under = steps.max(1, keepdims=True) - steps
    # In C order whatever that of the logits: `constriction` reads row by row and does not look at strides.
    return np.ascontiguousarray(_WEIGHTS[np.minimum(under, len(_WEIGHTS) - 1).astype(int)])


def _write(parts: Sequence[NDArray[np.int64]], weights: Sequence[NDArray[np.float64]]) -> bytes:
    """What the range coder makes of codes, (n,) each, with weights, (n, K): the shortest that decodes to them."""
    encoder = stream.queue.RangeEncoder()
    for codes, own in zip(parts, weights, strict=True):
        encoder.encode(codes.astype(np.int32), _FAMILY, own)
    whole = encoder.get_compressed().astype(">u4").tobytes()
    for shorter in _cut(whole):
        decoder = stream.queue.RangeDecoder(_words(shorter))
        try:
            if all(
                np.array_equal(decoder.decode(_FAMILY, own), codes) for codes, own in zip(parts, weights, strict=True)
            ):
                return shorter
        except AssertionError:  # what `constriction` raises of bytes that no message makes
            continue
    return whole


def _cut(whole: bytes) -> Iterator[bytes]:
    """The number that bytes spell, rounded down and up to fewer bytes, the fewest first."""
    for length in range(max(0, len(whole) - 7), len(whole)):
        down = int.from_bytes(whole[:length])
        yield whole[:length]
        if down + 1 < 256**length:
            yield (down + 1).to_bytes(length)


def _words(content: bytes) -> NDArray[np.uint32]:
    return np.frombuffer(content + bytes(-len(content) % 4), ">u4").astype(np.uint32)


def _next(name: str, decoder: stream.queue.RangeDecoder, weights: NDArray[np.float64]) -> int:
    try:
        return int(decoder.decode(_FAMILY, weights[None])[0])
    except AssertionError as error:  # as above
        raise _damaged(name) from error
