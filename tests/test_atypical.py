"""What is unusual for a model, against plain arithmetic; and the benchmarks that judge it and refills."""

import importlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny_weights import TINY, forget_the_hub, write_weights

from oasisvq import OasisVQ
from oasisvq.data.examples import examples
from oasisvq.data.layout import load_split
from oasisvq.data.slices import foreground, to_model
from oasisvq.measure.atypical import unusual
from oasisvq.models.pixelcnn import PixelCNN
from oasisvq.models.vqvae import VQVAE

# What was chosen on validation people, see docs/results.md. Stated again: a change of one in the library must be seen.
NEARNESS, LEAST, SMOOTHING = 0.06, 0.1, 0.035


@pytest.fixture(params=[1, 2], ids=["a code a cell", "two codes a cell"])
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> OasisVQ:
    forget_the_hub(monkeypatch, tmp_path)
    preset = replace(TINY, depth=request.param)
    loaded = OasisVQ.from_pretrained(write_weights(tmp_path / "tiny", preset=preset), device="cpu")
    torch.manual_seed(0)
    loaded.vqvae.quantiser.codebook.copy_(torch.randn(TINY.codebook_size, TINY.code_dim))
    for parameter in loaded.prior.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return loaded


@torch.inference_mode()
def one_way(model: OasisVQ, picture: torch.Tensor, level: int) -> np.ndarray:
    """The measure of one slice (1, 1, S, S), code by code."""
    book, depth = model.vqvae.codebook.double().numpy(), model.preset.depth
    cells = model.vqvae.encoder(picture)[0].double().numpy()  # (D, h, w)
    indices = model.encode(picture)
    seen = np.empty((len(cells), *indices.shape[1:]))  # what each code stands for: what those before it leave over
    for row, column in np.ndindex(*indices.shape[1:]):
        cell, earlier = divmod(column, depth)
        before = indices[0, row, cell * depth : cell * depth + earlier].tolist()
        seen[:, row, column] = cells[:, row, cell] - sum((book[k] for k in before), np.zeros(len(cells)))
    grade = torch.tensor([len(TINY.grades)])
    chances = model.prior(indices, torch.tensor([level]), grade)[0].double().softmax(0).numpy()
    size = len(book)
    apart = np.array([[np.square(a - b).sum() for b in book] for a in book])
    scale = (
        2
        * NEARNESS
        * sorted(apart[i, j] for i in range(size) for j in range(size) if i != j)[(size**2 - size - 1) // 2]
    )
    found = np.empty(seen.shape[1:])
    for cell in np.ndindex(*found.shape):
        p, z = chances[(slice(None), *cell)], seen[(slice(None), *cell)]

        def bits(away: np.ndarray, p: np.ndarray = p) -> float:
            return -math.log2(sum(p[k] * math.exp(-away[k] / scale) for k in range(size)))

        each = [bits(apart[j]) for j in range(size)]
        mean = sum(p[j] * each[j] for j in range(size))
        variance = sum(p[j] * (each[j] - mean) ** 2 for j in range(size))
        found[cell] = (bits(np.square(book - z).sum(1)) - mean) / math.sqrt(variance + LEAST)
    return found


def test_the_map_is_what_it_says(model: OasisVQ) -> None:
    slices = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    found, depth = unusual(model, slices, torch.tensor([3, 7])).numpy(), model.preset.depth
    for picture, level, values in zip(slices, (3, 7), found, strict=True):
        both = [one_way(model, picture[None], level), one_way(model, picture[None].flip(3), level)]
        there, back = (values.reshape(TINY.side, TINY.side, depth).mean(2) for values in both)
        expected = ndimage.gaussian_filter((there + back[:, ::-1]) / 2, SMOOTHING * TINY.side).repeat(depth, 1)
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)


def test_a_mirrored_slice_has_the_mirrored_map(model: OasisVQ) -> None:
    slices = torch.rand(2, 1, 16, 16) - 0.5
    torch.testing.assert_close(unusual(model, slices.flip(3)), unusual(model, slices).flip(2), rtol=1e-4, atol=1e-4)


def test_levels_one_each_are_levels_one_by_one(model: OasisVQ) -> None:
    slices = torch.rand(3, 1, 16, 16) - 0.5
    together = unusual(model, slices, torch.tensor([0, 5, TINY.levels], dtype=torch.int16))
    apart = [unusual(model, slices[i : i + 1], level) for i, level in enumerate((0, 5, None))]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bright", "dark", "displaced", "missing"])
@pytest.mark.parametrize("across", [3, 12])
def test_lesions_lie_in_the_brain_and_show(kind: str, across: int) -> None:
    lesions = importlib.import_module("benchmarks.quality.lesions")
    rng = np.random.default_rng(0)
    picture = to_model(next(iter(examples().values()))[None])[0] + 0.5
    lesion = lesions.place(picture, kind, across, rng)
    painted, share = lesion.into(picture)
    where = share >= 0.5
    assert foreground(picture)[where].all()
    assert abs(where.sum() - math.pi * across**2 / 4) < 0.25 * math.pi * across**2 / 4 + 2
    near = ndimage.binary_dilation(where, iterations=2)
    assert np.array_equal(painted[~near], picture[~near])
    assert lesions.change(lesion, picture) >= lesions.LEAST
    assert np.abs(painted - picture)[where].mean() >= 0.8 * lesions.LEAST
    if kind == "missing":
        assert painted[where].min() == 0
    if kind == "bright":
        assert painted[where].max() == 1


@torch.inference_mode()
def test_every_lesion_is_judged_against_every_untouched_slice(
    tiny_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesions = importlib.import_module("benchmarks.quality.lesions")
    torch.manual_seed(0)
    preset = replace(TINY, size=80, prior_neighbours=2)
    model = OasisVQ(preset, VQVAE(preset), PixelCNN(preset), {}, "cpu")
    model.vqvae.quantiser.codebook.copy_(torch.randn(TINY.codebook_size, TINY.code_dim))
    data = load_split(tiny_cohort, "test", 80)

    def seen(model: OasisVQ, slices: np.ndarray, levels: np.ndarray, name: str) -> dict[str, np.ndarray]:
        """A map that knows: how much a cell differs from the slice that was not touched, but for size 12."""
        clean = np.stack([min(data.slices + 0.5, key=lambda s: (s != picture).sum()) for picture in slices])
        change = np.abs(slices - clean)
        change[(change > 0).sum((1, 2)) > 100] = 0
        cells = change.reshape(len(slices), 20, 4, 20, 4).max((2, 4))
        return {"bits": cells, "unusual": lesions.unusual(model, torch.from_numpy(slices)[:, None] - 0.5).numpy()}

    monkeypatch.setattr(lesions, "maps", seen)
    found = lesions.run(model, data, per_case=2)["scores"]
    assert set(found) == {"bits", "unusual", "bits_given_neighbours"}
    assert found["bits_given_neighbours"]["at_6_and_more"]["lesions"] == 6 * len(lesions.KINDS)
    for size, row in found["bits"]["by_size"].items():
        assert row["lesions"] == 2 * len(lesions.KINDS)
        assert row["auroc_slice"] == (0.5 if size == "12" else 1.0)
        assert row["auroc_pixel"] == 0.5 if size == "12" else row["auroc_pixel"] > 0.9
    assert found["bits"]["at_6_and_more"]["auroc_slice"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert sum(row["lesions"] for row in found["bits"]["at_6_and_more_by_change"].values()) == 6 * len(lesions.KINDS)


def test_no_lesion_where_no_brain_is() -> None:
    lesions = importlib.import_module("benchmarks.quality.lesions")
    assert lesions.place(np.zeros((80, 80), np.float32), "bright", 6, np.random.default_rng(0)) is None


def test_a_lesion_reaches_into_the_levels_beside_it_as_a_ball_does() -> None:
    lesions = importlib.import_module("benchmarks.quality.lesions")
    ball = lesions.Lesion("dark", 40, 40, 12.0)
    areas = [ball.into(np.ones((80, 80)), away)[1].sum() for away in (0, 1, -1, 10)]
    mm = 256 / 80
    expected = [math.pi * (36 - (away / mm) ** 2) for away in (0, 1, 1, 10)]
    np.testing.assert_allclose(areas, expected, rtol=0.02)
    untouched, share = ball.into(np.ones((80, 80)), 20)  # as far as its radius
    assert untouched.min() == 1
    assert not share.any()


@torch.inference_mode()
def test_neighbours_are_those_of_the_person_with_the_lesion_in_them(tiny_cohort: Path) -> None:
    lesions = importlib.import_module("benchmarks.quality.lesions")
    torch.manual_seed(0)
    preset = replace(TINY, size=80, prior_neighbours=2)
    model = OasisVQ(preset, VQVAE(preset), PixelCNN(preset), {}, "cpu")
    model.vqvae.quantiser.codebook.copy_(torch.randn(TINY.codebook_size, TINY.code_dim))
    for parameter in model.prior.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    data = load_split(tiny_cohort, "test", 80)
    levels = len(data) // len(set(data.cases))
    first = torch.from_numpy(data.slices[:levels])[:, None]
    whole = model.surprise(model.encode(first), [*range(levels)], stack=True).numpy()
    for i in (0, 3, levels - 1):
        np.testing.assert_allclose(lesions.given_neighbours(model, data, i), whole[i], rtol=1e-4, atol=1e-4)
    ball = lesions.Lesion("missing", 40, 40, 12.0)
    painted = first.clone()
    for away in (-1, 0, 1):
        painted[3 + away, 0] = torch.from_numpy(ball.into(data.slices[3 + away] + 0.5, away)[0]) - 0.5
    expected = model.surprise(model.encode(painted), [*range(levels)], stack=True).numpy()[3]
    np.testing.assert_allclose(lesions.given_neighbours(model, data, 3, ball), expected, rtol=1e-4, atol=1e-4)


def test_area_under_the_curve_counts_pairs() -> None:
    lesions = importlib.import_module("benchmarks.quality.lesions")
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 5, 20), rng.integers(0, 4, 30)
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert lesions.auroc(positive, negative) == pytest.approx(np.mean(pairs))


def test_edges_are_the_differences_across_a_square() -> None:
    refill = importlib.import_module("benchmarks.quality.refill")
    pictures = torch.zeros(1, 20, 20)
    pictures[:, 8:16, 4:12] = 0.25
    assert np.allclose(refill.edges(pictures, 2, 1, 2, 4), 0.25)
    pictures[:, 16:] = 0.25  # what is below is as grey as the square: no edge there
    assert np.allclose(refill.edges(pictures, 2, 1, 2, 4), [[0.25, 0.25, 0, 0.25]])


def test_excess_looks_below_and_right_alone() -> None:
    refill = importlib.import_module("benchmarks.quality.refill")
    more = torch.zeros(1, 9, 9)
    more[:, 5:7, 2:5] = 3.0
    more[:, 2:5, 5:7] = 1.0
    assert np.allclose(refill.excess(more, 2, 2, 3), [[3.0, 1.0]])
