"""OasisVQ: what each verb promises, on random weights, and what it refuses."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_weights import TINY, forget_the_hub, write_weights

from oasisvq import OasisVQ, OasisVQError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OasisVQ:
    forget_the_hub(monkeypatch, tmp_path)
    torch.manual_seed(0)
    loaded = OasisVQ.from_pretrained(folder, device="cpu")
    loaded.vqvae.quantiser.codebook.copy_(torch.randn(TINY.codebook_size, TINY.code_dim))
    return loaded


def test_info_says_what_is_loaded_and_from_where(model: OasisVQ) -> None:
    assert model.info["source"] == "folder"
    assert model.info["preset"]["name"] == "tiny"
    assert model.info["data"]["name"] == "Phantom cohort"
    assert model.info["results"]["people"] == 1
    assert [line["epoch"] for line in model.info["history"]["vqvae"]] == [1, 2]
    assert set(model.info["files"]) >= {"vqvae.safetensors", "prior.safetensors"}
    assert model.info["device"] == "cpu"


def test_reconstruct_is_decode_of_encode(model: OasisVQ) -> None:
    slices = torch.rand(3, 1, 16, 16) - 0.5
    coded = model.reconstruct(slices)
    assert coded.indices.shape == (3, 4, 4)
    assert torch.equal(coded.indices, model.encode(slices))
    assert torch.equal(coded.slices, model.decode(coded.indices))
    assert coded.slices.abs().max() <= 0.5


def test_sample_is_its_seeds_alone(model: OasisVQ) -> None:
    together = model.sample(3, seed=4, level=2, grade=0.5)
    apart = torch.cat([model.sample(1, seed=4, level=2, grade=0.5, first=i).indices for i in range(3)])
    assert torch.equal(together.indices, apart)
    assert torch.equal(together.slices, model.decode(together.indices))
    assert not torch.equal(together.indices, model.sample(3, seed=5, level=2, grade=0.5).indices)


def test_surprise_is_the_cross_entropy_of_the_prior(model: OasisVQ) -> None:
    indices = torch.randint(0, TINY.codebook_size, (2, 4, 4))
    logits = model.prior(indices, torch.full((2,), 3), torch.full((2,), len(TINY.grades)))
    expected = -torch.log_softmax(logits, 1).gather(1, indices[:, None])[:, 0] / math.log(2)
    torch.testing.assert_close(model.surprise(indices, level=3), expected)


def test_refill_keeps_the_rest(model: OasisVQ) -> None:
    indices = torch.randint(0, TINY.codebook_size, (2, 4, 4))
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 1:3] = True
    filled = model.refill(indices, mask, seed=1)
    assert torch.equal(filled.indices[:, ~mask], indices[:, ~mask])
    assert torch.equal(model.refill(indices, ~mask & mask).indices, indices)
    assert torch.equal(model.refill(indices[:1], mask, seed=1).indices, filled.indices[:1])


def test_nearest_is_the_least_distance_between_decoded_slices(model: OasisVQ) -> None:
    indices = torch.randint(0, TINY.codebook_size, (3, 4, 4))
    training = torch.randint(0, TINY.codebook_size, (70, 4, 4))
    training[66] = indices[1]
    pictures, others = model.decode(indices)[:, 0].double(), model.decode(training)[:, 0].double()
    both = torch.cat([others, others.flip(2)])
    expected = (pictures[:, None] - both).square().mean((2, 3)).sqrt().min(1).values
    found = model.nearest(indices, training)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found[1] == 0 < found[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(torch.zeros(1, 16, 16)), r"takes \(B, 1, 16, 16\)"),
        (lambda m: m.encode(torch.ones(1, 1, 16, 16)), r"leave \[-0.5, 0.5\]"),
        (lambda m: m.encode(torch.full((1, 1, 16, 16), math.nan)), r"leave \[-0.5, 0.5\]"),
        (lambda m: m.decode(torch.full((1, 4, 4), 8)), "integers from 0 to 7"),
        (lambda m: m.decode(torch.zeros(1, 5, 4, dtype=torch.int64)), "codes have shape"),
        (lambda m: m.decode(torch.zeros(1, 4, 4)), "codes have shape"),
        (lambda m: m.sample(1, level=32), "level 32 does not exist"),
        (lambda m: m.sample(1, grade=0.7), "grade 0.7 is unknown"),
        (lambda m: m.sample(1, temperature=0), "temperature"),
        (lambda m: m.refill(torch.zeros(1, 4, 4, dtype=torch.int64), torch.ones(5, 4).bool()), "mask"),
    ],
)
def test_bad_input_is_refused_in_one_line(model: OasisVQ, call, message: str) -> None:
    with pytest.raises(OasisVQError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_no_slice_at_all(model: OasisVQ) -> None:
    assert model.decode(torch.zeros(0, 4, 4, dtype=torch.int64)).shape == (0, 1, 16, 16)


def test_a_numpy_slice_needs_no_ceremony(model: OasisVQ) -> None:
    picture = np.zeros((16, 16), np.float32)
    assert model.encode(torch.from_numpy(picture)[None, None] - 0.5).shape == (1, 4, 4)


def test_each_process_on_a_machine_takes_a_gpu_of_its_own(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(OasisVQ, "__init__", lambda self, *made, **_: taken.append(made[-1]))
    folder = write_weights(tmp_path / "weights")
    for rank in (None, "0", "3"):
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        if rank:
            monkeypatch.setenv("LOCAL_RANK", rank)
        OasisVQ.from_pretrained(folder)
    assert taken == ["cuda:0", "cuda:0", "cuda:3"]
