"""Paths: which filters of a network ran for an input.

A gate decides for each filter ``j`` of layer ``l`` whether it runs: ``z[l][j]`` is 0 or 1. The layers' codes,
laid end to end in network order, are the input's **path**, ``P`` bits long. A `PathLayout` says which bits
belong to which layer and what their filters cost, a `PathSet` holds the paths of many inputs under one
layout.

The cost of a path is counted in multiply-accumulates (MACs). A gated convolution with ``m`` MACs runs

    m * (open filters / filters) * (input channels that are there / input channels)

of them: a closed filter is not computed, and where input channels come straight from other gated layers, from one or
from several that are concatenated, neither are the products with those layers' closed filters. A *follower*, a
depthwise convolution behind a gated one, has no bits of its own: it computes the channels that are there. An *observer*
is the opposite: its bits are part of the path, and rule and save nothing. With ``f`` MACs that every input pays
(ungated layers, gates and observers) and ``D`` the dense network's MACs, without gates, the share that a path asks for
is

    d_l = open_l / C_l                                            density of a gated layer
    e_r = (u_r + sum_{s in sources(r)} C_s d_s) / (u_r + sum_{s in sources(r)} C_s)
    active(z) = (f + sum_{layers l} m_l d_l e_l + sum_{followers r} m_r e_r) / D

with ``u_r`` the input channels of r that no gate rules; ``e_r = 1`` where there are no sources. It may exceed 1 when
all gates are open, because the gates are paid for too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

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
        sources: indices of the gated layers whose closed filters are missing from this layer's input, one as often
            as its filters stand there; empty if all input channels are always there.
        ungated: beside those of the sources, input channels that are always there.
        observes: no convolution: the bits of an observer, which rule nothing.
    """

    name: str
    filters: int
    macs: int
    sources: tuple[int, ...] = ()
    ungated: int = 0
    observes: bool = False


@dataclass(frozen=True, kw_only=True)
class Follower:
    """A convolution without bits of its own, which works channel by channel on those that are there.

    Attributes:
        name: qualified name of the depthwise convolution in the network.
        macs: its MACs with everything open, for one input.
        sources: as in `PathLayer`.
        ungated: as in `PathLayer`.
    """

    name: str
    macs: int
    sources: tuple[int, ...]
    ungated: int = 0


@dataclass(frozen=True, kw_only=True)
class PathLayout:
    """Order, size and cost of all gated layers of one network.

    Attributes:
        layers: the gated layers in network order.
        fixed_macs: MACs that every input pays: ungated layers and gates.
        dense_macs: MACs of the network before it got gates.
        followers: convolutions whose cost follows the gated layers'.
    """

    layers: tuple[PathLayer, ...]
    fixed_macs: int
    dense_macs: int
    followers: tuple[Follower, ...] = ()

    def __post_init__(self) -> None:
        for index, layer in enumerate(self.layers):
            if layer.filters < 1:
                raise InvalidArgumentError(
                    f"layer {layer.name!r} has {layer.filters} filters; at least 1 is needed"
                )
            _check_reader(layer, earlier=index)
            if layer.observes and (layer.macs or layer.sources):
                raise InvalidArgumentError(
                    f"layer {layer.name!r} observes, so it has neither MACs nor sources"
                )
        for follower in self.followers:
            _check_reader(follower, earlier=len(self.layers))
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
    def rules(self) -> npt.NDArray[np.bool_]:
        """``[P]`` which bits rule a filter; the others are observers'."""
        return np.repeat(
            [not layer.observes for layer in self.layers], [layer.filters for layer in self.layers]
        )

    @property
    def watched(self) -> slice:
        """The bits that detectors look at: observers', which stand in a row, or all if there are none."""
        places = np.flatnonzero(~self.rules)
        return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, self.bits)

    @property
    def watching(self) -> PathLayout:
        """The layout of those bits alone."""
        layers = tuple(layer for layer in self.layers if layer.observes)
        return replace(self, layers=layers, followers=()) if layers else self

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """The bits of each layer, in order."""
        ends = np.cumsum([layer.filters for layer in self.layers]).tolist()
        return tuple(slice(end - layer.filters, end) for end, layer in zip(ends, self.layers, strict=True))

    def of(self, name: str) -> slice:
        """The bits of the layer of this name."""
        return self.slices[self.names.index(name)]

    def over_filters(self, values: npt.NDArray[Any], *, without: float) -> float:
        """Mean of ``[..., P]`` over the bits that rule filters; ``without`` where none does."""
        return float(values[..., self.rules].mean()) if self.rules.any() else without

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
        density = np.stack([codes.mean(axis=-1, dtype=np.float64) for codes in self.split(path)], axis=-1)
        weight, constant = self.input_shares()
        entering = density @ weight + constant
        own = np.concatenate([density, np.ones((*density.shape[:-1], len(self.followers)))], axis=-1)
        total: Floats = self.fixed_macs + (own * entering) @ np.array(self.reader_macs, np.float64)
        return total / self.dense_macs

    @property
    def readers(self) -> tuple[PathLayer | Follower, ...]:
        """The layers, then the followers: everything whose cost depends on what reaches it."""
        return (*self.layers, *self.followers)

    @property
    def reader_macs(self) -> tuple[int, ...]:
        """MACs of each of the `readers` with everything open."""
        return tuple(reader.macs for reader in self.readers)

    def input_shares(self) -> tuple[Floats, Floats]:
        """How the readers' shares of present input channels follow from the layers' densities.

        Returns:
            ``W`` ``[layers, readers]`` and ``b`` ``[readers]`` with ``e = d W + b``.
        """
        weight = np.zeros((len(self.layers), len(self.readers)))
        constant = np.ones(len(self.readers))
        for index, reader in enumerate(self.readers):
            if reader.sources:
                channels = reader.ungated + sum(self.layers[source].filters for source in reader.sources)
                constant[index] = reader.ungated / channels
                for source in reader.sources:
                    weight[source, index] += self.layers[source].filters / channels
        return weight, constant

    def reading_whole(self, names: Collection[str]) -> PathLayout:
        """The same layout, but the readers of these names run on all of their input channels."""
        return replace(
            self,
            layers=tuple(_whole(layer) if layer.name in names else layer for layer in self.layers),
            followers=tuple(_whole(each) if each.name in names else each for each in self.followers),
        )

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

    def varying(self, low: float = 0.05, high: float = 0.95) -> npt.NDArray[np.bool_]:
        """``[P]`` which filters are neither almost always closed nor almost always open."""
        rate = self.opening_rate
        return (rate >= low) & (rate <= high)

    def by_class(self, labels: npt.NDArray[np.integer[Any]], classes: int) -> Floats:
        """``[classes, P]`` opening rate of each filter among each class's inputs; NaN for an absent class."""
        rates = np.full((classes, self.layout.bits), np.nan)
        for label in np.unique(labels):
            rates[label] = self.bits[labels == label].mean(axis=0, dtype=np.float64)
        return rates


Reader = TypeVar("Reader", PathLayer, Follower)


def _whole(reader: Reader) -> Reader:
    return replace(reader, sources=(), ungated=0)


def _check_reader(reader: PathLayer | Follower, earlier: int) -> None:
    if reader.macs < 0:
        raise InvalidArgumentError(f"layer {reader.name!r} has {reader.macs} MACs; 0 is the least")
    if reader.ungated < 0:
        raise InvalidArgumentError(
            f"layer {reader.name!r} has {reader.ungated} ungated inputs; 0 is the least"
        )
    for source in reader.sources:
        if not 0 <= source < earlier:
            raise InvalidArgumentError(
                f"layer {reader.name!r} has source {source}; it must be the index of an earlier one"
            )
