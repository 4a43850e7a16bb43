"""Which classes' paths are alike, and which are not: what pictures show of `penstock.learn.similarity`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.paths import Floats


def between_classes(similarities: Floats) -> Floats:
    """The similarities of different classes, each pair once.

    Args:
        similarities: ``[layers, classes, classes]``.

    Returns:
        ``[layers, pairs]``, without classes that have no images.
    """
    rows, columns = np.triu_indices(similarities.shape[-1], k=1)
    pairs = similarities[:, rows, columns]
    kept: Floats = pairs[:, ~np.isnan(pairs).any(axis=0)]
    return kept


def extreme_pairs(similarity: Floats, names: Sequence[str]) -> tuple[str, str]:
    """The two most alike classes and the two least alike ones of one layer, as words.

    Args:
        similarity: ``[classes, classes]``, at least two of them with images.
        names: one per class.
    """
    rows, columns = np.triu_indices(len(names), k=1)
    values = similarity[rows, columns]
    found = (int(np.nanargmax(values)), int(np.nanargmin(values)))
    most, least = (f"{names[rows[at]]} and {names[columns[at]]} ({values[at]:.2f})" for at in found)
    return most, least
