"""README and docs: figures as the JSON beside the weights has them, links that lead somewhere, code that runs."""

import re
import runpy
from pathlib import Path

import pytest

from oasisvq.errors import OasisVQError
from oasisvq.hub import sources
from oasisvq.hub.manifest import MEASURED, read_manifest
from oasisvq.models.presets import PRESETS

ROOT = Path(__file__).parent.parent
FIGURES = runpy.run_path(str(ROOT / "benchmarks" / "figures.py"))
BLOCKS, NONE, Weights = FIGURES["BLOCKS"], FIGURES["NONE"], FIGURES["Weights"]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("path", FIGURES["DOCUMENTS"], ids=lambda path: path.name)
def test_text_and_json_agree(path: Path) -> None:
    text = path.read_text()
    assert FIGURES["filled"](text, FIGURES["shipped"]()) == text, "run `python -m oasisvq benchmark figures`"


def test_every_block_stands_somewhere() -> None:
    told = "".join(path.read_text() for path in FIGURES["DOCUMENTS"])
    assert set(re.findall(r"<!-- figures: (\w+) -->", told)) == set(BLOCKS)
    assert told.count("<!-- figures: ") == told.count("<!-- end -->")


def weights(preset: str = "base", history: bool = True, **records: object) -> object:
    manifest = read_manifest(sources.BUNDLED / "base")
    log = {"vqvae": [{"seconds": 60.0}, {"seconds": 120.0}, {"seconds": 90.0}]} if history else {}
    measured = {Path(name).stem: None for name in MEASURED} | records
    return Weights(preset, PRESETS[preset], manifest, measured, log)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "picture"])
def test_weights_without_measurements_are_told_apart_from_bad_ones(name: str) -> None:
    for shown in ([], [weights()], [weights(history=False), weights("large")]):
        text = BLOCKS[name](shown)
        assert "nan" not in text
        assert "None" not in text
    if name in ("summary", "reconstruction", "draws", "rate", "lesions", "outliers", "anatomy", "heads"):
        assert NONE in BLOCKS[name]([weights()])


def test_a_table_has_a_column_for_each_of_the_weights() -> None:
    results = {"ssim_mean": 0.98765, "ssim_ci95": [0.98, 0.99], "codebook_utilisation": 0.5}
    draws = {"auc": {"against_reconstructions": 0.5555, "against_reconstructions_by_seed": [0.5, 0.625, 0.25]}}
    both = [weights(results=results, draws=draws), weights("large")]
    rows = dict(line.split(" | ", 1) for line in BLOCKS["summary"](both).splitlines() if " | " in line)
    assert rows["| SSIM of reconstructions"] == f"0.988 (0.980 to 0.990) | {NONE} | 1: equal |"
    assert rows["| AUC, samples against reconstructions"].startswith(f"0.56 (0.25 to 0.62) | {NONE} | ")
    assert rows["| its codes, and their codebook"].startswith("20×20 of 512 | 20×20 of 512 and 64×64 of ")
    assert "| share of the codebook in use | 50.0 % |" in BLOCKS["reconstruction"](both)
    assert "| base | vqvae | 3 | 1.5 | bf16 |" in BLOCKS["trained"](both)


def test_the_codecs_shown_are_the_clearest_as_small_and_the_smallest_as_clear() -> None:
    def point(size: float, ssim: float, brain: float) -> dict[str, float]:
        return {"bytes": size, "ssim": ssim, "ssim_foreground": brain}

    codecs = {
        "WebP": [point(90, 0.7, 0.6), point(100, 0.8, 0.7), point(300, 0.97, 0.95)],
        "JPEG": [point(250, 0.9, 0.93)],
    }
    size = {"codecs": codecs, "together": {}, "models": {"base": {"prior": point(110, 0.96, 0.92)}}}
    text = BLOCKS["rate"]([weights(rate={"sizes": {"80": size}})])
    assert [line.split(" | ")[1] for line in text.splitlines()[2:]] == ["110", "100", "250"]


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
