"""Sums over the inputs of each class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# One image has a mean but no spread around it: it would look infinitely far from everything else.
FEWEST = 2


def class_totals(
    values: npt.NDArray[Any], predicted: npt.NDArray[np.int64], classes: int
) -> tuple[Floats, Floats]:
    """Sum and number of the values of each class.

    A class with fewer than two inputs gets the sum and number of all inputs, so that whatever is computed
    from them
    is the pooled statistic there: finite, and the best guess about a class that was hardly seen.

    Args:
        values: ``[N, F]``.
        predicted: ``[N]``, class of each row.
        classes: number of classes.

    Returns:
        sums ``[classes, F]`` and numbers ``[classes, 1]``.
    """
    counts = np.bincount(predicted, minlength=classes).astype(np.float64)[:, None]
    totals = np.empty((classes, values.shape[1]))
    for label in range(classes):
        rows = values if counts[label] < FEWEST else values[predicted == label]
        totals[label] = rows.sum(axis=0, dtype=np.float64)
    counts[counts < FEWEST] = len(values)
    return totals, counts
