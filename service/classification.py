"""The classification extension: the largest values of an output, with their places and labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.service.tensors import Array


def top_classes(values: Array, count: int, labels: Sequence[str], *, batched: bool) -> Array:
    """The largest values, in Triton's form.

    Args:
        values: ``[N, ...]`` if there is a batch, otherwise ``[...]``; any numbers.
        count: how many to name; all of them if there are fewer.
        labels: class names by place; may be shorter than the values.
        batched: whether the first dimension is the batch.

    Returns:
        ``[N, count]`` or ``[count]`` of text ``"value:place"`` or ``"value:place:label"``, the largest first.
    """
    rows = values.reshape(len(values), -1) if batched else values.reshape(1, -1)
    # Stable, so that of equal values the first place comes first; NaN sorts to the end of descending order.
    keys = -rows.astype(np.float64)
    places = np.argsort(keys, axis=1, kind="stable")[:, :count]
    texts = np.empty(places.shape, dtype=np.object_)
    for row, column in np.ndindex(*places.shape):
        place = int(places[row, column])
        text = f"{float(rows[row, place]):f}:{place}"
        texts[row, column] = f"{text}:{labels[place]}" if place < len(labels) else text
    return texts if batched else texts[0]
