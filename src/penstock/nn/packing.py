"""Tensors in less room, and back again bit by bit.

A tensor is written without its rows and columns that hold nothing but zeros, such as the filters that a static path
closes and the input channels that it does not read, and in half precision where that holds every value exactly.
Nothing is rounded here: who wants a smaller file rounds first, and measures what that costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

WORTH = 1024  # bytes; what is said about a smaller tensor takes as much


def pack(tensor: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """A tensor in its smallest form.

    Args:
        tensor: of any shape and dtype.

    Returns:
        what to write, and what `unpack` must know, as JSON values: nothing for a tensor that stays as it is.
    """
    if tensor.nbytes < WORTH:
        return tensor, {}
    kept: Tensor = tensor.detach()
    form: dict[str, Any] = {}
    used = [_used(kept, axis) for axis in (0, 1)] if kept.ndim > 1 else []
    if any(not each.all() for each in used):
        form["shape"] = list(kept.shape)
        form["kept"] = [each.nonzero()[:, 0].tolist() for each in used]
        kept = kept[used[0]][:, used[1]]
    if kept.dtype == torch.float32 and torch.equal(kept.half().float(), kept):
        form["half"] = True
        kept = kept.half()
    return kept.contiguous(), form


def unpack(tensor: Tensor, form: Mapping[str, Any]) -> Tensor:
    """What `pack` was given."""
    if form.get("half"):
        tensor = tensor.float()
    if "kept" not in form:
        return tensor
    rows, columns = (torch.tensor(each, dtype=torch.int64) for each in form["kept"])
    whole = tensor.new_zeros(form["shape"])
    whole[rows[:, None], columns[None, :]] = tensor
    return whole


def _used(tensor: Tensor, axis: int) -> Tensor:
    """Which slices along an axis hold a bit that is set, ``[size]`` bool; minus zero is not nothing."""
    filled = tensor.ne(0)
    if tensor.is_floating_point():
        filled |= tensor.signbit()
    return filled.transpose(0, axis).flatten(1).any(1).cpu()
