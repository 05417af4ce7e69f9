"""Can one tell from the prior who was in the training set? A model remembers people whose codes are cheaper to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from oasisvq.measure import metrics

BOOTSTRAPS = 2000


def membership(
    train: tuple[NDArray[np.floating], Sequence[str]],
    held_out: tuple[NDArray[np.floating], Sequence[str]],
    seed: int = 0,
) -> dict[str, Any]:
    """Membership inference by loss (Yeom et al. 2018, arXiv:1709.01604): fewer bits, more likely a training person.

    Args:
        train, held_out: mean bits per code of each slice, (N,) and (M,), and whose it is.

    Returns the mean bits per code of both, and the area under the ROC curve of the guess, 0.5 for chance: from all
    slices of a person (`auc_people`) and from one slice (`auc_slices`), each with its 95 % interval by bootstrap over
    people.
    """
    sides = [_rows_by_person(*side) for side in (train, held_out)]
    rng = np.random.default_rng(seed)
    areas = [
        _areas(*([side[i] for i in rng.integers(len(side), size=len(side))] for side in sides))
        for _ in range(BOOTSTRAPS)
    ]
    found: dict[str, Any] = {"train_people": len(sides[0]), "held_out_people": len(sides[1])}
    for name, side in (("train", train), ("held_out", held_out)):
        by_person = metrics.by_person(*side)
        found |= {
            f"{name}_bits_per_code": float(by_person.mean()),
            f"{name}_bits_per_code_ci95": list(metrics.bootstrap_ci95(by_person)),
        }
    for name, area, ends in zip(
        ("people", "slices"), _areas(*sides), np.percentile(areas, [2.5, 97.5], axis=0).T, strict=True
    ):
        found |= {f"auc_{name}": area, f"auc_{name}_ci95": ends.tolist()}
    return found


def _rows_by_person(values: NDArray[np.floating], people: Sequence[str]) -> list[NDArray[np.floating]]:
    names = np.array(people)
    return [values[names == person] for person in dict.fromkeys(people)]


def _areas(train: list[NDArray[np.floating]], held_out: list[NDArray[np.floating]]) -> tuple[float, float]:
    """Areas under the ROC curve by people and by slices, training people the positives."""
    means = [np.array([rows.mean() for rows in side]) for side in (train, held_out)]
    slices = [np.concatenate(side) for side in (train, held_out)]
    by_people, by_slices = (
        float(roc_auc_score(np.repeat([1, 0], [len(a), len(b)]), -np.concatenate([a, b]))) for a, b in (means, slices)
    )
    return by_people, by_slices
