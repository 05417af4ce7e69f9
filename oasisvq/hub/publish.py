"""Weights, or the app with the weights that come with it, uploaded to the Hub in one commit."""

from __future__ import annotations

import re
from pathlib import Path

from oasisvq.errors import OasisVQError
from oasisvq.hub import sources
from oasisvq.hub.card import model_card
from oasisvq.hub.client import upload
from oasisvq.hub.manifest import CARD, MANIFEST, pictures_in
from oasisvq.hub.verification import verify

# What Hugging Face reads of a Space, above its README.
FRONT_MATTER = """---
title: oasisvq
emoji: 🧠
colorFrom: indigo
colorTo: gray
sdk: docker
app_port: 8501
pinned: false
---

"""
# Of the repository, beside the Dockerfile and what it copies: what README links to.
_BESIDE = ("Dockerfile", "docs", "benchmarks/quality/study.md", "LICENSE", "NOTICE", "*.md", "CITATION.cff")


def publish(folder: Path, repo: str, private: bool = False) -> str:
    """Upload verified weights, manifest, records, figures and model card in one commit. Returns the commit to pin.

    Creates the repository if there is none; `private` matters only then. Raises OasisVQError when the weights do not
    pass `verify`, or the Hub says no.
    """
    manifest = verify(folder)
    card = folder / CARD
    files = {
        CARD: card if card.is_file() else model_card(folder).encode(),
        **{name: folder / name for name in (MANIFEST, *manifest["files"], *pictures_in(folder))},
    }
    return upload(repo, files, private, f"Publish oasisvq weights, preset {manifest['preset']['name']}")


def publish_space(repo: str, private: bool = False) -> str:
    """Upload the app and the bundled weights in one commit, as a Space that the Dockerfile builds. Returns the commit.

    Raises OasisVQError outside a clone of the repository, when weights do not pass `verify`, or the Hub says no.
    """
    root = sources.BUNDLED.parent
    if not (root / "Dockerfile").is_file():
        raise OasisVQError(f"{root / 'Dockerfile'} is missing: a Space is published from a clone of the repository")
    for name in sources.bundled():
        verify(sources.BUNDLED / name)
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", (root / "Dockerfile").read_text(), re.MULTILINE)
    names = [*_BESIDE, *(name for line in copied for name in line.split())]
    found = (path for name in names for path in root.glob(name))
    paths = (path for one in found for path in (one.rglob("*") if one.is_dir() else [one]))
    # Beside the code lies what Python made of it, beside weights perhaps the state of their training.
    files: dict[str, Path | bytes] = {
        path.relative_to(root).as_posix(): path
        for path in paths
        if path.is_file() and not {"__pycache__", "state"} & set(path.relative_to(root).parts)
    }
    files["README.md"] = FRONT_MATTER.encode() + (root / "README.md").read_bytes()
    return upload(repo, files, private, "Publish the oasisvq app", space=True)
