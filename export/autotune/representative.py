"""Which images to time where there is no time for all: those that together cost what all cost on average.

Of a cascade few images take the second member, and they take several times as long. Among 64 that come first, 13 %
may do so where 20 % of all do, and the network then looks a quarter faster than it is. So images are ordered by what
their paths cost, and taken from all parts of that order evenly. The i-th lies at the share ``frac((i + 1/2) / phi)`` of
it, with the golden ratio phi: points of this sequence are spread evenly however many are taken (Kuipers and
Niederreiter, *Uniform Distribution of Sequences*, 1974, chapter 2, section 3), so a measurement may stop early, and a
batch is as mixed as batches are on average.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

GOLDEN = (1 + 5**0.5) / 2


def representative(costs: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """An order of images in which every beginning costs about as much, on average, as all do.

    Args:
        costs: ``[N]``, of each image in any unit, such as the share of the dense MACs that its path asks for.

    Returns:
        ``[N]`` int64, each index once.
    """
    shares = (np.arange(len(costs)) + 0.5) / GOLDEN % 1
    ranks = shares.argsort().argsort()
    order: npt.NDArray[np.int64] = costs.argsort(kind="stable")[ranks]
    return order
