"""Choosing a slice: a bundled example or a file of the user's, the same choice on every page of a session."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import streamlit as st
import torch
from numpy.typing import NDArray
from torch import Tensor

from oasisvq.data.examples import examples
from oasisvq.data.slices import to_model
from oasisvq.data.upload import read_image
from oasisvq.errors import OasisVQError
from oasisvq.ui import code_grid

EXAMPLE, UPLOAD = "Example", "Your own file"
SHOWN_FIRST = 2  # of the examples: a level with ventricles, which everybody recognises
FILE_TYPES = ["png", "jpg", "jpeg", "tif", "tiff"]
_KEPT = "uploaded slice"


class Chosen(NamedTuple):
    """A slice as the model takes it: `picture` (S, S) in [0, 1], and what to call it."""

    name: str
    picture: NDArray[np.float32]

    @property
    def tensor(self) -> Tensor:
        """(1, 1, S, S) in [-0.5, 0.5]."""
        return torch.from_numpy(self.picture - np.float32(0.5))[None, None]


bundled = st.cache_data(show_spinner=False)(examples)


def choose_slice(size: int) -> Chosen | None:
    """Widgets to choose a slice; None until there is one. An upload lives in the memory of its session alone."""
    left, right = st.columns([1, 2])
    source = left.segmented_control(
        "Slice", [EXAMPLE, UPLOAD], default=EXAMPLE, required=True, key="source", persist_state="session"
    )
    with right:
        if source == UPLOAD:
            return _uploaded(size)
        pictures = bundled()
        name = st.selectbox("Example", list(pictures), index=SHOWN_FIRST, key="example", persist_state="session")
        return in_model_size(name, pictures[name], size)


def _uploaded(size: int) -> Chosen | None:
    file = st.file_uploader(
        "One axial, skull-stripped T1 slice as PNG, JPEG or TIFF",
        type=FILE_TYPES,
        help="It is held in memory for this session only: not stored, not logged, not shown to anyone else.",
    )
    if file is not None:
        try:
            st.session_state[_KEPT] = in_model_size(file.name, read_image(file.getvalue(), file.name), size)
        except OasisVQError as error:
            st.error(str(error), icon=":material/error:")
            return None
    kept: Chosen | None = st.session_state.get(_KEPT)
    if kept is not None and file is None:
        st.caption(f"Still in use: {kept.name}")
        if st.button("Forget this file"):
            del st.session_state[_KEPT]
            code_grid.close()  # may hold its codes
            st.rerun()
    return kept


def in_model_size(name: str, picture: NDArray[np.floating], size: int) -> Chosen:
    """A slice (H, W) in [0, 1] of any size as the model takes it."""
    return Chosen(name, to_model(picture[None], size)[0] + np.float32(0.5))
