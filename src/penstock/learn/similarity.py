"""How alike paths are, or how often several groups of inputs open the same filters.

For the opening rates a and b of two classes in one layer, the weighted Jaccard similarity

    J(a, b) = sum_j min(a_j, b_j) / sum_j max(a_j, b_j)

is 1 if both open every filter equally often and 0 if they share none. A path is rates of zeros and ones, and J the
Jaccard index that the disentanglement paper compares sub-architectures by (https://arxiv.org/abs/2003.13268): filters
open in both over filters open in either.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.paths import Floats, PathLayout


def jaccard(rates: npt.NDArray[Any]) -> Floats:
    """Similarity of every two rows.

    Args:
        rates: ``[N, filters]`` in 0..1; a row with NaN is a class without images.

    Returns:
        ``[N, N]`` in 0..1, NaN beside a class without images; two rows of zeros are alike, 1.
    """
    # Row by row: all pairs at once would take N times the memory, gigabytes for a thousand classes.
    shared = np.stack([np.minimum(row, rates).sum(axis=-1, dtype=np.float64) for row in rates])
    either = np.stack([np.maximum(row, rates).sum(axis=-1, dtype=np.float64) for row in rates])
    nothing = either == 0
    similarity: Floats = np.where(nothing, 1.0, shared / np.where(nothing, 1.0, either))
    return similarity


def layer_similarities(layout: PathLayout, rates: npt.NDArray[Any]) -> Floats:
    """`jaccard` in each layer.

    Args:
        layout: whose layers.
        rates: ``[N, P]``, opening rates or the bits of paths.

    Returns:
        ``[layers, N, N]``.
    """
    return np.stack([jaccard(part) for part in layout.split(rates)])


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
