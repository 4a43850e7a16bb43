"""Which filters of a layer open together, and for which classes.

The codes of a whole layer are mostly unique: with 64 filters nearly every image has its own. What its choice says
about the class is carried by few of them, though. `telling_filters` picks these one after another, each for what it
adds to what the ones before tell, so that two filters that always choose alike are not both picked:

    j = argmax_j I(z_S, z_j; y)     with S the filters picked so far

Counted on the same images, that would grow with every filter, whether it tells anything or not. So every other image
is kept apart, and what the code really tells is how much better than the classes' shares it predicts these, in nats,

    told = mean over images kept apart of log q(y | z_S) - log q(y),     q(y | z) = (n[z, y] + q(y)) / (n[z] + 1)

with counts n of the others. In the mean that is no more than the mutual information. A further filter that adds nothing
to it ends the list.

`frequent_codes` then counts how often each class uses each combination of their bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.paths import Bits

Labels = npt.NDArray[np.int64]
Places = npt.NDArray[np.intp]
PICKING, APART = slice(0, None, 2), slice(1, None, 2)  # images that filters are picked by, and the others


@dataclass(frozen=True, eq=False)
class Combination:
    """One combination of open and closed filters, as one class uses it.

    Attributes:
        code: ``[filters]`` uint8, 0 or 1.
        of_class: share of the class's images that have it.
        precision: share of this class among all images that have it.
        own: places of the class's images that have it, ascending.
        others: places of other classes' images that have it, ascending.
    """

    code: Bits
    of_class: float
    precision: float
    own: Places
    others: Places


def telling_filters(bits: Bits, labels: Labels, classes: int, most: int) -> tuple[Places, float]:
    """The filters whose bits together say most about the class, picked greedily.

    Args:
        bits: ``[N, filters]``, 0 or 1.
        labels: ``[N]`` classes.
        classes: number of classes.
        most: how many filters to pick at most; fewer if the others add nothing.

    Returns:
        the filters, in the order picked, and what their code tells of the class, in nats, 0 or more.
    """
    group = np.zeros(len(bits), dtype=np.int64)  # [N] number of the code so far
    picked: list[int] = []
    told = 0.0
    while len(picked) < min(most, bits.shape[1]):
        gains = [
            -1.0
            if filter_ in picked
            else _information((2 * group + bits[:, filter_])[PICKING], labels[PICKING], classes)
            for filter_ in range(bits.shape[1])
        ]
        best = int(np.argmax(gains))
        _, finer = np.unique(2 * group + bits[:, best], return_inverse=True)
        more = max(0.0, _told(finer.reshape(-1), labels, classes))
        if gains[best] <= 1e-12 or (picked and more <= told):
            break
        picked.append(best)
        told, group = more, finer.reshape(-1)
    return np.array(picked, dtype=np.intp), told


def frequent_codes(bits: Bits, labels: Labels, classes: int, most: int) -> list[list[Combination]]:
    """For each class, the combinations that most of its images have.

    Args:
        bits: ``[N, filters]`` of the filters to combine, at least one.
        labels: ``[N]`` classes.
        classes: number of classes.
        most: how many combinations per class.

    Returns:
        one list per class, most frequent first; equally frequent ones in the order of their codes.
    """
    codes, group = np.unique(bits, axis=0, return_inverse=True)
    group = group.reshape(-1)
    counts = np.zeros((classes, len(codes)), dtype=np.int64)
    np.add.at(counts, (labels, group), 1)
    found = []
    for label in range(classes):
        order = np.argsort(-counts[label], kind="stable")[:most]
        found.append(
            [_combination(codes, group, labels, label, int(at)) for at in order if counts[label, at]]
        )
    return found


def _combination(codes: Bits, group: Labels, labels: Labels, label: int, at: int) -> Combination:
    with_it, own_class = group == at, labels == label
    own, others = np.flatnonzero(with_it & own_class), np.flatnonzero(with_it & ~own_class)
    return Combination(codes[at], len(own) / own_class.sum(), len(own) / with_it.sum(), own, others)


def _information(group: Labels, labels: Labels, classes: int) -> float:
    """Mutual information of two numberings of the same images, in nats."""
    joint = np.bincount(group * classes + labels).astype(np.float64) / len(labels)
    joint = np.pad(joint, (0, -len(joint) % classes)).reshape(-1, classes)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / independent[there])).sum())


def _told(group: Labels, labels: Labels, classes: int) -> float:
    """How much better the class of an image kept apart is predicted by the others of its group than by all others."""
    counts = np.zeros((int(group.max()) + 1, classes))
    np.add.at(counts, (group[PICKING], labels[PICKING]), 1)
    shares = (counts.sum(axis=0) + 1 / classes) / (counts.sum() + 1)
    predicted = (counts + shares) / (counts.sum(axis=1, keepdims=True) + 1)
    asked = labels[APART]
    return float(np.log(predicted[group[APART], asked] / shares[asked]).mean()) if len(asked) else 0.0
