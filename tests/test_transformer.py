"""The benchmark beside MONAI's transformer."""

from pathlib import Path

import pytest
import torch
from tiny_weights import TINY, forget_the_hub, write_weights

from benchmarks.speed import transformer
from oasisvq import OasisVQ


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OasisVQ:
    forget_the_hub(monkeypatch, tmp_path)
    return OasisVQ.from_pretrained(write_weights(tmp_path / "tiny"), device="cpu")


def test_the_transformer_is_as_large_and_sees_only_what_comes_before(model: OasisVQ) -> None:
    torch.manual_seed(0)
    wanted = 200_000
    peer = transformer.Peer(TINY, wanted).eval()
    assert transformer.count(peer) == pytest.approx(wanted, rel=0.1)
    indices = torch.randint(0, 8, (2, 4, 4))
    level, grade = torch.tensor([0, TINY.levels]), torch.tensor([4, 1])
    logits = peer(indices, level, grade)
    assert logits.shape == (2, TINY.codebook_size, 4, 4)
    changed = indices.clone()
    changed[:, 2, 1] = (changed[:, 2, 1] + 1) % 8
    moved = (peer(changed, level, grade) - logits).abs().amax((0, 1)).flatten()
    assert not moved[: 2 * 4 + 2].any()
    assert moved[2 * 4 + 2 :].all()
    assert (peer(indices, level.flip(0), grade) - logits).abs().amax((0, 1)).all()
    assert (peer(indices, level, grade.flip(0)) - logits).abs().amax((0, 1)).all()


def test_both_learn_for_equal_time_and_are_judged_alike(model: OasisVQ, tiny_cohort: Path) -> None:
    ours, theirs = transformer.compare_bits(model, tiny_cohort, minutes=0.02, rate=1e-3, peer_rate=1e-3)
    assert ours["name"] == "PixelCNN"
    for row in (ours, theirs):
        assert row["minutes"] == pytest.approx(0.02, rel=0.5)
        assert row["steps"] > 3
        assert 0 < row["test_bits_per_code"] < 4
    codes = transformer.encode(model, tiny_cohort, "test", mirrored=False)
    unknown = transformer.bits(model.prior, codes)
    expected = torch.cat(
        [
            model.surprise(codes.indices[i : i + 1], int(codes.level[i]), (*TINY.grades, None)[codes.grade[i]])
            for i in range(len(codes.indices))
        ]
    )
    assert unknown == pytest.approx(float(expected.mean()), rel=1e-4)


def test_both_draw_and_the_ratio_is_that_of_images_a_second(model: OasisVQ) -> None:
    row = transformer.compare_draws(model, batch=2, repeats=1)
    assert row["ratio"] == pytest.approx(row["ours_images_a_second"] / row["monai_images_a_second"])
