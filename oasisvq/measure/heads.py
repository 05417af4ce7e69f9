"""How much drawn heads hang together like people's: measures on stacks of plain pictures, (N, L, S, S) in [0, 1].

N heads, L levels from the lowest to the highest. Drawn heads are compared with the reconstructions of held-out people:
what the VQ-VAE adds or takes away is the same on both sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from tqdm import tqdm

from oasisvq.measure import realism

Stacks = NDArray[np.floating]

CUTS = 16  # upright cuts of a head in each direction, from a quarter to three quarters of the way through
VOLUMES = ("brain area", "ventricle share", "left-right symmetry")


def steps(heads: Stacks) -> NDArray[np.float64]:
    """Root mean square difference of neighbouring levels: (N, L, S, S) -> (N, L - 1), in greys whose range is 1."""
    return np.sqrt(np.square(np.diff(heads.astype(np.float64), axis=1)).mean((2, 3)))


def cuts(heads: Stacks) -> dict[str, Stacks]:
    """Upright cuts, each level a row: (N, L, S, S) -> (N * CUTS, L, S) from side to side and from front to back."""
    size = heads.shape[3]
    places = np.linspace(size / 4, 3 * size / 4, CUTS).astype(int)
    coronal, sagittal = heads[:, :, places].transpose(0, 2, 1, 3), heads[:, :, :, places].transpose(0, 3, 1, 2)
    return {name: np.concatenate(list(cut))[:, ::-1] for name, cut in (("coronal", coronal), ("sagittal", sagittal))}


def measure(drawn: Stacks, people: Stacks, train: Stacks, seed: int = 0) -> dict[str, Any]:
    """Every figure of this module, as plain values ready for JSON; the same seed gives the same figures.

    Args:
        drawn, people: drawn heads, and the reconstructions of held-out people, (N, L, S, S) and (M, L, S, S).
        train: the reconstructions of training people, to look for copies among.
    """
    own, real = steps(drawn), steps(people)
    by_level = own.mean(0) / real.mean(0)
    who = {"drawn": np.arange(len(drawn)), "people": np.arange(len(people))}
    figures: dict[str, Any] = {
        "heads": len(drawn),
        "people": len(people),
        "step_ratio": float(own.mean() / real.mean()),
        "step_ratio_by_level": by_level.tolist(),
        "step_ratio_least": float(by_level.min()),
        "step_ratio_most": float(by_level.max()),
        "auc": {"seeds": realism.CLASSIFIER_SEEDS},
    }
    drawn_cuts, people_cuts = cuts(drawn), cuts(people)
    for name in drawn_cuts:
        whose = {side: np.repeat(ids, CUTS).astype(str) for side, ids in who.items()}
        figures["auc"] |= _areas(name, drawn_cuts[name], people_cuts[name], whose["people"], whose["drawn"], seed)
    levels = drawn.shape[1]
    whose = {side: np.repeat(ids, levels).astype(str) for side, ids in who.items()}
    own_levels, real_levels = (np.concatenate(list(heads)) for heads in (drawn, people))
    figures["auc"] |= _areas("single levels", own_levels, real_levels, whose["people"], whose["drawn"], seed)
    figures["anatomy"] = _volumes(drawn, people, seed)
    figures["copies"] = _copies(drawn, people, train)
    return figures


def _areas(
    name: str, drawn: Stacks, people: Stacks, whose: NDArray[np.str_], drawn_whose: NDArray[np.str_], seed: int
) -> dict[str, Any]:
    bar = tqdm(range(seed, seed + realism.CLASSIFIER_SEEDS), f"classifiers of {name}", disable=None, leave=False)
    areas = [realism.auc(drawn, people, whose, one, drawn_people=drawn_whose) for one in bar]
    return {name: float(np.mean(areas)), f"{name} by seed": areas}


def _volumes(drawn: Stacks, people: Stacks, seed: int) -> dict[str, Any]:
    """Means over the levels of each head: Wasserstein distance to people, over that between halves of the people."""
    rng = np.random.default_rng(seed)
    panels = [
        {
            name: np.array([[realism.anatomy(level)[name] for level in head] for head in heads]).mean(1)
            for name in VOLUMES
        }
        for heads in (drawn, people)
    ]
    figures = {}
    for name in VOLUMES:
        own, real = (panel[name] for panel in panels)
        distances = []
        for _ in range(realism.SPLITS):
            order = rng.permutation(len(real))
            a, b = real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
            some = rng.choice(own, min(len(b), len(own)), replace=False)
            distances.append([wasserstein_distance(some, a), wasserstein_distance(b, a)])
        of_drawn, of_halves = np.mean(distances, axis=0)
        figures[name] = {
            "drawn_mean": float(own.mean()),
            "people_mean": float(real.mean()),
            "ratio": float(of_drawn / of_halves),
        }
    return figures


def _copies(drawn: Stacks, people: Stacks, train: Stacks) -> dict[str, float]:
    """Distance of whole heads to the nearest training person, root mean square."""

    def nearest(heads: Stacks) -> NDArray[np.float64]:
        return np.array([min(np.sqrt(np.square(head - other).mean()) for other in train) for head in heads])

    own, real = nearest(drawn), nearest(people)
    return {
        "drawn_least": float(own.min()),
        "drawn_median": float(np.median(own)),
        "people_least": float(real.min()),
        "people_median": float(np.median(real)),
        "share_closer": float((own < real.min()).mean()),
    }
