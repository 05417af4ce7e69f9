"""Choosing a slice: a bundled example or a file of the user's, the same choice on every page of a session."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx

from oasisvq.app import address, code_grid, drawn_head, expected, surprise_map
from oasisvq.app.gallery import GALLERY
from oasisvq.app.head import Head, bring_into_frame, progress, show_head
from oasisvq.app.models import session_store, upload_slot
from oasisvq.data.examples import examples, level_in, with_lesion
from oasisvq.data.slices import to_model
from oasisvq.errors import OasisVQError

if TYPE_CHECKING:  # torch and the readers take longer to import than a first visitor should wait
    from streamlit.delta_generator import DeltaGenerator
    from torch import Tensor

    from oasisvq.data.scan import Scan

SOURCE, EXAMPLE, UPLOAD = "source", "Example", "Your own file"
# Of the examples: a person, with ventricles, which everybody recognises, and like the training data of every model.
SHOWN_FIRST = "Colin 27, level 30"
SLICE = "slice number"  # key of the slider
SLICE_NAME = "slice"  # key of the examples, in the address too
_MEGABYTES = 100  # as oasisvq.data.upload, which is not imported before it is needed
_KEPT, _REFUSED, _UPLOADS = "uploaded scan", "refused upload", "uploads so far"
_UNFIT = "upload that does not fit"


class Kept(NamedTuple):
    """A scan that a user uploaded, in the memory of one session.

    Attributes:
        key: tells it from the one before.
        found: what was measured on all its slices, by the sha256 of the prior.
        head: how it was brought into the frame, if it was; `scan` is then its levels, or the slices as they lie.
        other: the other of these two.
        refused: why a volume was not brought into the frame. It may show a face: nothing is shown of it unasked.
    """

    name: str
    scan: Scan
    key: str
    found: dict[str, dict[str, list[float]]]
    head: Head | None = None
    other: Scan | None = None
    refused: str | None = None


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
    name, painted = with_lesion()
    pictures[name] = painted
    for picture in pictures.values():
        picture.setflags(write=False)
    return pictures


def choose_slice(size: int, row: DeltaGenerator, key: str = SLICE_NAME, first: str = SHOWN_FIRST) -> Chosen | None:
    """Widgets, in a row, to choose a slice; None until there is one. An upload lives in the memory of its session
    alone. `key` is that of the examples, `first` the one to begin with."""
    st.session_state.setdefault(SOURCE, EXAMPLE)
    with row:
        source = st.segmented_control(
            "Slice",
            [EXAMPLE, UPLOAD],
            required=True,
            key=SOURCE,
            persist_state="session",
            label_visibility="collapsed",
        )
    if source == UPLOAD:
        return _uploaded(size, row)
    pictures = bundled()
    address.follow(key, first, address.one_of(pictures))
    name = row.selectbox(
        "Example", list(pictures), key=key, persist_state="session", label_visibility="collapsed", width=330
    )
    address.tell({key: (name, first)})
    return in_model_size(name, pictures[name], size)


def remarks() -> None:
    """Below the picture: what was noticed when the file of this session was read."""
    if (kept := uploaded()) is None:
        return
    show_head(kept.head, kept.refused, kept.head is not None and kept.scan is not kept.head.levels, _switch)
    for warning in kept.scan.warnings:
        st.warning(warning, icon=":material/warning:")
    for note in kept.scan.notes:
        st.caption(note)


def uploaded() -> Kept | None:
    """The scan of this session, if one was uploaded and is chosen."""
    return st.session_state.get(_KEPT) if st.session_state.get(SOURCE) == UPLOAD else None


def in_model_size(name: str, picture: NDArray[np.floating], size: int) -> Chosen:
    """A slice (H, W) in [0, 1] of any size as the model takes it."""
    return Chosen(name, shrunk(picture[None], size)[0], name, level=level_in(name))


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


def _uploaded(size: int, row: DeltaGenerator) -> Chosen | None:
    count = st.session_state.setdefault(_UPLOADS, 0)
    kept: Kept | None = st.session_state.get(_KEPT)
    place = st.container() if kept is None else row.popover("Another file")
    file = place.file_uploader(
        "A T1 head, the skull on or off, or an axial slice without the skull: NIfTI, DICOM, zip of a DICOM series, "
        "PNG, JPEG or TIFF. Held in memory for this session only.",
        max_upload_size=_MEGABYTES,
        key=f"upload {count}",
        help="Not stored, not logged, not shown to anyone else.",
    )
    if file is not None:
        _read(file)
        st.session_state[_UPLOADS] += 1  # another uploader takes its place: the bytes are not kept
        st.rerun()
    if refused := st.session_state.get(_REFUSED):
        st.error(refused, icon=":material/error:")
    if (unfit := st.session_state.get(_UNFIT)) is not None:
        st.error(f"{unfit.name}: {unfit.refused}", icon=":material/error:")
        st.button("Use as it lies", on_click=_keep, args=(unfit,), help="Its slices, neither stripped nor turned.")
    if kept is None:
        return None
    if row.button("Forget this file", help="And all that was made from it in this session."):
        _forget()
        st.rerun()
    row.caption(f"In use: {kept.name}", width="content")
    return _slice_of(kept, size, row)


def _forget() -> None:
    """Let go of the upload, of codes that came from a file, and of draws and heads begun from one."""
    st.session_state.pop(_KEPT, None)
    st.session_state.pop(_REFUSED, None)
    st.session_state.pop(_UNFIT, None)
    code_grid.forget_private()
    drawn_head.forget_private()
    expected.forget_private()
    surprise_map.forget_private()
    if kept := {key: one for key, one in session_store().pop(GALLERY, {}).items() if one.origin is not None}:
        session_store()[GALLERY] = kept


def _read(file: st.runtime.uploaded_file_manager.UploadedFile) -> None:
    """Read an upload into the session, or say why not, and let go of its bytes."""

    name = harmless(file.name)
    st.session_state.pop(_REFUSED, None)
    st.session_state.pop(_UNFIT, None)
    on_step, done = progress()
    try:
        kept = _kept(file.getvalue(), name, on_step)
    except OasisVQError as error:
        _forget()  # the file before: it must not be taken for this one
        st.session_state[_REFUSED] = str(error)
    else:
        if kept.refused is not None:
            _forget()
            st.session_state[_UNFIT] = kept
        else:
            _keep(kept)
    done()
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)


def _kept(data: bytes, name: str, on_step: Callable[[str, float], None]) -> Kept:
    """What a session keeps of an upload: no more than is shown of it. Raises OasisVQError, `name` first."""
    from oasisvq.data import upload

    with upload_slot():
        if not upload.is_volume(data):
            return Kept(name, upload.read(data, name).halved(), uuid4().hex, {})
        try:
            volume = upload.read_volume(data)
            scan = upload.as_it_lies(volume).halved()
        except OasisVQError as error:
            raise OasisVQError(f"{name}: {error}") from error
    try:
        head = bring_into_frame(volume, on_step)
    except OasisVQError as error:
        refused = str(error) if len(scan.stack) > 1 else None
        return Kept(name, scan, uuid4().hex, {}, refused=refused)
    return Kept(name, head.levels, uuid4().hex, {}, head, scan)


def _keep(kept: Kept) -> None:
    """Take an upload into use."""
    st.session_state.pop(_UNFIT, None)
    st.session_state[_KEPT] = kept
    st.session_state[SLICE] = kept.scan.first + 1


def _switch() -> None:
    """From the levels of a head to its slices as they lie, and back."""
    kept: Kept = st.session_state[_KEPT]
    assert kept.other is not None
    _keep(kept._replace(scan=kept.other, other=kept.scan, key=uuid4().hex, found={}))


def _slice_of(kept: Kept, size: int, row: DeltaGenerator) -> Chosen:
    scan = kept.scan
    count = len(scan.stack)
    index = 0
    if count > 1:
        st.session_state.setdefault(SLICE, scan.first + 1)
        number = row.slider("Slice, from below", 1, count, key=SLICE, persist_state="session", width=260)
        index = number - 1
    name = f"{kept.name}, slice {index + 1} of {count}" if count > 1 else kept.name
    picture = shrunk(scan.stack[index][None], size)[0]
    return Chosen(name, picture, kept.key, index, count, scan.levels[index], scan.edges)
