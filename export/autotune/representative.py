"""Which images to time where there is no time for all: those that together cost what all cost on average.

Of a cascade few images take the second member, and they take several times as long. Among 64 that come first, 13 %
may do so where 20 % of all do, and the network then looks a quarter faster than it is. So images are ordered by what
their paths cost, and taken from all parts of that order evenly. The i-th lies at the share ``frac((i + 1/2) / phi)`` of
it, with the golden ratio phi: points of this sequence are spread evenly however many are taken (Kuipers and
Niederreiter, *Uniform Distribution of Sequences*, 1974, chapter 2, section 3), so that a measurement of single images
may stop early.

Taken as they come, the images of a batch would be of all costs, too, and a batch that needs the second member for none
of them would never be seen. So for batches the images that were taken are shuffled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

GOLDEN = (1 + 5**0.5) / 2


def representative(
    costs: npt.NDArray[np.floating[Any]], count: int, *, batch: int = 1
) -> npt.NDArray[np.int64]:
    """Images whose mean cost is about that of all; if they are to be timed one by one, so is that of the first of them.

    Args:
        costs: ``[N]``, of each image in any unit, such as the share of the dense MACs that its path asks for.
        count: how many images, N at most.
        batch: how many will be timed at a time.

    Returns:
        ``[min(count, N)]`` int64, different indices.
    """
    shares = (np.arange(len(costs)) + 0.5) / GOLDEN % 1
    ranks = shares.argsort().argsort()
    taken: npt.NDArray[np.int64] = costs.argsort(kind="stable")[ranks[:count]]
    return taken if batch == 1 else np.random.default_rng(0).permutation(taken)
