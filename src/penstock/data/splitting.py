"""Cut a labelled set into parts that all hold the classes in the same proportions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from penstock.errors import InvalidArgumentError

Indices = npt.NDArray[np.intp]


def stratified(labels: npt.NDArray[np.int64], sizes: tuple[int, ...], seed: int) -> list[Indices]:
    """Draw disjoint parts of exact sizes, each class spread evenly over them.

    Every class is shuffled and its members placed at equal distances on the line from 0 to 1; a part is a
    stretch of
    that line. So a part holds of every class its share of the whole, give or take one or two.

    Args:
        labels: ``[N]``.
        sizes: length of each part; what is left over belongs to none.
        seed: of the shuffle.

    Returns:
        For each part the places in ``labels``, ascending.

    Raises:
        InvalidArgumentError: the parts are larger than the whole.
    """
    if sum(sizes) > len(labels):
        raise InvalidArgumentError(f"cannot draw parts of {sizes} from {len(labels)} items")
    shuffle = np.random.default_rng(seed).random(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        members = members[np.argsort(shuffle[members], kind="stable")]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((shuffle, place))
    ends = np.cumsum(sizes)
    return [np.sort(order[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
