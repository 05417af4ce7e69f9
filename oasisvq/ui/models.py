"""The one model that all users share, and their turns on it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import streamlit as st
import torch

from oasisvq.pipeline import OasisVQ
from oasisvq.ui.palette import Palette, make_palette
from oasisvq.ui.turns import Turns


@st.cache_resource(show_spinner="Loading the weights …")
def load_model() -> OasisVQ:
    """The model of this server. Raises OasisVQError when there are no weights to be had."""
    # One thread a request: two requests that share threads wait for each other at every layer.
    torch.set_num_threads(1)
    model = OasisVQ.from_pretrained()
    # Streamlit collects garbage after every run. What is loaded by now stays anyway: looking through it each time
    # cost 0.2 s, most of the time from a click to a picture.
    gc.freeze()
    return model


@st.cache_resource(show_spinner="Decoding the codebook …")
def load_palette() -> Palette:
    """Every code of the model as a picture."""
    with turn():
        return make_palette(load_model())


@st.cache_resource
def _turns() -> Turns:
    return Turns(os.cpu_count() or 1)


def turn() -> AbstractContextManager[Callable[[], None]]:
    """Hold one of the places to compute; the yielded function passes the place on to whoever waits."""
    return _turns().turn()
