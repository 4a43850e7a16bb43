"""Compact values: activations of which only the open channels are there, and the arithmetic of their indices.

An index says which channel each of a value's k channels is. It is either known when the graph is compiled, because
nothing but the prototype decides on it, and then a NumPy array, or it comes out of a gate when the graph runs, and
then a value of the graph. Everything here computes what is known at once and writes nodes only for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.export.building import Builder

Array: TypeAlias = npt.NDArray[Any]
Index: TypeAlias = npt.NDArray[np.int64] | ir.Value
NOTHING = -1  # in a known index: a channel of zeros that only fills up the width
PLACED = "placed"  # note on a scatter that brings channels, each once, to their places among zeros
LAYER = "layer"  # note on an index whose gated layer decides on it, and on that layer's convolution


@dataclass(frozen=True, eq=False)
class Compact:
    """The open channels of a value.

    Attributes:
        value: ``[N, k, ...]``.
        index: int64 ``[k]``, the channel of each.
        clean: the channels that are left out are zero; if not, a mask has yet to make them so.
    """

    value: ir.Value
    index: Index
    clean: bool = True


def take(
    build: Builder, data: Array | ir.Value, index: Index | None, axis: int, name: str
) -> Array | ir.Value:
    """The slices of ``data`` along ``axis`` that ``index`` names; `NOTHING` gives zeros, ``None`` all."""
    if index is None:
        return data
    if isinstance(data, np.ndarray) and isinstance(index, np.ndarray):
        zeros = np.zeros_like(data.take([0], axis=axis))
        return np.concatenate([data, zeros], axis=axis).take(index, axis=axis)
    return build.op("Gather", given(build, data, name), given(build, index, f"{name}.index"), axis=axis)


def picked(
    build: Builder, weight: Array, filters: Index | None, channels: Index | None, name: str = "weight"
) -> ir.Value:
    """Of a convolution's weights ``[C_out, C_in, kh, kw]``, those of some filters on some channels; ``None``: all."""
    return given(build, take(build, take(build, weight, filters, 0, name), channels, 1, name), name)


def given(build: Builder, data: Array | ir.Value, name: str) -> ir.Value:
    """As a value of the graph."""
    return build.constant(data, name) if isinstance(data, np.ndarray) else data


def shifted(build: Builder, index: Index, offset: int, name: str) -> Index:
    """The index behind ``offset`` other channels."""
    if isinstance(index, np.ndarray):
        return np.where(index == NOTHING, NOTHING, index + offset)
    return build.op("Add", index, build.constant(np.array(offset), name))


def named(index: npt.NDArray[np.int64], channels: int) -> npt.NDArray[np.int64]:
    """The index with closed channels, which are zero as well, in the place of `NOTHING`.

    Beside an index that is known only when the graph runs, `NOTHING` would be taken for the last channel.

    Args:
        index: of a clean value, which holds fewer channels than there are.
        channels: how many there are.
    """
    closed = np.setdiff1d(np.arange(channels), index)
    filling = index == NOTHING
    result = index.copy()
    result[filling] = closed[: filling.sum()]
    return result


def joined(build: Builder, indices: list[Index]) -> Index:
    """Indices end to end."""
    known = [index for index in indices if isinstance(index, np.ndarray)]
    if len(known) == len(indices):
        return np.concatenate(known)
    values = [given(build, index, f"channels{place}") for place, index in enumerate(indices)]
    return build.op("Concat", *values, axis=0)


def covers(mask: Index, index: Index) -> bool:
    """Whether no channel of ``index`` is closed by the mask with the ones ``mask``."""
    if isinstance(mask, np.ndarray) and isinstance(index, np.ndarray):
        return set(index.tolist()) <= {*mask.tolist(), NOTHING}
    return mask is index


def opens_just(mask: Index, index: Index) -> bool:
    """Whether the mask with the ones ``mask`` opens the channels of ``index`` and no other."""
    if isinstance(mask, np.ndarray) and isinstance(index, np.ndarray):
        return {*mask.tolist(), NOTHING} == {*index.tolist(), NOTHING}
    return mask is index


def silenced(build: Builder, compact: Compact, mask: ir.Value) -> ir.Value:
    """A value behind its mask ``[N, C, 1, 1]``: zero also where it holds a channel although nothing is open there."""
    if compact.clean:
        return compact.value
    if not isinstance(compact.index, np.ndarray):
        return build.op("Mul", compact.value, build.op("Gather", mask, compact.index, axis=1))
    if NOTHING not in compact.index:
        return compact.value
    ones = (compact.index != NOTHING).astype(np.float32)
    return build.op("Mul", compact.value, build.constant(ones[:, None, None], "open"))


def whole(build: Builder, compact: Compact, channels: int, shape: tuple[int, ...], name: str) -> ir.Value:
    """A compact value with all its channels, ``[N, channels, ...]``; ``shape`` is what follows the channels."""
    if isinstance(compact.index, np.ndarray):
        return _spread(build, compact.value, compact.index, channels, len(shape))
    onto = build.constant(np.zeros((1, channels, *shape), np.float32), name)
    return _scattered(build, compact, onto)


def _scattered(build: Builder, compact: Compact, onto: ir.Value) -> ir.Value:
    """Write the channels of one image's compact value into ``onto`` ``[1, C, ...]``."""
    batch = build.constant(np.array([0]), "batch")
    index = given(build, compact.index, "channels")
    placed = build.op(
        "ScatterND",
        build.op("Squeeze", onto, batch),
        build.op("Unsqueeze", index, build.constant(np.array([1]), "last")),
        build.op("Squeeze", compact.value, batch),
        reduction="none",
    )
    producer = placed.producer()
    assert producer is not None
    producer.meta[PLACED] = True
    return build.op("Unsqueeze", placed, batch)


def _spread(
    build: Builder, value: ir.Value, index: npt.NDArray[np.int64], channels: int, spatial: int
) -> ir.Value:
    """Put channels to known places among zeros, for any batch: pick each from what is there and one of zeros."""
    places = np.full(channels, len(index))
    open_ones = index != NOTHING
    places[index[open_ones]] = np.flatnonzero(open_ones)
    if not open_ones.all():  # a channel of zeros is there already
        places[places == len(index)] = np.flatnonzero(~open_ones)[0]
    elif len(index) < channels:
        pads = np.zeros(2 * (spatial + 2), np.int64)
        pads[spatial + 3] = 1
        value = build.op("Pad", value, build.constant(pads, "pads"))
    return build.op("Gather", value, build.constant(places, "places"), axis=1)
