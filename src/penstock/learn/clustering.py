"""From the paths that gates chose to prototypes: which images belong together, and what each group keeps.

Images are grouped stage by stage, either by what they need or by how much:

- ``paths``: K-means on the bits of the stage's layers (Lloyd's algorithm; bits are points of the unit cube, so squared
  Euclidean distance is the Hamming distance);
- ``difficulty``: equal shares of the images in the order of how unsure the gated network is of them, the easiest group
  first; groups then differ in what they cost.

A group's prototype keeps the filters that its images' gates opened most readily: those whose mean opening, the average
of sigmoid(y), exceeds a threshold. One threshold for all groups and stages, found by bisection, makes the mean cost
over all images meet the budget, so that any number of prototypes is compared at equal MACs. For groups by difficulty,
the budget of group ``k`` of ``K`` is spread evenly from ``(1 - spread)`` to ``(1 + spread)`` times the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from penstock.errors import ConfigurationError
from penstock.nn.inference import Answers
from penstock.paths import PathLayout

Floats = npt.NDArray[np.float64]
GROUPINGS = ("paths", "difficulty")
STEPS = 30  # of a bisection: far below one filter


@dataclass(frozen=True, eq=False)
class Prototypes:
    """What clustering found.

    Attributes:
        bits: per stage ``[K, P_s]`` uint8.
        groups: ``[N, stages]`` int64, the group of each image in each stage.
    """

    bits: tuple[npt.NDArray[np.uint8], ...]
    groups: npt.NDArray[np.int64]


def find_prototypes(
    answers: Answers,
    layout: PathLayout,
    stages: tuple[int, ...],
    count: int,
    *,
    budget: float,
    grouping: str = "paths",
    spread: float = 0.5,
    seed: int = 0,
) -> Prototypes:
    """Group images and choose each group's filters.

    Args:
        answers: of the gated network for ``N`` training images.
        layout: cost of paths as the consolidated network will have it.
        stages: how many gated layers each stage has.
        count: K.
        budget: share of the dense MACs that the images may cost on average.
        grouping: one of `GROUPINGS`.
        spread: how far costs of groups by difficulty lie apart.
        seed: of K-means.

    Raises:
        ConfigurationError: no such grouping, or the budget cannot be met.
    """
    if grouping not in GROUPINGS:
        raise ConfigurationError(f"no grouping {grouping!r}; there are {', '.join(GROUPINGS)}")
    ends = np.cumsum([layer.filters for layer in layout.layers])[np.cumsum(stages) - 1]
    parts = np.split(np.arange(layout.bits), ends[:-1])
    if grouping == "difficulty":
        groups = np.tile(_by_difficulty(answers, count)[:, None], (1, len(stages)))
    else:
        groups = np.stack([_by_path(answers.bits[:, part], count, seed) for part in parts], axis=1)
    opening = 1 / (1 + np.exp(-answers.gate_logits.astype(np.float64)))
    means = [
        np.stack([_mean(opening[:, part], groups[:, stage] == k) for k in range(count)])
        for stage, part in enumerate(parts)
    ]
    if grouping == "difficulty":
        bits = _graded(means, layout, budget, spread)
    else:
        bits = _meet(lambda least: _keep(means, least), layout, groups, budget)
    return Prototypes(tuple(bits), groups)


def paths_of(bits: list[npt.NDArray[np.uint8]], groups: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Paths ``[N, P]`` of images in ``groups`` ``[N, stages]``."""
    return np.concatenate([own[groups[:, stage]] for stage, own in enumerate(bits)], axis=1)


def _by_path(bits: npt.NDArray[np.uint8], count: int, seed: int) -> npt.NDArray[np.int64]:
    if count == 1:
        return np.zeros(len(bits), np.int64)
    found = KMeans(count, n_init=4, random_state=seed).fit_predict(bits.astype(np.float32))
    return np.asarray(found, np.int64)


def _by_difficulty(answers: Answers, count: int) -> npt.NDArray[np.int64]:
    shifted = answers.logits.astype(np.float64) - answers.logits.max(1, keepdims=True)
    unsure = np.log(np.exp(shifted).sum(1))  # minus the log of the largest probability
    rank = np.argsort(np.argsort(unsure, kind="stable"), kind="stable")
    return np.floor_divide(rank * count, len(rank)).astype(np.int64)


def _mean(opening: Floats, members: npt.NDArray[np.bool_]) -> Floats:
    """Mean opening of a group, ``[P_s]``; of all images for a group that K-means left empty."""
    mean: Floats = opening[members].mean(0) if members.any() else opening.mean(0)
    return mean


def _keep(means: list[Floats], least: float) -> list[npt.NDArray[np.uint8]]:
    return [(own > least).astype(np.uint8) for own in means]


def _graded(
    means: list[Floats], layout: PathLayout, budget: float, spread: float
) -> list[npt.NDArray[np.uint8]]:
    """Prototypes ``k`` of all stages together cost what group ``k`` may cost."""
    count = len(means[0])
    chosen = []
    for k, factor in enumerate(np.linspace(1 - spread, 1 + spread, count) if count > 1 else [1.0]):
        own = [stage[k : k + 1] for stage in means]
        one = np.zeros((1, len(means)), np.int64)
        chosen.append(_meet(lambda least, own=own: _keep(own, least), layout, one, budget * factor))  # type: ignore[misc]
    return [np.concatenate([group[stage] for group in chosen]) for stage in range(len(means))]


def _meet(
    keep: Callable[[float], list[npt.NDArray[np.uint8]]],
    layout: PathLayout,
    groups: npt.NDArray[np.int64],
    budget: float,
) -> list[npt.NDArray[np.uint8]]:
    """The prototypes that cost as much as the budget allows, on average over the images."""
    distinct, counts = np.unique(groups, axis=0, return_counts=True)

    def cost(least: float) -> float:
        return float(np.average(layout.active_macs(paths_of(keep(least), distinct)), weights=counts))

    low, high = 0.0, 1.0
    if cost(high) > budget:
        raise ConfigurationError(
            f"budget is {budget:.3f}; what every input pays is {cost(high):.3f} already, choose a larger budget"
        )
    if cost(low) <= budget:
        return keep(low)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > budget else (low, middle)
    return keep(high)
