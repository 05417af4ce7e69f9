"""README and docs: figures as the JSON beside the weights has them, links that lead somewhere, code that runs."""

import json
import re
import runpy
import statistics
from pathlib import Path

import pytest

from oasisvq.errors import OasisVQError
from oasisvq.hub import sources
from oasisvq.hub.card import model_card
from oasisvq.hub.manifest import MANIFEST, MEASURED, MODELS, read_manifest
from oasisvq.measure import atypical
from oasisvq.models.presets import PRESETS, TOP_K
from oasisvq.models.sampling import APPEARANCE_SCALE

ROOT = Path(__file__).parent.parent
FIGURES = runpy.run_path(str(ROOT / "benchmarks" / "figures.py"))
BLOCKS, NONE, Weights = FIGURES["BLOCKS"], FIGURES["NONE"], FIGURES["Weights"]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("path", FIGURES["DOCUMENTS"], ids=lambda path: path.name)
def test_text_and_json_agree(path: Path) -> None:
    text = path.read_text()
    assert FIGURES["filled"](text, FIGURES["shipped"]()) == text, "run `python -m oasisvq benchmark figures`"


def test_who_was_trained_on_is_told_by_the_stage_that_tells_most() -> None:
    """A cascade ships the prior of its coarse stage, which others can ask by itself."""
    alone, cascade = weights(), weights("large")
    files = {"prior.safetensors": {"sha256": "fine"}, "coarse/prior.safetensors": alone.manifest["files"][MODELS[1]]}
    cascade = cascade._replace(manifest=cascade.manifest | {"files": files})
    for coarse, said in ((0.9, "0.90, the coarse prior, which is that of base"), (0.6, "0.70")):
        both = [
            one._replace(records=one.records | {"draws": {"membership": {"auc_people": auc}}})
            for one, auc in ((alone, coarse), (cascade, 0.7))
        ]
        [row] = [line for line in BLOCKS["summary"](both).splitlines() if "by the stage that reveals most" in line]
        assert row.split(" | ")[1:3] == [f"{coarse:.2f}", said]
    _, cascade = both
    [row] = [line for line in BLOCKS["summary"]([cascade]).splitlines() if "by the stage that reveals most" in line]
    assert row.split(" | ")[1] == "0.70, the coarse prior not measured"


def test_videos_are_those_of_whoever_shares_the_vqvae() -> None:
    codecs = {"AV1 (slow)": {"bytes_at_this_ssim": 116.1}, "HEVC": {"bytes_at_this_ssim": 214.5}}
    both = [weights(), weights("heads", heads={"videos": {"codecs": codecs}})]
    [row] = [line for line in BLOCKS["summary"](both).splitlines() if "video codec" in line]
    assert row.split(" | ")[1:3] == ["116, AV1", "116, AV1"]


def test_what_the_readme_says_of_alignment_is_so() -> None:
    words = " ".join((ROOT / "README.md").read_text().split())
    claim = "52 copies of four scans, turned, scaled and thickened at random, land within a degree and a millimetre"
    assert claim in words
    found = FIGURES["record"]("align")
    assert found["copies"] == 52
    assert found["good_refused"] == 0
    assert max(found["turn_worst"], found["shift_worst"]) < 1


def test_every_block_stands_somewhere() -> None:
    told = "".join(path.read_text() for path in FIGURES["DOCUMENTS"])
    assert set(re.findall(r"<!-- figures: (\w+) -->", told)) == set(BLOCKS)
    assert told.count("<!-- figures: ") == told.count("<!-- end -->")


def weights(preset: str = "base", history: bool = True, **records: object) -> object:
    manifest = read_manifest(sources.BUNDLED / "base")
    log = {"vqvae": [{"seconds": 60.0}, {"seconds": 120.0}, {"seconds": 90.0}]} if history else {}
    measured = {Path(name).stem: None for name in MEASURED} | records
    return Weights(preset, PRESETS[preset], manifest, measured, log)


@pytest.mark.parametrize("name", BLOCKS)
def test_weights_without_measurements_are_told_apart_from_bad_ones(name: str) -> None:
    for shown in ([], [weights()], [weights(history=False), weights("large")]):
        text = re.sub("`[^`]*`", "", BLOCKS[name](shown))  # lines of code may say anything
        assert "nan" not in text
        assert "None" not in text
    if name in ("summary", "reconstruction", "draws", "rate", "lesions", "outliers", "anatomy", "heads"):
        assert NONE in BLOCKS[name]([weights()])


def test_a_table_has_a_column_for_each_of_the_weights() -> None:
    results = {"ssim_mean": 0.98765, "ssim_ci95": [0.98, 0.99], "codebook_utilisation": 0.5}
    draws = {"auc": {"against_reconstructions": 0.5555, "against_reconstructions_by_seed": [0.5, 0.625, 0.25]}}
    both = [weights(results=results, draws=draws), weights("large", results={"people": 20})]
    rows = dict(line.split(" | ", 1) for line in BLOCKS["summary"](both).splitlines() if " | " in line)
    assert rows["| SSIM of reconstructions"] == f"0.988 (0.980 to 0.990) | {NONE} | 1: equal |"
    assert rows["| AUC at 80 × 80, samples against reconstructions"].startswith(f"0.56 (0.25 to 0.62) | {NONE} | ")
    assert rows["| its codes, and their codebook"].startswith("20×20 of 512 | 20×20 of 512 and 64×64 of ")
    assert "| share of the codebook in use | 50.0 % |" in BLOCKS["reconstruction"](both)
    assert "| base | vqvae | 3 | 1.5 | 49.8 | bf16 |" in BLOCKS["trained"](both)
    # The other weights have the same VQ-VAE, which was trained once.
    assert BLOCKS["trained"](both).count("vqvae") == 1
    assert BLOCKS["scaled"](both).count("vqvae") == 1


def test_the_codecs_shown_are_the_clearest_as_small_and_the_smallest_as_clear() -> None:
    def point(size: float, ssim: float, brain: float) -> dict[str, float]:
        return {"bytes": size, "ssim": ssim, "ssim_foreground": brain}

    def whole(some: dict[str, list[dict[str, float]]]) -> dict[str, list[dict[str, float]]]:
        """All codecs with all their points; those not given are large and unclear."""
        left = {name: len(one.steps) - len(some.get(name, [])) for name, one in FIGURES["CODECS"].items()}
        return {name: [*some.get(name, []), *[point(10_000, 0.5, 0.1)] * count] for name, count in left.items()}

    codecs = {
        "WebP": [point(300, 0.96, 0.95), point(90, 0.7, 0.6), point(100, 0.8, 0.7)],
        "JPEG": [point(240, 0.9, 0.90), point(260, 0.92, 0.94)],
        "AVIF": [point(100, 0.6, 0.5), point(120, 0.7, 0.6)],
    }
    size = {"codecs": whole(codecs), "together": whole({}), "models": {"base": {"prior": point(110, 0.96, 0.92)}}}
    text = BLOCKS["rate"]([weights(rate={"sizes": {"80": size}})])
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    assert rows[1:] == [
        ["WebP, a file a slice", "110", "0.808", "0.712"],  # a twentieth of the way from 100 to 300 bytes
        ["JPEG, a file a slice", "250", "0.910", "0.920"],
    ]
    smaller = {"JPEG": [point(50, 0.9, 0.94), point(80, 0.92, 0.95)]}  # and clearer throughout
    size["codecs"] = whole(smaller)
    rows = BLOCKS["rate"]([weights(rate={"sizes": {"80": size}})]).splitlines()[3:]
    assert rows == [f"| JPEG, a file a slice | {row} |" for row in ("80 | 0.920 | 0.950", "50 | 0.900 | 0.940")]
    size["codecs"] = whole({"JPEG": codecs["JPEG"]})
    assert "no codec is that small" in BLOCKS["summary"]([weights(rate={"sizes": {"80": size}})])
    size["codecs"] = whole(smaller) | smaller  # measured in part: of what is known none is the best
    only = weights(rate={"sizes": {"80": size}})
    assert len(BLOCKS["rate"]([only]).splitlines()) == 3
    rows = dict(line.split(" | ", 1) for line in BLOCKS["summary"]([only]).splitlines() if " | " in line)
    assert rows["| bytes of a slice as a file"].startswith("110 |")
    assert rows["| SSIM of the best image codec in as many bytes"].startswith(f"{NONE} |")


def test_an_unknown_block_is_an_error() -> None:
    with pytest.raises(OasisVQError, match="no figures are called nothing"):
        FIGURES["filled"]("<!-- figures: nothing -->\nx\n<!-- end -->", [])


def test_figures_written_by_hand_name_the_weights_that_they_are_of() -> None:
    shipped = {one.manifest["files"]["vqvae.safetensors"]["sha256"][:12] for one in FIGURES["shipped"]()}
    for path in DOCUMENTS:
        assert set(re.findall(r"`([0-9a-f]{12})`", path.read_text())) <= shipped, path


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not link.startswith("http"):
            target, _, heading = link.partition("#")
            found = path.parent / target if target else path
            assert found.exists(), link
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE) if heading else []
            assert not heading or heading in {re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings}, (
                link
            )


def test_the_apps_document_names_every_page() -> None:
    from oasisvq.app.frame import PAGES

    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs" / "app.md").read_text(), re.MULTILINE)
    assert [page.title for page in PAGES] == rows[1 : 1 + len(PAGES)]


def test_readme_is_short_and_keeps_its_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    install = "python3.11 -m venv .venv && .venv/bin/pip install -r requirements"
    assert f"{install}.txt && .venv/bin/streamlit run app.py\n" in text
    assert f"{install}-dev.txt && .venv/bin/python -m pytest\n" in text
    assert "not for diagnosis" in text
    assert not text.startswith("---")  # front matter is added by publish


@pytest.mark.slow
def test_the_python_of_readme_runs_and_says_the_shapes() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 8
    names: dict[str, object] = {}
    exec(code, names)
    sampled, bits, filled = names["sampled"], names["bits"], names["filled"]
    assert tuple(sampled.indices.shape) == tuple(bits.shape) == tuple(filled.indices.shape) == (4, 20, 20)
    assert tuple(sampled.slices.shape) == (4, 1, 80, 80)


@pytest.mark.parametrize("folder", sorted(sources.BUNDLED.glob("*/manifest.json")), ids=lambda path: path.parent.name)
def test_shipped_cards_say_what_their_records_say(folder: Path) -> None:
    assert (folder.parent / "README.md").read_text() == model_card(folder.parent), "run `python -m oasisvq package`"


def test_the_strength_of_brightness_is_that_at_which_it_varies_as_in_training_slices() -> None:
    records = [found for one in FIGURES["shipped"]() if (found := one.records["strength"])]
    assert records
    for found in records:
        assert found["split"] == "validate"
        off = {row["strength"]: abs(statistics.mean(row["brightness_variance_ratio"]) - 1) for row in found["rows"]}
        assert off[APPEARANCE_SCALE] == min(off.values())


def test_no_other_number_of_codes_is_plainly_better_than_top_k() -> None:
    records = [found for one in FIGURES["shipped"]() if (found := one.records["top_k"])]
    assert records
    for found in records:
        assert found["split"] == "validate"
        (used,) = (row for row in found["rows"] if row["top_k"] == TOP_K)
        assert used["anatomy_ratio"]["left-right symmetry"] <= 1
        for row in found["rows"]:
            assert statistics.mean(used["auc"]) < statistics.mean(row["auc"]) + statistics.stdev(row["auc"]) / 2


def test_no_other_constant_of_the_deviation_map_finds_lesions_better() -> None:
    records = [found for one in FIGURES["shipped"]() if (found := one.records["deviation"])]
    assert records
    for found in records:
        assert found["split"] == "validate"
        used, *others = found["rows"]
        constants = {name: used[name] for name in ("nearness", "least", "smoothing")}
        assert constants == {name: getattr(atypical, name.upper()) for name in constants}
        for score in ("auroc_slice", "auroc_pixel"):
            assert used[score] > max(row[score] for row in others) - 0.002


MEASURED_ON = {
    "date": "2026-01-02",
    "processor": "a processor",
    "cores": 2,
    "threads": 1,
    "commit": "c" * 40,
    "versions": {},
}
MACHINE = {
    "app": {"first_paint_s": 2.04, "first_page_complete_s": 4.1, "page_change_s": 0.2, "page_change_slowest_s": 0.4}
    | {"stroke_s": 0.06, "stroke_slowest_s": 0.08},
    "training": {"rows": [{"precision": "fp32", "ours_slices_per_second": 50.4, "ours_over_monai": 1.014}]},
    "crowd": {
        "visitors": 30,
        "cores": 2,
        "errors": [],
        "memory_after_mb": 712.2,
        "draw_median_s": 26.1,
        "draw_p95_s": 31.0,
    },
    "container": {"packages_mb": 1750.0, "source_mb": 32.0, "start_seconds": 0.6, "first_page_with_model_seconds": 2.6},
    "streaming": {
        "rows": [
            {"slices": 10000, "imports_mib": 248.0, "decoding_peak_mib": 10.0, "loading_peak_mib": 8.0}
            | {"in_memory_would_be_mib": 244.1}
        ],
        "slices_per_second": {"decoding": 900.0, "loading": 9400.0, "training": 22.0},
    },
    "fuzz": {"readers": {"png": {"inputs": 100000}}},
    "same_bytes": {"sha256": {"vqvae.safetensors": "a", "prior.safetensors": "b"}, "killed_after_seconds": 16.2},
}
SAID = {
    "speed": "fp32: 50 slices a second, 1.01 times MONAI's",
    "crowd": "30 visitors on 2 cores, medians: a sample 26 s (95th percentile 31 s); 0 errors. The server held 712 MB.",
    "container": "1.75 GB of packages beside 32 MB of source",
    "streaming": "| 10,000 | 258 MiB | 10 MiB | 0.2 GiB |",
    "fuzz": "png 100,000",
    "same_bytes": "All 2 files came out with the same sha256, also when the training had been killed after 16 s.",
}


@pytest.mark.parametrize("name", SAID)
def test_what_was_measured_of_a_machine_stands_beside_the_circumstances(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIGURES["record"].__globals__, "RECORDS", tmp_path)
    assert NONE in BLOCKS[name]([])
    for record, figures in MACHINE.items():
        (tmp_path / f"{record}.json").write_text(json.dumps({"measured": MEASURED_ON, **figures}))
    text = BLOCKS[name]([])
    assert SAID[name] in text
    assert "a processor, 2 cores, threads 1, 2026-01-02, commit cccccccccccc" in text


def test_records_say_their_circumstances() -> None:
    records = [*(ROOT / "benchmarks" / "records").glob("*.json"), *sources.BUNDLED.glob("*/*.json")]
    study = json.loads((ROOT / "benchmarks" / "quality" / "study.json").read_text())["rows"]
    found = [(path, json.loads(path.read_text())) for path in records if path.name != MANIFEST]
    assert len(found) > 30
    for path, record in [*found, *(("study", row) for row in study)]:
        told = record["measured"]
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", told["date"]), path
        assert all(told[key] for key in ("processor", "threads", "commit")), path
        assert not told["commit"].endswith("-dirty"), path


def test_a_record_of_other_weights_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIGURES["record"].__globals__, "RECORDS", tmp_path)
    base = weights()
    hashes = {name: stamp["sha256"] for name, stamp in base.manifest["files"].items()}
    row = {"proposals": 16, "excess_below": 0.01, "excess_right": -0.04, "excess_error": 0.06}
    row |= {f"jump_{edge}": 0.9 for edge in ("top", "bottom", "left", "right")}
    for known, said in ((hashes, "| base | 16 | 0.01 | -0.04 | 0.06 | 0.90, 0.90, 0.90, 0.90 |"), ({}, NONE)):
        record = {"measured": MEASURED_ON, "rows": [row], "weights_sha256": known}
        (tmp_path / "refill-base.json").write_text(json.dumps(record))
        assert said in BLOCKS["refill"]([base])
