"""Choosing a slice: a bundled example or a file of the user's, the same choice on every page of a session."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx

from oasisvq.app import code_grid
from oasisvq.app.drawing import GALLERY
from oasisvq.app.models import belongings, reading
from oasisvq.data.examples import examples
from oasisvq.data.slices import to_model
from oasisvq.errors import OasisVQError

if TYPE_CHECKING:  # torch and the readers take longer to import than a first visitor should wait
    from torch import Tensor

    from oasisvq.data.scan import Scan

EXAMPLE, UPLOAD = "Example", "Your own file"
SHOWN_FIRST = 1  # of the examples: a person, at a level with ventricles, which everybody recognises
SLICE = "slice number"  # key of the slider
_MEGABYTES = 100  # as oasisvq.data.upload, which is not imported before it is needed
_KEPT, _REFUSED, _UPLOADS = "uploaded scan", "refused upload", "uploads so far"


class Kept(NamedTuple):
    """A scan that a user uploaded, in the memory of one session.

    Attributes:
        key: tells it from the one before.
        found: what was measured on all its slices, by the sha256 of the weights.
    """

    name: str
    scan: Scan
    key: str
    found: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Chosen:
    """A slice as the model takes it.

    Attributes:
        name: what to call it; safe to show.
        picture: (S, S) in [0, 1].
        source: tells one scan from another in a session.
        index, count: which slice of how many, from below.
        level: where the model would place it, 0 to 31, if that is known.
        edges: letters at the left, right, top and bottom edge, if they are known.
    """

    name: str
    picture: NDArray[np.float32]
    source: str
    index: int = 0
    count: int = 1
    level: int | None = None
    edges: tuple[str, str, str, str] | None = None

    @property
    def tensor(self) -> Tensor:
        """(1, 1, S, S) in [-0.5, 0.5]."""
        return as_tensor(self.picture[None])


@st.cache_resource(show_spinner=False)
def bundled() -> dict[str, NDArray[np.float32]]:
    """The examples that ship, for all sessions: read-only."""
    pictures = examples()
    for picture in pictures.values():
        picture.setflags(write=False)
    return pictures


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


def uploaded() -> Kept | None:
    """The scan of this session, if one was uploaded and is chosen."""
    return st.session_state.get(_KEPT) if st.session_state.get("source") == UPLOAD else None


def in_model_size(name: str, picture: NDArray[np.floating], size: int) -> Chosen:
    """A slice (H, W) in [0, 1] of any size as the model takes it."""
    return Chosen(name, shrunk(picture[None], size)[0], name)


def shrunk(pictures: NDArray[np.floating], size: int) -> NDArray[np.float32]:
    """Slices (N, H, W) in [0, 1] of any size at the size of the model: (N, S, S)."""
    return to_model(pictures, size) + np.float32(0.5)


def as_tensor(pictures: NDArray[np.floating]) -> Tensor:
    """(N, S, S) in [0, 1] -> (N, 1, S, S) in [-0.5, 0.5]."""
    import torch

    return torch.from_numpy(pictures - np.float32(0.5))[:, None]


def harmless(name: str) -> str:
    """A file's name, without what a page would take for markup."""
    return re.sub(r"[^\w .-]", "·", name)[-80:]


def _uploaded(size: int) -> Chosen | None:
    count = st.session_state.setdefault(_UPLOADS, 0)
    file = st.file_uploader(
        "An axial, skull-stripped T1 slice or volume",
        max_upload_size=_MEGABYTES,
        key=f"upload {count}",
        help="PNG, JPEG, TIFF, NIfTI (.nii, .nii.gz), one DICOM file, or a zip of a DICOM series. It is held in memory "
        "for this session only: not stored, not logged, not shown to anyone else.",
    )
    if file is not None:
        _read(file)
        st.session_state[_UPLOADS] += 1  # another uploader takes its place: the bytes are not kept
        st.rerun()
    if refused := st.session_state.get(_REFUSED):
        st.error(refused, icon=":material/error:")
    kept: Kept | None = st.session_state.get(_KEPT)
    if kept is None:
        return None
    name, forget = st.columns([3, 1], vertical_alignment="center")
    name.caption(f"In use: {kept.name}")
    if forget.button("Forget this file", help="And all that was made from it in this session."):
        _forget()
        st.rerun()
    return _slice_of(kept, size)


def _forget() -> None:
    """Let go of the upload, of codes that came from a file, and of draws begun from one."""
    st.session_state.pop(_KEPT, None)
    st.session_state.pop(_REFUSED, None)
    if code_grid.origin() is None:
        code_grid.close()
    if kept := [one for one in belongings().pop(GALLERY, []) if one.origin is not None]:
        belongings()[GALLERY] = kept


def _read(file: st.runtime.uploaded_file_manager.UploadedFile) -> None:
    """Read an upload into the session, or say why not, and let go of its bytes."""
    from oasisvq.data import upload

    name = harmless(file.name)
    st.session_state.pop(_REFUSED, None)
    try:
        with st.spinner("Reading …"), reading():
            scan = upload.read(file.getvalue(), name)
        st.session_state[_KEPT] = Kept(name, scan.halved(), uuid4().hex, {})
        st.session_state[SLICE] = scan.first + 1
    except OasisVQError as error:
        st.session_state.pop(_KEPT, None)
        st.session_state[_REFUSED] = str(error)
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)


def _slice_of(kept: Kept, size: int) -> Chosen:
    scan = kept.scan
    count = len(scan.stack)
    index = 0
    if count > 1:
        st.session_state.setdefault(SLICE, scan.first + 1)
        number = st.slider("Slice, from below", 1, count, key=SLICE, persist_state="session")
        index = number - 1
    for warning in scan.warnings:
        st.warning(warning, icon=":material/warning:")
    for note in scan.notes:
        st.caption(note)
    name = f"{kept.name}, slice {index + 1} of {count}" if count > 1 else kept.name
    picture = shrunk(scan.stack[index][None], size)[0]
    return Chosen(name, picture, kept.key, index, count, scan.levels[index], scan.edges)
