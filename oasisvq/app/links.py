"""Links that draw a slice again, or restore an edited one: where its codes came from, and the cells that were changed.

Only bundled examples and draws have such an origin. Codes of an upload have none, so that nothing of it is ever put in
a link; nor have imported codes. Whoever opens a link may have written it: every value is checked before it is used.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np

from oasisvq.app.codes import Codes, below, most
from oasisvq.errors import OasisVQError

if TYPE_CHECKING:
    from oasisvq.pipeline import OasisVQ

Origin = Mapping[str, str]  # parameters of a link that say where codes came from

_LARGEST = 2**31 - 1
_LONGEST = 20  # characters of a number
_SETTINGS = {"temperature": float, "top_k": int, "level": int, "grade": float}
_DRAW = ("seed", "draw")
ORIGIN = ("example", "rows", *_DRAW, *_SETTINGS)


class Restored(NamedTuple):
    """What a link stands for: codes before and after the edits, (h, w), and their origin."""

    original: Codes
    indices: Codes
    origin: Origin


def of_draw(settings: Mapping[str, object], example: str | None = None, rows: int = 0) -> Origin:
    """The origin of a draw: its settings, and the example whose upper rows it began from, if any."""
    origin = {name: str(settings[name]) for name in (*_DRAW, *_SETTINGS) if settings[name] is not None}
    return origin | ({"example": example, "rows": str(rows)} if example else {})


def name(origin: Origin | None) -> str:
    """Where codes came from, in words."""
    if origin is None:
        return "Codes from your own file"
    if "seed" not in origin:
        return origin["example"]
    level = f"level {origin['level']}" if "level" in origin else "any level"
    below = f", below the upper part of {origin['example']}" if "example" in origin else ""
    return f"Drawn slice, {level}, seed {origin['seed']}{below}"


def address(url: str, model: OasisVQ, origin: Origin, original: Codes, indices: Codes) -> str:
    """The link: `url` is that of the page, `model` that of the codes."""
    cells = {"cells": pack(original, indices)} if (original != indices).any() else {}
    query = {"weights": _sha256(model, "vqvae")[:12]}
    if "seed" in origin:  # another prior draws other codes, though they mean the same
        query["prior"] = _sha256(model, "prior")[:12]
    return _with_query(url, {**query, **origin, **cells})


def redraw(url: str, model: OasisVQ, settings: Mapping[str, object]) -> str:
    """The link that draws the same slice or head again, wherever these weights are."""
    made_with = {"weights": _sha256(model, "vqvae")[:12], "prior": _sha256(model, "prior")[:12]}
    # Any level, and all codes, are choices of their own: left out, the page would begin with its usual ones.
    said = {name: value for name, value in settings.items() if value is not None or name in ("level", "top_k")}
    return _with_query(url, said | made_with)


def _with_query(url: str, values: Mapping[str, object]) -> str:
    return urlunsplit(urlsplit(url)._replace(query=urlencode(values), fragment=""))


def restore(model: OasisVQ, parameters: Mapping[str, str], codes_of: Callable[[str], Codes | None]) -> Restored:
    """Codes and origin from the parameters of a link. `codes_of` an example are (h, w), None without such an example.

    Raises OasisVQError when they were made with other weights, or make no sense.
    """
    import torch

    made_with = {"weights": "vqvae"} | ({"prior": "prior"} if "seed" in parameters else {})
    if not all(_sha256(model, name).startswith(parameters.get(key) or "-") for key, name in made_with.items()):
        raise OasisVQError(
            "it was made with other weights: choose them at the top right, if they are there, and open it again"
        )
    origin = {name: value for name, value in parameters.items() if name in ORIGIN}
    example = codes_of(origin["example"]) if "example" in origin else None
    if example is None and "example" in origin:
        raise OasisVQError("it names an example that is not here: open one from the list")
    if "seed" in origin:
        settings: dict[str, Any] = {"top_k": None}  # left out of an origin, it means all codes
        settings |= {name: _number(origin, name, kind) for name, kind in _SETTINGS.items() if name in origin}
        start = {"seed": _number(origin, "seed", int), "first": _number(origin, "draw", int)}
        given = mask = None
        if example is not None:
            rows = int(_number(origin, "rows", int))
            if not 0 < rows < model.preset.parts[0][0]:
                raise OasisVQError("it keeps more rows than there are: copy it again")
            given, mask = torch.from_numpy(example), torch.from_numpy(below(model.preset, rows))
        original = model.sample(1, **start, **settings, given=given, mask=mask).indices[0].numpy()  # type: ignore[arg-type]
    elif example is not None:
        original = example
    else:
        raise OasisVQError("it does not say where its codes come from: copy it again")
    return Restored(original, unpack(parameters.get("cells", ""), original, most(model.preset)), origin)


def pack(original: Codes, indices: Codes) -> str:
    """The changed cells and their codes, as text that a link can hold."""
    changed = original != indices
    content = np.packbits(changed).tobytes() + indices[changed].astype("<u2").tobytes()
    return base64.urlsafe_b64encode(zlib.compress(content, 9)).decode().rstrip("=")


def unpack(text: str, original: Codes, most: Codes | int) -> Codes:
    """Inverse of `pack`; every code must be below `most`. Raises OasisVQError on anything that `pack` does not make."""
    if not text:
        return original
    flags = -(-original.size // 8)
    longest = flags + 2 * original.size
    try:
        packed = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        content = zlib.decompressobj().decompress(packed, longest + 1)  # a bomb stops here
    except (UnicodeEncodeError, binascii.Error, zlib.error) as error:
        raise OasisVQError("its cells cannot be read: copy it again") from error
    changed = np.unpackbits(np.frombuffer(content[:flags], np.uint8))[: original.size].astype(bool)
    codes = content[flags:]
    if len(changed) != original.size or len(codes) != 2 * changed.sum():
        raise OasisVQError("its cells do not fit this grid: copy it again")
    indices = original.copy()
    indices[changed.reshape(original.shape)] = np.frombuffer(codes, "<u2")
    if (indices >= most).any():
        raise OasisVQError(f"it has codes beyond the codebook of {np.max(most)}: copy it again")
    return indices


def _sha256(model: OasisVQ, name: str) -> str:
    return model.info["files"][f"{name}.safetensors"]["sha256"]


def _number(parameters: Mapping[str, str], name: str, kind: type) -> int | float:
    text = parameters.get(name, "")
    try:
        number = kind(text[:_LONGEST])
    except ValueError as error:
        raise OasisVQError(f"its {name} is no number: copy it again") from error
    if not 0 <= number <= _LARGEST:
        raise OasisVQError(f"its {name} is out of range: copy it again")
    return number
