"""The app's own components in the browser, and bytes as they are sent to them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray


def component(module: str) -> Any:
    """The component whose .html, .css and .js lie beside a module, by its `__file__`."""
    here = Path(module)
    parts: dict[str, Any] = {kind: here.with_suffix(f".{kind}").read_text() for kind in ("html", "css", "js")}
    return st.components.v2.component(f"oasisvq_{here.stem}", **parts)


def packed(values: NDArray[np.generic]) -> str:
    """The bytes of an array."""
    return base64.b64encode(values.tobytes()).decode()


def data_url(content: bytes, kind: str = "webp") -> str:
    """The address of a picture that is sent within the page."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
