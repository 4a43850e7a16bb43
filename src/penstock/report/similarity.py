"""How alike the paths of different classes are.

For the opening rates a and b of two classes in one layer, the weighted Jaccard similarity

    J(a, b) = sum_j min(a_j, b_j) / sum_j max(a_j, b_j)

is 1 if both open every filter equally often and 0 if they share none. For masks of zeros and ones it is the Jaccard
index that the disentanglement paper compares sub-architectures by (https://arxiv.org/abs/2003.13268).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.paths import Floats, PathLayout


def jaccard(rates: Floats) -> Floats:
    """Similarity of every two rows.

    Args:
        rates: ``[classes, filters]`` in 0..1; a row with NaN is a class without images.

    Returns:
        ``[classes, classes]`` in 0..1, NaN beside a class without images; two rows of zeros are alike, 1.
    """
    one, other = rates[:, None, :], rates[None, :, :]
    shared = np.minimum(one, other).sum(axis=-1)
    either = np.maximum(one, other).sum(axis=-1)
    nothing = either == 0
    similarity: Floats = np.where(nothing, 1.0, shared / np.where(nothing, 1.0, either))
    return similarity


def layer_similarities(layout: PathLayout, rates: Floats) -> Floats:
    """`jaccard` in each layer.

    Args:
        layout: whose layers.
        rates: ``[classes, P]``.

    Returns:
        ``[layers, classes, classes]``.
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
