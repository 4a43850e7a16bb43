"""From the paths that gates chose to prototypes: which images belong together, and what each group keeps.

Images are grouped stage by stage, either by what they need or by how much:

- ``paths``: K-means on the bits of the stage's layers (Lloyd's algorithm; bits are points of the unit cube, so squared
  Euclidean distance is the Hamming distance). Where a stage knows fewer different paths than K, the last groups stay
  empty;
- ``difficulty``: equal shares of the images in the order of how unsure the gated network is of them, the easiest group
  first, the same groups in all stages; groups then differ in what they cost.

A group's prototype keeps the filters that its images' gates opened most readily: those whose mean opening, the average
of sigmoid(y), exceeds a threshold. For an empty group that is the average over all images. Of every layer at least one
filter stays: behind a layer that is closed as a whole, a network without shortcuts knows nothing of the image.

Far below the budget that the gates were trained for, one threshold on openings would close some layers all but wholly,
which no fine-tuning mends. So filters are ranked by

    (1 - e) r_all + e r_own

with ``r_all`` the place of a filter's mean opening among those of all layers and ``r_own`` that among its own layer's,
both from 0 to 1, and ``e`` the *evenness*: 0 leaves the widths to the gates, 1 makes all layers equally dense. One
threshold for all groups and stages makes the mean cost over all images meet the budget to within one filter, so that
any number of prototypes is compared at equal MACs. For groups by difficulty, the budget of group ``k`` of ``K`` is
spread evenly from ``(1 - spread)`` to ``(1 + spread)`` times the mean, and each group has a threshold of its own.

Engines compute filters so many at a time (ONNX Runtime's blocked layout: sixteen, with AVX-512), and those missing to a
full block cost time, too. With *align* ``a``, a layer's filters, the most readily opened first, are closed ``a`` at a
time, each block by the place of its middle filter; its first block stays, and the budget is met to within one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from penstock.errors import ConfigurationError
from penstock.learn.consolidate_config import GROUPINGS
from penstock.nn.inference import Answers
from penstock.paths import Bits, Floats, PathLayout

Groups = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Prototypes:
    """What clustering found.

    Attributes:
        bits: per stage ``[K, P_s]`` uint8.
        groups: ``[N, stages]`` int64, the group of each image in each stage.
    """

    bits: tuple[Bits, ...]
    groups: Groups


def find_prototypes(
    answers: Answers,
    layout: PathLayout,
    stages: tuple[int, ...],
    count: int,
    *,
    budget: float,
    grouping: str = "paths",
    spread: float = 0.5,
    evenness: float = 0.0,
    align: int = 1,
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
        evenness: e, 0 to 1.
        align: a layer keeps a multiple of this many filters, or all.
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
    means = [
        _mean_opening(answers.gate_logits[:, part], groups[:, stage], count)
        for stage, part in enumerate(parts)
    ]
    ranks = _ranks(np.concatenate(means, axis=1), layout, evenness, align)
    if grouping == "difficulty":
        bits = _graded(ranks, layout, budget, spread)
    else:
        bits = _within(ranks, layout, parts, groups, budget)
    return Prototypes(tuple(bits[:, part] for part in parts), groups)


def paths_of(bits: Sequence[Bits], groups: Groups) -> Bits:
    """Paths ``[N, P]`` of images in ``groups`` ``[N, stages]``."""
    return np.concatenate([own[groups[:, stage]] for stage, own in enumerate(bits)], axis=1)


def _by_path(bits: Bits, count: int, seed: int) -> Groups:
    different = len(np.unique(np.packbits(bits, axis=1), axis=0)) if count > 1 else 1
    if different == 1:
        return np.zeros(len(bits), np.int64)
    found = KMeans(min(count, different), n_init=4, random_state=seed).fit_predict(bits.astype(np.float32))
    return np.asarray(found, np.int64)


def _by_difficulty(answers: Answers, count: int) -> Groups:
    shifted = answers.logits.astype(np.float64) - answers.logits.max(1, keepdims=True)
    unsure = np.log(np.exp(shifted).sum(1))  # minus the log of the largest probability
    rank = np.argsort(np.argsort(unsure, kind="stable"), kind="stable")
    return np.floor_divide(rank * count, len(rank)).astype(np.int64)


def _mean_opening(gate_logits: npt.NDArray[np.float32], groups: Groups, count: int) -> Floats:
    """Mean opening ``[K, P_s]`` of each group's gates, from ``[N, P_s]``; of all images for an empty group."""
    # sigmoid(y) in a form that never overflows, in double precision: single is 1 for every gate that is sure.
    opening = 0.5 + 0.5 * np.tanh(0.5 * gate_logits.astype(np.float64))
    members = [groups == k for k in range(count)]
    return np.stack([(opening[own] if own.any() else opening).mean(0) for own in members])


def _ranks(opening: Floats, layout: PathLayout, evenness: float, align: int) -> npt.NDArray[np.int64]:
    """Place of each filter of each group, ``[K, P]``, among all: the first to be closed is 0.

    Equal ones keep their order, and filters of one block have one place. The last block of each layer in each group is
    beyond all others, and so never closed.
    """
    ranks = _places(opening)
    own = np.concatenate([_places(part) / max(1, part.size - 1) for part in layout.split(opening)], axis=1)
    ranks = _places((1 - evenness) * ranks / max(1, ranks.size - 1) + evenness * own)
    for part in layout.slices:
        ranks[:, part] = _in_blocks(ranks[:, part], align, never=opening.size)
    return ranks


def _in_blocks(ranks: npt.NDArray[np.int64], align: int, never: int) -> npt.NDArray[np.int64]:
    """Places ``[K, F]`` of one layer's filters in blocks; the one of those opened most readily gets ``never``."""
    filters = ranks.shape[1]
    starts = np.arange(0, filters, align)
    middles = (starts + np.append(starts[1:], filters)) // 2
    order = np.argsort(-ranks, axis=1)
    of_blocks = np.take_along_axis(ranks, order[:, middles], axis=1)
    of_blocks[:, 0] = never
    return np.take_along_axis(of_blocks, np.argsort(order, axis=1) // align, axis=1)


def _places(values: Floats) -> npt.NDArray[np.int64]:
    """Place of each value among all, from the least, which is 0."""
    return np.argsort(np.argsort(values, axis=None, kind="stable")).reshape(values.shape)


def _graded(ranks: npt.NDArray[np.int64], layout: PathLayout, budget: float, spread: float) -> Bits:
    """Prototypes ``[K, P]`` of which the ``k``-th of all stages together cost what group ``k`` may cost."""
    factors = np.linspace(1 - spread, 1 + spread, len(ranks)) if len(ranks) > 1 else np.ones(1)
    # Each group has one path through all stages.
    whole = [np.arange(layout.bits)]
    alone = np.zeros((1, 1), np.int64)
    try:
        rows = [
            _within(ranks[[k]], layout, whole, alone, budget * factor) for k, factor in enumerate(factors)
        ]
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error}; with spread {spread}, the easiest images may cost {factors[0]:.2f} of the budget"
        ) from error
    return np.concatenate(rows)


def _within(
    ranks: npt.NDArray[np.int64],
    layout: PathLayout,
    parts: Sequence[npt.NDArray[np.int64]],
    groups: Groups,
    budget: float,
) -> Bits:
    """The prototypes ``[K, P]`` that cost as much as the budget allows, on average over the images."""
    distinct, counts = np.unique(groups, axis=0, return_counts=True)

    def keep(closed: int) -> Bits:
        return (ranks >= closed).astype(np.uint8)

    def cost(closed: int) -> float:
        bits = keep(closed)
        paths = paths_of([bits[:, part] for part in parts], distinct)
        return float(np.average(layout.active_macs(paths), weights=counts))

    low, high = 0, int(ranks.max())
    if cost(high) > budget:
        raise ConfigurationError(
            f"budget is {budget:.3f}; the fewest filters of every layer, and what every input pays, cost "
            f"{cost(high):.3f} already: choose a larger budget"
        )
    while low < high:  # the more are closed, the lower the cost: close as few as the budget allows
        middle = (low + high) // 2
        low, high = (middle + 1, high) if cost(middle) > budget else (low, middle)
    return keep(high)
