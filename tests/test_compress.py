"""Files of codes: what comes out is what went in, and its size is what the prior promises."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_weights import CASCADE, DATA, TINY, TRAINING, write_weights

from oasisvq import OasisVQ, OasisVQError, compress
from oasisvq.cli import main
from oasisvq.hub.manifest import COARSE, write_manifest

KINDS = {"a code a cell": TINY, "two codes a cell": replace(TINY, depth=2), "cascade": CASCADE}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny", preset=request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> OasisVQ:
    loaded = OasisVQ.from_pretrained(folder, device="cpu")
    torch.manual_seed(0)
    for stage in loaded.stages:
        for weights in stage.prior.parameters():  # an untrained prior is nearly flat, and knows no level or grade
            torch.nn.init.normal_(weights, std=0.2)
    return loaded


@pytest.fixture(scope="module")
def drawn(model: OasisVQ) -> torch.Tensor:
    return model.sample(20, seed=1, level=3).indices


def back(model: OasisVQ, files: list[bytes]) -> torch.Tensor:
    return compress.decompress(model, {str(i): file for i, file in enumerate(files)})


def test_codes_come_back_from_one_pass_and_from_another_batch_size(model: OasisVQ, drawn: torch.Tensor) -> None:
    levels, grades = np.arange(20) % (TINY.levels + 1), np.arange(20) % (len(TINY.grades) + 1)
    files = compress.compress(model, drawn, levels, grades)
    assert torch.equal(back(model, files), drawn)
    assert torch.equal(back(model, files[7:8])[0], drawn[7])
    assert compress.compress(model, drawn[7:8], levels[7:8], grades[7:8]) == files[7:8]


def test_codes_that_the_prior_finds_all_but_impossible_come_back_too(model: OasisVQ) -> None:
    stages = model.preset.stages
    least, most = ([torch.full((1, *s.grid), s.codebook_size - 1) * x for s in stages] for x in (0, 1))
    unlikely = torch.cat([model.preset.join(least), model.preset.join(most)])
    assert torch.equal(back(model, compress.compress(model, unlikely)), unlikely)


def test_size_is_the_bits_of_the_prior_and_a_fixed_header(model: OasisVQ, drawn: torch.Tensor) -> None:
    levels = np.full(20, 3)
    sizes = np.array([len(file) for file in compress.compress(model, drawn, levels)])
    ideal = model.surprise(drawn, level=3).sum((1, 2)).numpy() / 8
    assert (sizes - ideal).min() > 9
    assert (sizes - ideal).max() < 11.5


def test_whole_numbers_survive_a_prior_that_is_a_little_off(model: OasisVQ, drawn: torch.Tensor) -> None:
    stages, coarse = [], None
    with torch.inference_mode():
        unknown = torch.full((20,), TINY.levels), torch.full((20,), len(TINY.grades))
        for stage, part in zip(model.stages, model.preset.split(drawn), strict=True):
            logits = stage.exact_prior(part, *unknown, picture=stage.exact_picture(coarse))
            stages.append(logits.flatten(2).mT.numpy())  # (20, h * w, K)
            coarse = part
    rng = np.random.default_rng(0)
    for tables in zip(*stages, strict=True):
        shift = compress._safe_shift(tables)
        for table in tables:
            off = table + rng.uniform(-compress.MARGIN, compress.MARGIN, table.shape)
            assert np.array_equal(compress._weights(off, shift), compress._weights(table, shift))


def test_a_logit_on_the_border_makes_the_encoder_shift() -> None:
    sixteenth = math.log(2) / 16
    table = np.array([[0.0, -3.0, -5 * sixteenth]])
    shift = compress._safe_shift(table)
    assert shift > 0
    for off in (-compress.MARGIN, compress.MARGIN):
        assert np.array_equal(compress._weights(table + np.array([0, 0, off]), shift), compress._weights(table, shift))


def test_weights_are_powers_of_two_by_sixteenths() -> None:
    weights = compress._weights(np.array([[0.0, -math.log(2) - 1e-3, -100.0]]), 0)
    assert weights.tolist() == [[2**22, math.floor(2 ** (22 - 17 / 16)), 1]]
    # None so near a whole number that another machine could round it differently.
    exact = 2.0 ** (22 - np.arange(353) / 16)
    assert (np.abs(exact - np.rint(exact))[np.arange(353) % 16 != 0] > 1e-6).all()


@pytest.mark.parametrize("at", range(12))
def test_every_byte_of_header_and_message_is_guarded(model: OasisVQ, drawn: torch.Tensor, at: int) -> None:
    (file,) = compress.compress(model, drawn[:1])
    broken = file[:at] + bytes([file[at] ^ 0x41]) + file[at + 1 :]
    with pytest.raises(OasisVQError):
        back(model, [broken])


def test_levels_are_as_many_as_slices(model: OasisVQ, drawn: torch.Tensor) -> None:
    with pytest.raises(OasisVQError, match="need as many levels"):
        compress.compress(model, drawn[:3], levels=[1, 2])


@pytest.mark.parametrize(("level", "grade"), [(1, 0), (0, 1)])
def test_a_level_or_grade_beyond_unknown_is_damage(model: OasisVQ, drawn: torch.Tensor, level: int, grade: int) -> None:
    (file,) = compress.compress(model, drawn[:1])
    condition = bytes([file[8] + level, file[9] + 32 * grade])  # both were unknown
    with pytest.raises(OasisVQError, match="damaged"):
        back(model, [file[:8] + condition + file[10:]])


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(OasisVQError, match="not finite"):
        compress._safe_shift([np.array([[0.0, math.nan]])])


def test_a_message_is_cut_to_the_fewest_bytes_first() -> None:
    assert list(compress._cut(b"\x01\x02")) == [b"", b"\x01", b"\x02"]
    assert list(compress._cut(b"\xff\x05")) == [b"", b"\xff"]
    assert list(compress._cut(b"")) == []
    assert list(compress._cut(bytes(range(10))))[:2] == [bytes([0, 1, 2]), bytes([0, 1, 3])]


def test_bytes_become_words_with_zeros_behind() -> None:
    assert compress._words(b"\x01\x02\x03\x04\x05").tolist() == [0x01020304, 0x05000000]
    assert compress._words(b"\0\0\1\0").tolist() == [256]


def test_cut_and_foreign_files_are_refused(model: OasisVQ, drawn: torch.Tensor, tmp_path: Path) -> None:
    (file,) = compress.compress(model, drawn[:1])
    for content in (b"", b"Q", b"PNG" * 20, file[:12], file + bytes(4 * model.preset.codes)):
        with pytest.raises(OasisVQError):
            back(model, [content])
    other = OasisVQ.from_pretrained(write_weights(tmp_path / "other", seed=1, preset=model.preset), device="cpu")
    with pytest.raises(OasisVQError, match="--weights"):
        back(other, [file])


@pytest.mark.parametrize("name", COARSE)
def test_a_file_of_another_coarse_stage_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "weights", preset=CASCADE)
    first = OasisVQ.from_pretrained(folder, device="cpu")
    (file,) = compress.compress(first, first.sample(1, seed=1).indices)
    shutil.copy(write_weights(tmp_path / "other", seed=1, preset=CASCADE) / name, folder / name)
    write_manifest(folder, CASCADE, DATA, TRAINING)
    with pytest.raises(OasisVQError, match="--weights"):
        back(OasisVQ.from_pretrained(folder, device="cpu"), [file])


def test_a_code_is_told_by_the_codebook_of_its_stage(tmp_path: Path) -> None:
    model = OasisVQ.from_pretrained(write_weights(tmp_path / "weights", preset=CASCADE), device="cpu")
    wrong = torch.zeros(1, 1, CASCADE.codes, dtype=torch.int64)
    wrong[0, 0, 15] = TINY.codebook_size - 1
    assert torch.equal(back(model, compress.compress(model, wrong)), wrong)
    wrong[0, 0, 16] = CASCADE.codebook_size
    with pytest.raises(OasisVQError, match="0 to 5"):
        compress.compress(model, wrong)


def test_codes_and_conditions_out_of_range_are_refused(model: OasisVQ, drawn: torch.Tensor) -> None:
    for wrong in (drawn[:, 1:], drawn + TINY.codebook_size, -drawn - 1):
        with pytest.raises(OasisVQError, match=r"codes (have shape|leave the codebook)"):
            compress.compress(model, wrong)
    for levels, grades in (([TINY.levels + 1], None), (None, [-1])):
        with pytest.raises(OasisVQError, match="levels go from"):
            compress.compress(model, drawn[:1], levels, grades)


def test_from_the_command_line_there_and_back(
    folder: Path, model: OasisVQ, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = np.zeros((64, 64), np.uint8)
    picture[16:48, 20:44] = 150
    picture[28:36, 28:36] = 60
    Image.fromarray(picture).save(tmp_path / "head.png")
    weights, figures = ["--weights", str(folder)], tmp_path / "figures.json"
    words = ["compress", str(tmp_path / "head.png"), "--out", str(tmp_path / "small"), "--level", "3"]
    assert main([*words, "--json", str(figures), *weights]) == 0
    plain = {(4, 4): 16 * 3, (4, 8): 32 * 3, (6, 6): 16 * 3 + 36 * math.log2(6)}[model.preset.grid] / 8
    assert json.loads(figures.read_text())["bytes_plain"] == pytest.approx(plain)
    small = tmp_path / "small" / "head.ovq"
    assert str(small.stat().st_size) in capsys.readouterr().out
    assert main(["decompress", str(small), "--out", str(tmp_path / "back"), *weights]) == 0
    assert main(["reconstruct", str(tmp_path / "head.png"), "--out", str(tmp_path / "direct"), *weights]) == 0
    again, direct = (np.asarray(Image.open(tmp_path / where / "head.png")) for where in ("back", "direct"))
    assert np.array_equal(again, direct)

    capsys.readouterr()
    content = small.read_bytes()
    small.write_bytes(content[:5] + bytes([content[5] ^ 1]) + content[6:])
    assert main(["decompress", str(small), "--out", str(tmp_path / "back"), *weights]) == 2
    assert "head.ovq" in capsys.readouterr().err


@pytest.mark.slow
def test_other_arithmetic_decodes_the_same(folder: Path, tmp_path: Path) -> None:
    loaded = OasisVQ.from_pretrained(folder, device="cpu")
    indices = loaded.sample(3, seed=2).indices
    for i, content in enumerate(compress.compress(loaded, indices)):
        (tmp_path / f"{i}.ovq").write_bytes(content)
    # The kernels that processors without wide vectors get, on two threads.
    other = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
    command = [sys.executable, "-m", "oasisvq", "decompress", *sorted(map(str, tmp_path.glob("*.ovq")))]
    subprocess.run(
        [*command, "--out", str(tmp_path / "back"), "--weights", str(folder)],
        env=os.environ | other | {"OMP_NUM_THREADS": "2"},
        cwd=Path(__file__).parent.parent,
        check=True,
    )
    for i, picture in enumerate(loaded.decode(indices)[:, 0].numpy() + 0.5):
        again = np.asarray(Image.open(tmp_path / "back" / f"{i}.png")) / 255
        assert np.abs(again - picture).max() < 0.6 / 255
