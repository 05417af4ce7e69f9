"""Links to edited codes, and codes as files: what goes in comes out, and nothing else does."""

import io
import tracemalloc
import zipfile
import zlib
from base64 import urlsafe_b64encode
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import torch
from tiny_weights import CASCADE, TINY, write_weights

from oasisvq import OasisVQ, OasisVQError
from oasisvq.app.links import address, name, of_draw, pack, redraw, restore, unpack
from oasisvq.data.codes import read_codes, write_codes

K, SHA = 512, "ab" * 32
PLAIN = {"seed": 3, "draw": 2, "temperature": 0.9, "top_k": None, "level": 5, "grade": None}


@pytest.fixture
def codes():
    return np.random.default_rng(0).integers(K, size=(20, 20))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return OasisVQ.from_pretrained(write_weights(tmp_path_factory.mktemp("tiny") / "weights"))


def parameters(link: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(link).query))


@pytest.mark.parametrize("cells", [0, 1, 37, 1600])
def test_cells_come_back_from_a_link(cells):
    rng = np.random.default_rng(cells)
    original = rng.integers(1024, size=(40, 40))
    indices = original.copy()
    indices.flat[rng.choice(1600, cells, replace=False)] = rng.integers(1024, size=cells)
    text = pack(original, indices)
    assert len(text) < 5000
    np.testing.assert_array_equal(unpack(text, original, 1024), indices)


def test_a_link_restores_a_draw_and_its_edits(tiny):
    original = tiny.sample(3, seed=3, temperature=0.9, level=5).indices[2].numpy()
    edited = original.copy()
    edited[1, 1:3] = (original[1, 1:3] + 1) % 8
    link = address("http://localhost:8501/edit_codes?old=1#x", tiny, of_draw(PLAIN), original, edited)
    assert link.startswith("http://localhost:8501/edit_codes?weights=")
    assert "old" not in link
    back = restore(tiny, parameters(link), {}.get)
    np.testing.assert_array_equal(back.original, original)
    np.testing.assert_array_equal(back.indices, edited)
    again = address("http://localhost:8501/edit_codes", tiny, back.origin, back.original, back.indices)
    assert parameters(again) == parameters(link)


def test_a_draw_from_all_codes_is_restored_from_all_codes(tiny, monkeypatch):
    asked, sample = [], tiny.sample
    monkeypatch.setattr(tiny, "sample", lambda *a, **b: asked.append(b) or sample(*a, **b))
    for top_k in (None, 5):
        origin = of_draw(PLAIN | {"top_k": top_k})
        codes = sample(3, seed=3, temperature=0.9, level=5, top_k=top_k).indices[2].numpy()
        restore(tiny, parameters(address("http://x/", tiny, origin, codes, codes)), {}.get)
    assert [settings["top_k"] for settings in asked] == [None, 5]


def test_a_link_restores_what_was_drawn_below_an_example(tiny):
    example = tiny.sample(1, seed=8).indices[0].numpy()
    origin = of_draw(PLAIN | {"draw": 0}, "Head", 2)
    back = restore(tiny, parameters(address("http://x/", tiny, origin, example, example)), {"Head": example}.get)
    np.testing.assert_array_equal(back.original[:2], example[:2])
    assert (back.original[2:] != example[2:]).any()


def test_a_link_that_draws_again_names_weights_and_choices(tiny):
    settings = {"seed": 3, "level": None, "top_k": None, "grade": None, "temperature": 0.9}
    link = redraw("http://x/generate?old=1", tiny, settings)
    told = parameters(link)
    assert told == {
        "seed": "3",
        "level": "None",
        "top_k": "None",
        "temperature": "0.9",
        "weights": tiny.info["files"]["vqvae.safetensors"]["sha256"][:12],
        "prior": tiny.info["files"]["prior.safetensors"]["sha256"][:12],
    }


HOSTILE = {
    "weights of others": {"weights": "0" * 12},
    "no weights": {"weights": ""},
    "a prior of others": {"prior": "0" * 12},
    "no prior": {"prior": ""},
    "no origin": {"seed": ""},
    "unknown example": {"example": "<script>"},
    "text for a number": {"seed": "seven"},
    "a number without end": {"seed": "9" * 5000},
    "a negative number": {"draw": "-1"},
    "not a number": {"temperature": "nan"},
    "no temperature": {"temperature": "0"},
    "a level that does not exist": {"level": "32"},
    "cells that are no text of ours": {"cells": "%%%"},
    "cells of another alphabet": {"cells": "é"},
    "cells that are not packed": {"cells": "AAAA"},
    "cells that never end": {"cells": urlsafe_b64encode(zlib.compress(bytes(10_000_000))).decode()},
    "codes outside the codebook": {"cells": pack(np.zeros((4, 4), int), np.full((4, 4), 9))},
    "the code after the last": {"cells": pack(np.zeros((4, 4), int), np.eye(4, dtype=int) * 8)},
    "fewer flags than cells": {"cells": urlsafe_b64encode(zlib.compress(b"\0")).decode()},
    "a cell without its code": {"cells": urlsafe_b64encode(zlib.compress(b"\x80\0")).decode()},
    "more after the last code": {"cells": urlsafe_b64encode(zlib.compress(b"\xff\xff" + bytes(33))).decode()},
    "cells of another grid": {"cells": pack(np.zeros((40, 40), int), np.ones((40, 40), int))},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_forged_link_is_refused_in_a_sentence(tiny, change):
    codes = np.zeros(tiny.preset.grid, int)
    honest = parameters(address("http://x/", tiny, of_draw(PLAIN), codes, codes))
    restore(tiny, honest, {}.get)
    forged = honest | change
    if change == {"seed": ""}:
        forged = {"weights": honest["weights"]}
    with pytest.raises(OasisVQError) as refused:
        restore(tiny, forged, {}.get)
    assert "<script>" not in str(refused.value)


def test_a_link_of_weights_that_begin_alike_is_refused(tiny):
    codes = np.zeros(tiny.preset.grid, int)
    honest = parameters(address("http://x/", tiny, of_draw(PLAIN), codes, codes))
    for key in ("weights", "prior"):
        assert len(honest[key]) == 12
        other = honest[key][:-1] + ("0" if honest[key][-1] != "0" else "1")
        with pytest.raises(OasisVQError, match="other weights"):
            restore(tiny, honest | {key: other}, {}.get)


def test_a_link_keeps_at_least_a_row_of_an_example_and_leaves_one(tiny):
    example = tiny.sample(1, seed=8).indices[0].numpy()
    link = parameters(address("http://x/", tiny, of_draw(PLAIN, "Head", 2), example, example))
    for rows in (1, 3):
        kept = restore(tiny, link | {"rows": str(rows)}, {"Head": example}.get).original[:rows]
        np.testing.assert_array_equal(kept, example[:rows])
    for rows in (0, 4):
        with pytest.raises(OasisVQError, match="more rows than there are"):
            restore(tiny, link | {"rows": str(rows)}, {"Head": example}.get)


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (None, "Codes from your own file"),
        ({"example": "Colin 27, level 12"}, "Colin 27, level 12"),
        ({"seed": "5", "draw": "0", "level": "3"}, "Drawn slice, level 3, seed 5"),
        ({"seed": "5", "draw": "0"}, "Drawn slice, any level, seed 5"),
        (
            {"seed": "5", "draw": "0", "level": "3", "example": "Colin 27, level 12", "rows": "9"},
            "Drawn slice, level 3, seed 5, below the upper part of Colin 27, level 12",
        ),
    ],
)
def test_where_codes_came_from_is_said_in_words(origin, words):
    assert name(origin) == words


def test_a_grid_that_does_not_fill_its_last_byte_comes_back():
    original = np.zeros((3, 5), int)
    indices = np.arange(15).reshape(3, 5)
    np.testing.assert_array_equal(unpack(pack(original, indices), original, 15), indices)


def test_the_largest_number_is_taken_and_the_next_refused(tiny):
    codes = np.zeros(tiny.preset.grid, int)
    honest = parameters(address("http://x/", tiny, of_draw(PLAIN), codes, codes))
    assert restore(tiny, honest | {"seed": str(2**31 - 1)}, {}.get).origin["seed"] == "2147483647"
    with pytest.raises(OasisVQError, match="seed is out of range"):
        restore(tiny, honest | {"seed": str(2**31)}, {}.get)


def test_rows_of_an_example_are_counted_down_the_grid(tmp_path):
    """Where a cell has two codes, a grid is wider than tall."""
    model = OasisVQ.from_pretrained(write_weights(tmp_path / "weights", preset=replace(TINY, depth=2)))
    example = model.sample(1, seed=8).indices[0].numpy()
    link = parameters(address("http://x/", model, of_draw(PLAIN, "Head", 3), example, example))
    np.testing.assert_array_equal(restore(model, link, {"Head": example}.get).original[:3], example[:3])
    with pytest.raises(OasisVQError, match="more rows than there are"):
        restore(model, link | {"rows": "4"}, {"Head": example}.get)


def test_rows_of_an_example_are_those_of_the_coarse_stage(tmp_path):
    """Below them all finer codes are drawn too."""
    model = OasisVQ.from_pretrained(write_weights(tmp_path / "weights", preset=CASCADE))
    rows = CASCADE.coarse.grid[0]
    assert rows < CASCADE.parts[-1][0]
    example = model.sample(1, seed=8).indices[0].numpy()
    link = parameters(address("http://x/", model, of_draw(PLAIN, "Head", rows - 1), example, example))
    restored = restore(model, link, {"Head": example}.get).original
    coarse, kept = (model.preset.split(torch.from_numpy(codes)[None])[0] for codes in (restored, example))
    assert torch.equal(coarse[:, : rows - 1], kept[:, : rows - 1])
    for wrong in (rows, CASCADE.parts[-1][0] - 1):
        with pytest.raises(OasisVQError, match="more rows than there are"):
            restore(model, link | {"rows": str(wrong)}, {"Head": example}.get)


def test_cells_that_never_end_are_not_unpacked():
    original = np.zeros((20, 20), int)
    bomb = urlsafe_b64encode(zlib.compress(bytes(50_000_000))).decode()
    tracemalloc.start()
    with pytest.raises(OasisVQError, match="do not fit"):
        unpack(bomb, original, K)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1_000_000


def test_codes_come_back_from_a_file(codes):
    both = np.stack([codes, codes[::-1]])
    data = write_codes(both, SHA, files=np.array(["one.png", "two.png"]))
    np.testing.assert_array_equal(read_codes(data, "a.npz", (20, 20), K, SHA), both)
    with np.load(io.BytesIO(data)) as as_written:
        assert as_written["indices"].shape == (2, 20, 20)
        assert as_written["weights"] == SHA
        assert as_written["files"].tolist() == ["one.png", "two.png"]


def test_each_place_has_a_codebook_of_its_own(codes):
    most = np.full((20, 20), K)
    most[3, 5] = codes[3, 5]
    read_codes(write_codes(codes[None], SHA), "a.npz", (20, 20), most + 1, SHA)
    with pytest.raises(OasisVQError, match="outside the codebook"):
        read_codes(write_codes(codes[None], SHA), "a.npz", (20, 20), most, SHA)


def npz(**arrays) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an .npz"),
        (b"PK\x03\x04" + bytes(50), "not an .npz"),
        (npz(other=np.zeros(3)), "not an .npz"),
        (npz(indices=np.zeros((1, 40, 40), int)), "takes"),
        (npz(indices=np.zeros((20, 20), int)), "takes"),
        (npz(indices=np.zeros((0, 20, 20), int)), "takes"),
        (npz(indices=np.zeros((1, 20, 20))), "takes"),
        (npz(indices=np.array([[[object()] * 20] * 20])), "takes"),
        (npz(indices=np.full((1, 20, 20), K)), "outside the codebook"),
        (npz(indices=np.full((1, 20, 20), -1)), "outside the codebook"),
        (write_codes(np.zeros((1, 20, 20), int), "cd" * 32), "other weights"),
    ],
)
def test_other_files_are_refused(data, reason):
    with pytest.raises(OasisVQError, match=reason):
        read_codes(data, "a.npz", (20, 20), K, SHA)


@pytest.mark.parametrize(("shape", "reason"), [((1, 10**9, 20), "takes"), ((10**9, 20, 20), "more than")])
def test_a_header_that_claims_too_much_is_refused(shape, reason):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<i8", "fortran_order": False, "shape": shape})
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("indices.npy", content.getvalue())
    with pytest.raises(OasisVQError, match=reason):
        read_codes(bomb.getvalue(), "a.npz", (20, 20), K, SHA)


def test_a_file_cut_anywhere_is_refused(codes):
    data = write_codes(codes[None], SHA)
    for end in range(0, len(data), 7):
        with pytest.raises(OasisVQError):
            read_codes(data[:end], "a.npz", (20, 20), K, SHA)
