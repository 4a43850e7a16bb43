"""Paths: which filters of a network ran for an input.

A gate decides for each filter ``j`` of layer ``l`` whether it runs: ``z[l][j]`` is 0 or 1. The layers' codes,
laid end to end in network order, are the input's **path**, ``P`` bits long. A `PathLayout` says which bits
belong to which layer and what their filters cost, a `PathSet` holds the paths of many inputs under one
layout.

The cost of a path is counted in multiply-accumulates (MACs). A gated convolution with ``m`` MACs runs

    m * (open filters / filters) * (open input channels / input channels)

of them: a closed filter is not computed, and where a layer's input comes straight from another gated layer,
neither are the products with that layer's closed filters. With ``f`` MACs that every input pays (ungated
layers, the gates themselves) and ``D`` the dense network's MACs, without gates, the share that a path asks
for is

    active(z) = (f + sum_l m_l * open_l / C_l * open_src(l) / C_src(l)) / D

and may exceed 1 when all gates are open, because the gates are paid for too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.errors import InvalidArgumentError
from penstock.records import read_record

Bits = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PathLayer:
    """One gated convolution's place in the path.

    Attributes:
        name: qualified name of the convolution in the network, ``layer1.0.conv1``.
        filters: number of filters, and so of bits.
        macs: MACs of this convolution with everything open, for one input.
        source: index of the gated layer whose closed filters are missing from this layer's input, or ``None``
            if all input channels are always there.
    """

    name: str
    filters: int
    macs: int
    source: int | None = None


@dataclass(frozen=True, kw_only=True)
class PathLayout:
    """Order, size and cost of all gated layers of one network.

    Attributes:
        layers: the gated layers in network order.
        fixed_macs: MACs that every input pays: ungated layers and gates.
        dense_macs: MACs of the network before it got gates.
    """

    layers: tuple[PathLayer, ...]
    fixed_macs: int
    dense_macs: int

    def __post_init__(self) -> None:
        for index, layer in enumerate(self.layers):
            if layer.filters < 1:
                raise InvalidArgumentError(
                    f"layer {layer.name!r} has {layer.filters} filters; at least 1 is needed"
                )
            if layer.macs < 0:
                raise InvalidArgumentError(f"layer {layer.name!r} has {layer.macs} MACs; 0 is the least")
            if layer.source is not None and not 0 <= layer.source < index:
                raise InvalidArgumentError(
                    f"layer {layer.name!r} has source {layer.source}; it must be the index of an earlier one"
                )
        if self.fixed_macs < 0:
            raise InvalidArgumentError(f"fixed_macs is {self.fixed_macs}; at least 0 is needed")
        if self.dense_macs < 1:
            raise InvalidArgumentError(f"dense_macs is {self.dense_macs}; a network has at least one MAC")

    @property
    def bits(self) -> int:
        """Length ``P`` of a path."""
        return sum(layer.filters for layer in self.layers)

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' names, in order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The bits of each layer, in order."""
        ends = np.cumsum([layer.filters for layer in self.layers]).tolist()
        return tuple(slice(end - layer.filters, end) for end, layer in zip(ends, self.layers, strict=True))

    def split(self, path: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Cut ``[..., P]`` into one ``[..., filters]`` array per layer."""
        return (path[..., part] for part in self.slices)

    def active_macs(self, path: npt.NDArray[Any]) -> Floats:
        """Share of the dense network's MACs that each path asks for, gates counted.

        Args:
            path: ``[N, P]``, 0 or 1.

        Returns:
            ``[N]``; above 1 is possible, because an open gate costs more than no gate.
        """
        density = [codes.mean(axis=-1, dtype=np.float64) for codes in self.split(path)]
        total = np.full(path.shape[:-1], float(self.fixed_macs))
        for own, layer in zip(density, self.layers, strict=True):
            entering = 1.0 if layer.source is None else density[layer.source]
            total += layer.macs * own * entering
        return total / self.dense_macs

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PathLayout:
        """Read what `to_json` gave.

        Raises:
            InvalidArgumentError: a key is missing or of another kind.
        """
        try:
            return read_record(cls, value)
        except TypeError as error:
            raise InvalidArgumentError(f"not a path layout: {error}") from error


@dataclass(frozen=True, eq=False)
class PathSet:
    """Paths of many inputs.

    Attributes:
        layout: what the bits mean.
        bits: ``[N, P]`` uint8, 0 or 1.
    """

    layout: PathLayout
    bits: Bits

    def __post_init__(self) -> None:
        if self.bits.ndim != 2 or self.bits.shape[1] != self.layout.bits:
            raise InvalidArgumentError(
                f"paths have shape {self.bits.shape}; the layout needs [N, {self.layout.bits}]"
            )

    def __len__(self) -> int:
        return len(self.bits)

    @property
    def active_macs(self) -> Floats:
        """``[N]`` share of the dense MACs of each path."""
        return self.layout.active_macs(self.bits)

    @property
    def opening_rate(self) -> Floats:
        """``[P]`` share of the inputs for which each filter is open."""
        rate: Floats = self.bits.mean(axis=0, dtype=np.float64)
        return rate

    def layer_density(self) -> Floats:
        """``[layers]`` mean share of open filters per layer."""
        return np.array([codes.mean(dtype=np.float64) for codes in self.layout.split(self.bits)])

    def input_dependent(self, low: float = 0.05, high: float = 0.95) -> npt.NDArray[np.bool_]:
        """``[P]`` which filters are neither almost always closed nor almost always open."""
        rate = self.opening_rate
        return (rate >= low) & (rate <= high)

    def by_class(self, labels: npt.NDArray[np.integer[Any]], classes: int) -> Floats:
        """``[classes, P]`` opening rate of each filter among each class's inputs; NaN for an absent class."""
        rates = np.full((classes, self.layout.bits), np.nan)
        for label in np.unique(labels):
            rates[label] = self.bits[labels == label].mean(axis=0, dtype=np.float64)
        return rates
