"""The quantiser against brute force, and the model's promises about shapes, borders and range."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from oasisvq.data.examples import examples
from oasisvq.data.slices import to_model
from oasisvq.hub import sources
from oasisvq.hub.manifest import read_manifest, read_records
from oasisvq.measure.metrics import ssim
from oasisvq.models.presets import PRESETS, Preset
from oasisvq.models.vqvae import VQVAE, VectorQuantiser

TINY = replace(PRESETS["smoke"], channels=(8, 8), code_dim=4, codebook_size=16)


@pytest.fixture
def quantiser() -> VectorQuantiser:
    torch.manual_seed(0)
    q = VectorQuantiser(16, 4, depth=1, decay=0.9, warmup=1)
    q.codebook.copy_(torch.randn(16, 4))
    q.counts.fill_(1.0)
    q.sums.copy_(q.codebook)
    return q


def test_nearest_agrees_with_brute_force(quantiser: VectorQuantiser) -> None:
    z = torch.randn(200, 4)
    brute = [min(range(16), key=lambda k: float((v - quantiser.codebook[k]).square().sum())) for v in z]
    assert quantiser.nearest(z).tolist() == brute


def test_with_a_rate_weight_rarer_codes_count_as_farther(quantiser: VectorQuantiser) -> None:
    quantiser.counts.copy_(torch.arange(16.0))  # the first code has died
    quantiser.rate_weight, quantiser.warmup = 0.5, 10
    z = torch.randn(300, 4)
    codes = quantiser.codebook.double()
    nearest = [float(min((codes[i] - codes[j]).square().sum() for j in range(16) if j != i)) for i in range(16)]
    shares = [max(count / 120, 0.25 / 16) for count in range(16)]
    plain = quantiser.nearest(z)
    for steps in (0, 5, 10, 99):
        quantiser.steps.fill_(steps)
        weight = 0.5 * min(steps / 10, 1) * sum(nearest) / 16
        bits = [-weight * math.log2(share) for share in shares]
        cost = [[float((v.double() - codes[k]).square().sum()) + bits[k] for k in range(16)] for v in z]
        chosen = quantiser.nearest(z)
        assert chosen.tolist() == [min(range(16), key=row.__getitem__) for row in cost]
        assert torch.equal(chosen, plain) == (steps == 0)


def test_several_codes_a_cell_are_those_of_the_reference_library(quantiser: VectorQuantiser) -> None:
    """Indices, what they add up to, and what the codebook learns from all of them."""
    reference = pytest.importorskip("vector_quantize_pytorch").ResidualVQ(
        dim=4, codebook_size=16, num_quantizers=3, shared_codebook=True, decay=0.9, threshold_ema_dead_code=0
    )
    reference.layers[0]._codebook.embed.data.copy_(quantiser.codebook[None])
    quantiser.depth = 3
    z = torch.randn(2, 4, 5, 6)
    expected, indices, _ = reference.eval()(z.flatten(2).mT)  # (2, 30, 4), (2, 30, 3)
    quantised = quantiser.eval()(z)
    assert torch.equal(quantised.indices, indices.reshape(2, 5, 18))
    torch.testing.assert_close(quantised.codes, expected.mT.reshape(z.shape))
    torch.testing.assert_close(quantiser.lookup(quantised.indices), quantised.codes)

    targets, found = quantiser.assign(z.permute(0, 2, 3, 1).reshape(-1, 4))  # (3, 60, 4), (3, 60)
    counts, sums = quantiser.counts.clone(), quantiser.sums.clone()
    for k in range(16):
        mine = targets[found == k]
        counts[k] = 0.9 * counts[k] + 0.1 * len(mine)
        sums[k] = 0.9 * sums[k] + 0.1 * mine.sum(0)
    quantiser.train()(z)
    torch.testing.assert_close(quantiser.codebook, sums / counts[:, None])


def test_more_codes_a_cell_come_closer(quantiser: VectorQuantiser) -> None:
    z = torch.randn(2, 4, 5, 5)
    errors = []
    for quantiser.depth in (1, 2, 3):
        errors.append(float((quantiser.eval()(z).codes - z).square().mean()))
    assert errors[0] > 1.5 * errors[1]
    assert errors[1] > 1.2 * errors[2]


def test_gradient_goes_straight_through(quantiser: VectorQuantiser) -> None:
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    quantised = quantiser.eval()(z)
    upstream = torch.randn_like(z)
    quantised.codes.backward(upstream)
    torch.testing.assert_close(z.grad, upstream)


def test_commitment_is_the_mean_squared_distance_and_pulls_the_encoder_alone(quantiser: VectorQuantiser) -> None:
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    quantised = quantiser.eval()(z)
    chosen = quantiser.codebook[quantised.indices].permute(0, 3, 1, 2)
    torch.testing.assert_close(quantised.commitment, (z - chosen).square().mean())
    quantised.commitment.backward()
    torch.testing.assert_close(z.grad, 2 * (z - chosen).detach() / z.numel())


def test_moving_averages_agree_with_a_loop(quantiser: VectorQuantiser) -> None:
    z = torch.randn(3, 4, 5, 5)
    flat = z.permute(0, 2, 3, 1).reshape(-1, 4)
    counts, sums = quantiser.counts.clone(), quantiser.sums.clone()
    indices = quantiser.nearest(flat)
    for k in range(16):
        mine = flat[indices == k]
        counts[k] = 0.9 * counts[k] + 0.1 * len(mine)
        sums[k] = 0.9 * sums[k] + 0.1 * mine.sum(0)
    quantiser.train()(z)
    torch.testing.assert_close(quantiser.counts, counts)
    torch.testing.assert_close(quantiser.codebook, sums / counts[:, None])


def test_moving_averages_agree_with_the_reference_library(quantiser: VectorQuantiser) -> None:
    reference = pytest.importorskip("vector_quantize_pytorch").VectorQuantize(
        dim=4, codebook_size=16, decay=0.9, threshold_ema_dead_code=0, eps=1e-9
    )
    reference._codebook.embed.data.copy_(quantiser.codebook[None])
    reference._codebook.embed_avg.data.copy_(quantiser.sums[None])
    reference._codebook.cluster_size.data.copy_(quantiser.counts[None])
    z = torch.randn(3, 25, 4)
    reference.train()(z)
    quantiser.train()(z.permute(0, 2, 1).reshape(3, 4, 5, 5))
    torch.testing.assert_close(reference._codebook.embed[0], quantiser.codebook, atol=1e-5, rtol=1e-5)


def test_dead_codes_restart_where_the_codebook_is_poor() -> None:
    torch.manual_seed(0)
    q = VectorQuantiser(8, 2, depth=1, decay=0.99, warmup=1)
    background = torch.zeros(900, 2)
    brain = torch.randn(100, 2) + 5
    z = torch.cat([background, brain]).reshape(1, 40, 25, 2).permute(0, 3, 1, 2)
    q.train()(z)
    # Restarts drawn evenly would leave about seven of eight codes on the background.
    assert (q.codebook.norm(dim=1) > 1).sum() >= 6


def test_a_code_in_use_never_restarts(quantiser: VectorQuantiser) -> None:
    quantiser.counts[3] = 0.0
    before = quantiser.codebook.clone()
    quantiser._restart_dead(torch.randn(50, 4) * 10)
    changed = (quantiser.codebook != before).any(1)
    assert changed.nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize(
    ("size", "channels", "depth", "grid"),
    [(80, (8, 8), 1, (20, 20)), (80, (8,), 1, (40, 40)), (128, (4, 8, 8), 1, (16, 16)), (80, (8, 8), 2, (20, 40))],
)
def test_shapes_range_and_agreement_of_the_verbs(
    size: int, channels: tuple[int, ...], depth: int, grid: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    preset = replace(TINY, size=size, channels=channels, blocks=(1,) * len(channels), depth=depth)
    assert preset.grid == grid
    model = VQVAE(preset).train()
    slices = torch.rand(2, 1, size, size) - 0.5
    model(slices)  # seeds the codebook
    model.eval()
    output, quantised = model(slices)
    indices = model.encode(slices)
    assert indices.shape == (2, *grid)
    assert indices.dtype == torch.int64
    assert torch.equal(indices, quantised.indices)
    decoded = model.decode(indices)
    assert decoded.shape == slices.shape
    assert decoded.abs().max() <= 0.5
    torch.testing.assert_close(decoded, output.clamp(-0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("base", 80, (20, 20)),
        ("large", 256, (64, 64)),
    ],
)
def test_every_preset_takes_its_slices_to_its_grid_and_learns(name: str, size: int, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = VQVAE(PRESETS[name]).train()
    slices = torch.rand(1, 1, size, size) - 0.5
    output, quantised = model(slices, torch.rand(1, 1, size, size) - 0.5 if PRESETS[name].coarse else None)
    assert output.shape == slices.shape
    assert quantised.indices.shape == (1, *grid)
    (output - slices).abs().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_finer_stage_is_given_the_picture_and_says_what_to_add_to_it() -> None:
    torch.manual_seed(0)
    model = VQVAE(replace(TINY, coarse=TINY)).eval()
    slices, picture = torch.rand(2, 1, 1, 80, 80) - 0.5
    other = picture.clone()
    other[:, :, 40:44, 40:44] = -picture[:, :, 40:44, 40:44]
    codes = torch.randn(1, 4, 20, 20)
    seen = model.encoder(torch.cat([slices, other], 1)) - model.encoder(torch.cat([slices, picture], 1))
    added = (model.decoder(codes, other) - other) - (model.decoder(codes, picture) - picture)
    for change, cell in ((seen, 1), (added, 4)):
        assert change[:, :, 10 * cell : 11 * cell, 10 * cell : 11 * cell].abs().max() > 1e-4
        assert change[:, :, 18 * cell :].abs().max() < 1e-5, "far away nothing changes"
    torch.nn.init.zeros_(model.decoder.last.weight)
    torch.nn.init.zeros_(model.decoder.last.bias)
    assert torch.equal(model.decoder(codes, picture), picture)


@torch.inference_mode()
def test_weights_that_ship_still_reconstruct_as_clearly_as_measured() -> None:
    """Of another man than those of the record, so a little is allowed for."""
    folder = sources.BUNDLED / "base"
    manifest = read_manifest(folder)
    model = VQVAE(Preset.from_dict(manifest["preset"])).eval()
    model.load_state_dict({key: x.float() for key, x in load_file(folder / "vqvae.safetensors").items()})
    slices = to_model(examples()["Colin 27, level 12"][None], manifest["preset"]["size"])
    decoded = model.decode(model.encode(torch.from_numpy(slices)[:, None]))[:, 0].numpy()
    assert ssim(slices[0] + 0.5, decoded[0] + 0.5) > read_records(folder, manifest)["results"]["ssim_mean"] - 0.02


def test_black_border_costs_one_code() -> None:
    """A black slice is the same everywhere for the encoder: padding must not draw a frame round it."""
    torch.manual_seed(0)
    model = VQVAE(TINY).eval()
    z = model.encoder(torch.full((1, 1, 80, 80), -0.5))
    assert (z - z[:, :, :1, :1]).abs().max() < 1e-5


def test_quantisation_is_blended_in_over_the_warm_up(quantiser: VectorQuantiser) -> None:
    quantiser.warmup = 10
    z = torch.randn(2, 4, 3, 3)
    for step in (1, 2, 10, 11):
        quantiser.steps.fill_(step - 1)
        before = quantiser.codebook.clone()
        quantised = quantiser.train()(z)
        chosen = before[quantised.indices].permute(0, 3, 1, 2)
        torch.testing.assert_close(quantised.codes, z + min(step / 10, 1) * (chosen - z))
    finished = quantiser.eval()
    finished.steps.zero_()
    quantised = finished(z)
    torch.testing.assert_close(quantised.codes, finished.codebook[quantised.indices].permute(0, 3, 1, 2))


def test_a_restarted_code_is_alive_and_stays_until_it_has_had_its_time(quantiser: VectorQuantiser) -> None:
    quantiser.counts[[3, 7]] = 0.0
    quantiser._restart_dead(torch.randn(50, 4) * 10)
    restarted = quantiser.codebook.clone()
    assert (quantiser.counts[[3, 7]] == 1).all()
    torch.testing.assert_close(quantiser.sums[[3, 7]], restarted[[3, 7]])
    quantiser._restart_dead(torch.randn(50, 4) * 10)
    assert torch.equal(quantiser.codebook, restarted), "restarted again, one step later"
