"""Cut a labelled set into parts that all hold the classes in the same proportions.

A threshold for the rate ``r`` is the k-th smallest of ``n`` calibration scores, ``k = ceil((n + 1)(1 - r))``, and flags
in the mean ``1 - k/(n + 1)`` of honest images. That is ``r`` itself, not something below it, where ``(n + 1) r`` is
whole: so calibration takes one image fewer than a round number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from penstock.data.images import ImageSet, Splits
from penstock.errors import InvalidArgumentError

Indices = npt.NDArray[np.intp]


def stratified(labels: npt.NDArray[np.int64], sizes: tuple[int, ...], seed: int) -> list[Indices]:
    """Draw disjoint parts of exact sizes, each class spread evenly over them.

    Every class is shuffled and its members placed at equal distances on the line from 0 to 1; a part is a
    stretch of that line. So a part holds of every class its share of the whole, give or take one or two.

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


def draw(whole: ImageSet, count: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """``count`` images, each class in proportion, and the rest, both in the order of the whole.

    Raises:
        InvalidArgumentError: there are fewer.
    """
    (drawn,) = stratified(whole.labels, (count,), seed)
    rest = np.ones(len(whole), dtype=np.bool_)
    rest[drawn] = False
    return whole.take(drawn), whole.take(rest)


def at_most(labels: npt.NDArray[np.int64], count: int, seed: int) -> Indices:
    """Places of all of ``[N]`` labels, or of ``count`` that are drawn with the seed, each class in proportion.

    The first ``count`` would not do: a source may come one class after the other.
    """
    (drawn,) = stratified(labels, (min(count, len(labels)),), seed)
    return drawn


def hold_out(learning: ImageSet, held_out: ImageSet, seed: int) -> Splits:
    """The four parts of a source that comes as images to learn from and images to test on.

    A tenth of the first is drawn for validation. Calibration and test share the second in a way that no seed changes:
    a network that was chosen with one seed has not seen the calibration images of another.

    Args:
        learning: becomes train and validation.
        held_out: becomes calibration and test.
        seed: of validation.

    Raises:
        InvalidArgumentError: there are not enough images for one in each part.
    """
    refuse_fewer(learning, 2, "to learn from")
    refuse_fewer(held_out, 2, "to calibrate and test on")
    validation, train = draw(learning, max(1, round(len(learning) / 10)), seed)
    calibration, test = draw(held_out, calibration_size(len(held_out)), 0)
    return Splits(train=train, validation=validation, calibration=calibration, test=test)


def calibration_size(count: int) -> int:
    """How many of ``count`` held-out images to calibrate on.

    At most half; where that allows it, one fewer than a multiple of 100, so that thresholds for 1 %, 2 %, 5 % and 10 %
    are met exactly; with fewer than 198 one fewer than a multiple of 20, for 5 % and 10 %.
    """
    half = count // 2
    for step in (100, 20):
        if half + 1 >= step:
            return (half + 1) // step * step - 1
    return half


def refuse_fewer(images: ImageSet, needed: int, purpose: str) -> None:
    """Refuse a set that is too small for its purpose.

    Raises:
        InvalidArgumentError: it is.
    """
    if len(images) < needed:
        raise InvalidArgumentError(
            f"{len(images)} images {purpose} are too few; at least {needed} are needed"
        )
