"""How much draws look like real people: measures on plain pictures, (N, S, S) in [0, 1], S a multiple of 8.

Draws are compared with held-out people, never against the people that the models saw. Slices of one person are
near-copies, so wherever real slices are split, they are split by person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import wasserstein_distance
from skimage.filters import threshold_otsu
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from oasisvq.data.layout import SliceSet
from oasisvq.data.slices import foreground
from oasisvq.errors import OasisVQError

Pictures = NDArray[np.floating]

MEASURES = ("brain area", "ventricle share", "grey/white contrast", "left-right symmetry", "edge sharpness")

# Random splits of the held-out people into halves, and random picks of training slices: enough for steady means.
SPLITS = 50
FRECHET_SPLITS = 10
CLASSIFIER_SEEDS = 10

# Shares of the brightness of white matter. The brain's outline: lower, and the faint haze that a decoder leaves round a
# brain counts as brain; higher, and blur moves the outline. Water is darker than what lies between it (about 0.2) and
# grey matter (about 0.6).
_OUTLINE, _DARK = 0.15, 0.4

# The feature space: cells a side, orientations, and the weight that gives the coarse picture about the variance of the
# gradients on real slices.
_CELLS, _ORIENTATIONS = 8, 6
_COARSE_WEIGHT = 0.3


def measure(
    drawn: Pictures,
    sources: NDArray[np.integer],
    held_out: SliceSet,
    reconstructed: Pictures,
    train: SliceSet,
    train_reconstructed: Pictures,
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure of this module, as plain values ready for JSON; the same seed gives the same figures.

    Args:
        drawn: the draws.
        sources: for each draw, the held-out slice whose level and grade it was drawn at, (N,).
        held_out, train: people of a split that the models were not fitted to, and those that they were.
        reconstructed, train_reconstructed: their slices through the VQ-VAE.

    Raises OasisVQError when fewer than two people are held out.
    """
    if len(set(held_out.cases)) < 2:
        raise OasisVQError("only one person is held out: halves of held-out people need at least two")
    real, people = held_out.slices + 0.5, np.array(held_out.cases)
    pick = _like(held_out, sources, train, np.random.default_rng(seed))
    trained_on = np.array(train.cases)
    return {
        "anatomy": anatomy_figures(
            {"draws": drawn, "reconstructions": reconstructed[sources], "training": train.slices[pick] + 0.5},
            sources,
            real,
            people,
            seed,
        ),
        "frechet": frechet_figures(drawn, sources, held_out, train, train_reconstructed, seed),
        "auc": auc_figures(drawn, {"held_out": real, "reconstructions": reconstructed}, people, seed)
        | {"training": auc_figures(train.slices[pick] + 0.5, {"held_out": real}, people, seed, trained_on[pick])},
        "copies": _copy_figures(drawn, reconstructed, train_reconstructed),
    }


# Anatomy


def anatomy(picture: Pictures) -> dict[str, float]:
    """The panel of one picture, (S, S). Brightness is taken relative to white matter (95th percentile of the brain).

    brain area: share of the picture inside the brain's filled outline, where it is 0.15.
    ventricle share: water (under 0.4), at least half as deep in the brain as its deepest point, over the brain's area.
    grey/white contrast: 1 - grey / white, the means of the tissue on either side of Otsu's threshold (Otsu 1979).
    left-right symmetry: correlation with the mirror image inside the brain, both blurred by 1.5 pixels, at the upright
        axis where it is highest.
    edge sharpness: root mean square of the gradient more than 2 pixels inside the outline, white matter = 1. (Its mean
        length would not do: spreading an edge leaves that as it is.)

    All are 0 for a black picture.
    """
    picture = picture.astype(np.float64)
    visible = foreground(picture)
    if not visible.any():
        return dict.fromkeys(MEASURES, 0.0)
    picture = picture / np.percentile(picture[visible], 95)
    brain = ndimage.binary_fill_holes(picture > _OUTLINE)
    depth = ndimage.distance_transform_edt(brain)
    dark = brain & (picture < _DARK)
    steepness = sum(np.square(g) for g in np.gradient(picture))
    values = (
        brain.mean(),
        (dark & (depth > depth.max() / 2)).sum() / brain.sum(),
        _contrast(picture[brain & ~dark]),
        _symmetry(ndimage.gaussian_filter(picture, 1.5), brain),
        np.sqrt(steepness[depth > 2].mean()) if depth.max() > 2 else 0.0,
    )
    return {name: float(value) for name, value in zip(MEASURES, values, strict=True)}


def _contrast(tissue: NDArray[np.float64]) -> float:
    if np.ptp(tissue) == 0:
        return 0.0
    white = tissue > threshold_otsu(tissue)
    return 1 - tissue[~white].mean() / tissue[white].mean()


def _symmetry(picture: NDArray[np.float64], brain: NDArray[np.bool_]) -> float:
    here, mirror, reach = picture[brain], picture[:, ::-1], picture.shape[1] // 10
    others = np.stack([np.roll(mirror, shift, axis=1)[brain] for shift in range(-reach, reach + 1)])
    here, others = here - here.mean(), others - others.mean(1, keepdims=True)
    scale = np.sqrt(np.square(here).sum() * np.square(others).sum(1))
    return float((others @ here / np.maximum(scale, 1e-12)).max())


def halves(people: Sequence[str] | NDArray[np.str_], times: int, seed: int = 0) -> Iterator[NDArray[np.bool_]]:
    """Random halves of people: masks (N,) over their slices, True for the slices of the first half."""
    rng = np.random.default_rng(seed)
    names = np.unique(people)
    for _ in range(times):
        yield np.isin(people, rng.permutation(names)[: len(names) // 2])


def halves_ratio(
    values: NDArray[np.floating],
    sources: NDArray[np.integer],
    real: NDArray[np.floating],
    people: NDArray[np.str_],
    seed: int = 0,
) -> tuple[float, float]:
    """Wasserstein distance of one measure to real people, beside that between two halves of the real people.

    Held-out people are split in halves A and B many times, by person. The distance between halves is that of B to A;
    the other that of as many values made for B's slices (`sources`) to A: equal numbers, levels and grades on both
    sides of both distances. Values of as many real people would reach a ratio of 1. Independent slices, which do not
    come 32 a person, scatter less than people do and reach about 0.7 when they are perfect.

    Returns:
        mean distance of the values, mean distance between halves.
    """
    rng = np.random.default_rng(seed)
    distances = []
    for a in halves(people, SPLITS, seed):
        of_b, b = values[~a[sources]], real[~a]
        n = min(len(of_b), len(b))
        pair = [rng.choice(side, n, replace=False) for side in (of_b, b)]
        distances.append([wasserstein_distance(side, real[a]) for side in pair])
    of_values, of_halves = np.mean(distances, axis=0)
    return float(of_values), float(of_halves)


def _panel(pictures: Pictures, name: str) -> dict[str, NDArray[np.float64]]:
    rows = [anatomy(picture) for picture in tqdm(pictures, f"anatomy of {name}", disable=None, leave=False)]
    return {measure: np.array([row[measure] for row in rows]) for measure in MEASURES}


def anatomy_figures(
    sets: dict[str, Pictures],
    sources: NDArray[np.integer],
    real: Pictures,
    people: NDArray[np.str_],
    seed: int,
) -> dict[str, Any]:
    of_real = _panel(real, "held-out people")
    panels = {name: _panel(pictures, name) for name, pictures in sets.items()}
    figures: dict[str, Any] = {}
    for measure in MEASURES:
        row: dict[str, Any] = {"held_out_mean": float(of_real[measure].mean())}
        for name, panel in panels.items():
            distance, between = halves_ratio(panel[measure], sources, of_real[measure], people, seed)
            row |= {
                f"{name}_mean": float(panel[measure].mean()),
                f"{name}_distance": distance,
                f"{name}_ratio": distance / between if between > 0 else None,
                "halves_distance": between,
            }
        figures[measure] = row
    return figures


# Fréchet distance


def features(pictures: Pictures) -> NDArray[np.float64]:
    """The fixed feature space, (N, S, S) -> (N, 448), nothing in it learned.

    Histograms of oriented gradients (Dalal and Triggs 2005) of 6 orientations in 8x8 cells, not normalised by block, so
    that blur counts and the noise of an empty background does not; and the picture itself at 8x8, times 0.3.

    Raises OasisVQError when S is no multiple of 8.
    """
    n, size, _ = pictures.shape
    if size % _CELLS:
        raise OasisVQError(f"pictures have {size} pixels a side: features need a multiple of {_CELLS}")
    rows, columns = np.gradient(pictures.astype(np.float64), axis=(1, 2))
    length = np.hypot(rows, columns)
    turn = np.arctan2(rows, columns) % np.pi
    orientation = np.minimum(turn * (_ORIENTATIONS / np.pi), _ORIENTATIONS - 1).astype(int)
    maps = [length * (orientation == i) for i in range(_ORIENTATIONS)] + [_COARSE_WEIGHT * pictures]
    step = size // _CELLS
    return np.stack(maps, 1).reshape(n, -1, _CELLS, step, _CELLS, step).mean((3, 5)).reshape(n, -1)


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of vectors, (N, D) and (M, D).

    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)) for covariances A, B (Dowson and Landau 1982), as in Heusel et
    al. 2017. It falls with more vectors: compare only distances of equal numbers.
    """
    means, covariances = zip(*((x.mean(0), np.cov(x, rowvar=False, ddof=0)) for x in (a, b)), strict=True)
    # The trace of the root of A B is that of the root of the symmetric R B R, R the root of A: no complex numbers.
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    apart = np.square(means[0] - means[1]).sum()
    return float(max(0.0, apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross))


def _like(
    held_out: SliceSet, sources: NDArray[np.integer], train: SliceSet, rng: np.random.Generator
) -> NDArray[np.integer]:
    """A random training slice for each source: of its level and grade, else of its level, else any."""
    picks = []
    for level, grade in zip(held_out.levels[sources], held_out.grades[sources], strict=True):
        mismatch = 2 * (train.levels != level) + (train.grades != grade)
        picks.append(rng.choice(np.flatnonzero(mismatch == mismatch.min())))
    return np.array(picks)


def frechet_figures(
    drawn: Pictures,
    sources: NDArray[np.integer],
    held_out: SliceSet,
    train: SliceSet,
    train_reconstructed: Pictures,
    seed: int,
) -> dict[str, Any]:
    """Fréchet distances to held-out people: of draws, training slices and their reconstructions, halves of people."""
    rng = np.random.default_rng(seed)
    real = features(held_out.slices + 0.5)
    of_train, of_reconstructed = features(train.slices + 0.5), features(train_reconstructed)
    picks = [_like(held_out, sources, train, rng) for _ in range(FRECHET_SPLITS)]
    draws = frechet_distance(features(drawn), real)
    training = float(np.mean([frechet_distance(of_train[pick], real) for pick in picks]))
    return {
        "draws": draws,
        "training": training,
        "training_reconstructions": float(np.mean([frechet_distance(of_reconstructed[p], real) for p in picks])),
        "held_out_halves": float(
            np.mean([frechet_distance(real[a], real[~a]) for a in halves(held_out.cases, FRECHET_SPLITS, seed)])
        ),
        "ratio": draws / training,
    }


# A fresh classifier


def auc(
    drawn: Pictures,
    real: Pictures,
    people: Sequence[str] | NDArray[np.str_],
    seed: int = 0,
    linear: bool = False,
    drawn_people: Sequence[str] | NDArray[np.str_] | None = None,
) -> float:
    """How well a fresh classifier tells draws from real slices that it has not seen: 0.5 not at all, 1 always.

    Two folds: trained on one half, judged on the other, then the other way round; the mean of both. Real slices are
    split by person, draws at random unless they are of people too. Area under the receiver operating characteristic.

    Args:
        linear: logistic regression instead of a small convolutional network; draws and slices as `features`, (N, D).
    """
    a = next(halves(people, 1, seed))
    if drawn_people is None:
        first = np.random.default_rng(seed).permutation(len(drawn)) < len(drawn) // 2
    else:
        first = next(halves(drawn_people, 1, seed))
    areas = []
    for fold, (draws, slices) in enumerate(((first, a), (~first, ~a))):
        fit = _linear if linear else _network
        score = fit(drawn[draws], real[slices], 2 * seed + fold)
        labels = np.repeat([1, 0], [(~draws).sum(), (~slices).sum()])
        areas.append(roc_auc_score(labels, np.concatenate([score(drawn[~draws]), score(real[~slices])])))
    return float(np.mean(areas))


def _linear(
    drawn: NDArray[np.floating], real: NDArray[np.floating], seed: int
) -> Callable[[NDArray[np.floating]], NDArray[np.float64]]:
    """Logistic regression on features (N, D), each scaled to unit variance; returns features -> scores (N,)."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, random_state=seed))
    model.fit(np.concatenate([drawn, real]), np.repeat([1, 0], [len(drawn), len(real)]))
    return model.decision_function


def _network(
    drawn: Pictures, real: Pictures, seed: int, epochs: int = 12, batch: int = 32
) -> Callable[[Pictures], NDArray[np.float32]]:
    """A network of 21,000 weights, trained on mirrored pictures too; returns pictures (N, S, S) -> scores (N,)."""
    pictures = torch.from_numpy(np.concatenate([drawn, real]).astype(np.float32))[:, None] - 0.5
    labels = torch.cat([torch.ones(len(drawn)), torch.zeros(len(real))])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
            # The maximum, not the mean: one wrong place is enough to give a draw away.
            *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 1)),
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU
        optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
        steps = epochs * -(-len(pictures) // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(pictures)).split(batch):
                mirror = torch.rand(len(rows), 1, 1, 1) < 0.5
                shown = torch.where(mirror, pictures[rows].flip(3), pictures[rows])
                loss = F.binary_cross_entropy_with_logits(network(shown)[:, 0], labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    network.eval()

    @torch.inference_mode()
    def score(shown: Pictures) -> NDArray[np.float32]:
        parts = (torch.from_numpy(shown.astype(np.float32))[:, None] - 0.5).split(256)
        return torch.cat([network(part)[:, 0] for part in parts]).numpy()

    return score


def auc_figures(
    drawn: Pictures,
    rivals: Mapping[str, Pictures],
    people: NDArray[np.str_],
    seed: int,
    drawn_people: NDArray[np.str_] | None = None,
) -> dict[str, Any]:
    """`auc` against each of the rivals: the mean over CLASSIFIER_SEEDS seeds and each seed's, of both classifiers."""
    figures: dict[str, Any] = {"size": drawn.shape[1]}
    of_drawn = features(drawn)
    with tqdm(total=2 * CLASSIFIER_SEEDS * len(rivals), desc="classifiers", disable=None, leave=False) as bar:
        for name, pictures in rivals.items():
            for kind, ours, theirs in (("", drawn, pictures), ("_linear", of_drawn, features(pictures))):
                areas = []
                for i in range(seed, seed + CLASSIFIER_SEEDS):
                    areas.append(auc(ours, theirs, people, i, kind != "", drawn_people))
                    bar.update()
                figures |= {f"against_{name}{kind}": float(np.mean(areas)), f"against_{name}{kind}_by_seed": areas}
    return figures


# Copies


def nearest_distance(pictures: Pictures, references: Pictures, chunk: int = 2048) -> NDArray[np.float64]:
    """Root mean square difference of each picture to the nearest reference or mirrored reference, (N,).

    References are compared in chunks of one matrix product each; memory is that of one chunk and of N times it.
    """
    flat = torch.from_numpy(np.ascontiguousarray(pictures, np.float32)).flatten(1)
    best = torch.full((len(flat),), torch.inf)
    nearest = torch.empty_like(flat)
    for start in range(0, len(references), chunk):
        part = np.ascontiguousarray(references[start : start + chunk], np.float32)
        for side in (part, part[:, :, ::-1].copy()):
            others = torch.from_numpy(side).flatten(1)
            # The picture's own square is the same for all references: left out of the comparison.
            distance, at = torch.addmm(others.square().sum(1), flat, others.T, alpha=-2).min(1)
            closer = distance < best
            best[closer], nearest[closer] = distance[closer], others[at[closer]]
    # Squares minus products lose the small differences that matter most here: the winner is measured again.
    return _rms(flat - nearest).numpy()


def _rms(differences: Tensor) -> Tensor:
    return differences.double().square().mean(1).sqrt()


def _copy_figures(drawn: Pictures, reconstructed: Pictures, train_reconstructed: Pictures) -> dict[str, Any]:
    # Distances in bulk alone: they can lie beside the weights, where neither slices nor codes of real people may.
    sides = {"draws": drawn, "held_out": reconstructed}
    distances = {
        name: nearest_distance(pictures, train_reconstructed)
        for name, pictures in tqdm(sides.items(), "nearest training slices", disable=None, leave=False)
    }
    closest = float(np.percentile(distances["held_out"], 1))
    figures: dict[str, Any] = {
        "closest_1_percent": closest,
        "share_closer": float((distances["draws"] < closest).mean()),
    }
    for name, values in distances.items():
        figures |= {f"{name}_median": float(np.median(values)), f"{name}_least": float(values.min())}
        figures[f"{name}_percentiles"] = {str(p): float(np.percentile(values, p)) for p in (1, 5, 25, 50, 75, 95, 99)}
    return figures
