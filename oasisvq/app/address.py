"""Chosen model, slice and settings in the address of a page: they survive a reload, and travel in a link.

The address decides: a value that it leaves out is at its default. Each time it changes, by a link, a reload or the
browser's back and forward, the widgets follow it; each time a widget changes, the address follows. Whoever opens a link
may have written it: a value that makes no sense is ignored. Nothing of an upload is ever written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import streamlit as st

Reader = Callable[[str], Any]  # raises ValueError on text that makes no sense

_SEEN = "address as last seen"
_LONGEST = 200  # characters of a value


def one_of(options: Iterable[Any]) -> Reader:
    """Reads one of these options from its text."""
    by_text = {str(option): option for option in options}

    def read(text: str) -> Any:
        if text not in by_text:
            raise ValueError(f"{text} is no option")
        return by_text[text]

    return read


def number(kind: type, low: float, high: float) -> Reader:
    """Reads a number within bounds."""

    def read(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError(f"{value} is out of range")
        return value

    return read


def follow(key: str, default: Any, read: Reader) -> None:
    """Before the widget `key`: set it to what the address says, if that is news."""
    asked = st.query_params.get(key)
    if key in st.session_state and asked == _seen().get(key):
        st.session_state[key] = st.session_state[key]  # else the widget of another page would begin anew
        return
    _seen()[key] = asked
    try:
        st.session_state[key] = default if asked is None else read(asked[:_LONGEST])
    except ValueError:
        st.session_state[key] = default


def tell(values: Mapping[str, tuple[Any, Any]]) -> None:
    """After the widgets: write (value, default) of each into the address, as one step of the browser's history."""
    texts = {key: None if value == default else str(value) for key, (value, default) in values.items()}
    now = st.query_params.to_dict()
    after = {key: text for key, text in (now | texts).items() if text is not None}
    if after != now:
        st.query_params.from_dict(after)
    _seen().update(texts)


def of(keys: Iterable[str]) -> dict[str, str]:
    """What a link to a page says about these keys, as they were last seen."""
    return {key: text for key in keys if (text := _seen().get(key)) is not None}


def _seen() -> dict[str, str | None]:
    return st.session_state.setdefault(_SEEN, {})
