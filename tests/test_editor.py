"""The editor's reducer: no operation lost, none applied twice, undo by stroke."""

import numpy as np
import pytest

from oasisvq.app.editor import UNDO_DEPTH, put, reduce, start
from oasisvq.errors import OasisVQError

K = 512


@pytest.fixture
def editor():
    return start(np.arange(400).reshape(20, 20), epoch="a")


def paint(seq, cells, code=7, stroke=None):
    return {"seq": seq, "kind": "paint", "cells": cells, "code": code, "stroke": seq if stroke is None else stroke}


def do(editor, *operations):
    return reduce(editor, "a", operations, K)


def test_queue_resent_many_times_in_any_order_is_applied_once(editor):
    """A browser resends what is not acknowledged; the result must be that of a plain loop over the strokes."""
    rng = np.random.default_rng(0)
    strokes = [paint(i + 1, rng.choice(400, 5).tolist(), int(rng.integers(K))) for i in range(30)]
    expected = np.arange(400)
    for stroke in strokes:
        expected[stroke["cells"]] = stroke["code"]

    sent, acknowledged = 0, 0
    while acknowledged < 30:
        sent = min(30, sent + int(rng.integers(1, 4)))
        queue = strokes[acknowledged:sent]
        rng.shuffle(queue)
        editor = do(editor, *queue)
        editor = do(editor, *queue)
        if rng.random() < 0.5:  # this acknowledgement reached the browser
            acknowledged = editor.ack
    assert editor.ack == 30
    np.testing.assert_array_equal(editor.indices.ravel(), expected)
    assert len(editor.past) == 30


def test_operations_of_another_picture_are_dropped(editor):
    assert reduce(editor, "b", [paint(1, [3])], K) is editor


def test_undo_and_redo_walk_by_stroke(editor):
    one = do(editor, paint(1, [0, 1], stroke=1), paint(2, [2], stroke=1))
    two = do(one, paint(3, [5], stroke=3))
    back = do(two, {"seq": 4, "kind": "undo"})
    np.testing.assert_array_equal(back.indices, one.indices)
    start_again = do(back, {"seq": 5, "kind": "undo"}, {"seq": 6, "kind": "undo"})
    np.testing.assert_array_equal(start_again.indices, editor.original)
    forth = do(start_again, {"seq": 7, "kind": "redo"}, {"seq": 8, "kind": "redo"})
    np.testing.assert_array_equal(forth.indices, two.indices)
    assert do(back, paint(5, [9])).future == ()


def test_a_stroke_going_on_after_undo_is_a_new_step(editor):
    undone = do(editor, paint(1, [0], stroke=1), {"seq": 2, "kind": "undo"}, paint(3, [1], stroke=1))
    assert len(undone.past) == 1
    assert undone.changed.sum() == 1


def test_erase_and_reset_return_to_the_original_and_can_be_undone(editor):
    painted = do(editor, paint(1, [0, 1, 2]))
    erased = do(painted, {"seq": 2, "kind": "erase", "cells": [1], "stroke": 2})
    assert np.flatnonzero(erased.changed).tolist() == [0, 2]
    reset = do(erased, {"seq": 3, "kind": "reset"})
    assert not reset.changed.any()
    assert np.flatnonzero(do(reset, {"seq": 4, "kind": "undo"}).changed).tolist() == [0, 2]


def test_selection_is_kept_apart_from_the_codes(editor):
    selected = do(editor, {"seq": 1, "kind": "select", "cells": [4, 5]}, {"seq": 2, "kind": "deselect", "cells": [4]})
    assert np.flatnonzero(selected.selection).tolist() == [5]
    assert selected.past == ()
    assert not do(selected, {"seq": 3, "kind": "clear"}).selection.any()


def test_states_are_never_written_to(editor):
    before = editor.indices.copy()
    do(editor, paint(1, [0, 1, 2]))
    np.testing.assert_array_equal(editor.indices, before)


def test_put_is_one_undoable_step_and_depth_is_bounded(editor):
    filled = put(editor, np.full((20, 20), 3))
    assert len(filled.past) == 1
    assert put(filled, np.full((20, 20), 3)) is filled
    for seq in range(1, UNDO_DEPTH + 50):
        filled = do(filled, paint(seq, [0], code=seq % 2))
    assert len(filled.past) == UNDO_DEPTH


@pytest.mark.parametrize(
    "operation",
    [
        paint(1, [400]),
        paint(1, [-1]),
        paint(1, [0], code=K),
        {"seq": 1, "kind": "explode"},
    ],
)
def test_nonsense_is_refused(editor, operation):
    with pytest.raises(OasisVQError):
        do(editor, operation)
