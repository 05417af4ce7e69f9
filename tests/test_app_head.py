"""A whole head in the app: in the frame, its planes, and as it lies; what does not fit shows nothing unasked."""

import numpy as np
import pytest
from heads import head
from scans import nifti
from test_app import open_page
from test_app_reconstruct import captions

from oasisvq.app.head import FRAME, MASK
from oasisvq.data.frame import LEVELS

pytestmark = pytest.mark.slow


def opened(volume: tuple[np.ndarray, np.ndarray], name: str):
    app = open_page("reconstruct")
    app.segmented_control(key="source").set_value("Your own file").run()
    app.file_uploader[0].upload(name, nifti(*volume), "").run(timeout=400)
    assert not app.exception
    return app


def button(app, label: str):
    [found] = [one for one in app.button if one.label == label]
    return found


def test_a_head_shows_its_levels_and_how_it_was_found():
    app = opened(head(), "head.nii")
    assert not app.error
    slider = app.slider(key="slice number")
    assert (slider.min, slider.max, slider.value) == (1, LEVELS, 21)
    assert "litres" in captions(app)
    kept = app.session_state["uploaded scan"]
    assert kept.scan.levels == tuple(range(LEVELS))
    assert kept.scan.edges == ("L", "R", "A", "P")

    # Of the head itself nothing is kept but what lies inside the mask, in three pictures.
    assert len(kept.head.planes) == 3
    for plane in kept.head.planes:
        inside = (plane != 0).any(-1)
        assert (plane == MASK).all(-1).any()
        assert (plane == FRAME).all(-1).any()
        assert inside[:, 0].sum() + inside[:, -1].sum() + inside[0].sum() == 0
        assert inside.mean() < 0.5

    button(app, "Use as it lies").click().run(timeout=100)
    assert app.slider(key="slice number").max > 60
    button(app, "Use in the frame").click().run(timeout=100)
    assert app.slider(key="slice number").max == LEVELS


def test_another_contrast_is_refused_and_shown_only_when_asked():
    voxels, affine = head()
    app = opened((np.where(voxels > 0.05, 1.1 - voxels, 0).astype(np.float32), affine), "t2.nii")
    assert "t2.nii: its brightness is not that of a T1" in app.error[0].value
    assert "uploaded scan" not in app.session_state
    assert not app.slider
    button(app, "Use as it lies").click().run(timeout=100)
    assert not app.error
    assert app.slider(key="slice number").max > 60
