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
    names = ["README.md", "Dockerfile", "docs", *(name for line in copied for name in line.split())]
    paths = (path for name in names for path in ((root / name).rglob("*") if (root / name).is_dir() else [root / name]))
    # Beside the code lies what Python made of it, beside weights perhaps the state of their training.
    files = {
        path.relative_to(root).as_posix(): path
        for path in paths
        if path.is_file() and not {"__pycache__", "state"} & set(path.parts)
    }
    return upload(repo, files, private, "Publish the oasisvq app", space=True)
