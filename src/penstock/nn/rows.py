"""Rows of a table, looked up so that a captured graph needs one operator for it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rows(table: Tensor, which: Tensor) -> Tensor:
    """``table[which]``: a ``Gather``, where indexing becomes an ``Unsqueeze`` more.

    Args:
        table: ``[K, P]``.
        which: int64 ``[N]``.

    Returns:
        ``[N, P]``.
    """
    return F.embedding(which, table)
