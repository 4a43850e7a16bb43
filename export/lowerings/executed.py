"""What a lowered graph really computes: the closed filters that it pads with or cannot leave out count too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.manifest import Choice
from penstock.nn.cascade import RAN
from penstock.paths import Bits, Floats, PathLayout

Executed: TypeAlias = Callable[[PathLayout, Bits], Floats]
"""Share of the dense network's MACs that a graph executes for each of the paths ``[N, P]``."""


def everything(layout: PathLayout, path: Bits) -> Floats:
    """As with every filter open."""
    return layout.active_macs(np.ones_like(path))


@dataclass(frozen=True)
class OpenOnly:
    """The open filters.

    Attributes:
        narrow: the convolutions that run on those input channels only that are there.
        whole: layers that compute all their filters nevertheless.
    """

    narrow: Collection[str]
    whole: Collection[str] = frozenset()

    def __call__(self, layout: PathLayout, path: Bits) -> Floats:
        """The share for each path."""
        readers = {reader.name for reader in layout.readers}
        narrowed = layout.reading_whole(readers - set(self.narrow))
        if not self.whole:
            return narrowed.active_macs(path)
        # What a masked layer computes follows from all its filters, what reads it from the channels that are there:
        # all of them again, because what such a layer gives is not compact.
        opened = path.copy()
        for name, bits in zip(layout.names, layout.split(opened), strict=True):
            bits[:] = 1 if name in self.whole else bits
        return narrowed.active_macs(opened)


@dataclass(frozen=True)
class Stage:
    """Convolutions of which each prototype computes a fixed part.

    Attributes:
        layers: the gated ones among them, in order.
        bits: the prototypes, ``[K, P_s]``.
        shares: for each convolution of what it has when dense, the share that each prototype computes, ``[K]``.
    """

    layers: tuple[str, ...]
    bits: npt.NDArray[np.bool_]
    shares: Mapping[str, npt.NDArray[np.float64]]

    def prototype(self, layout: PathLayout, path: Bits) -> npt.NDArray[np.int64]:
        """Which prototype each path shows, ``[N]``: of equal ones any, of those of a member that did not run none."""
        places = dict(zip(layout.names, layout.slices, strict=True))
        own = np.concatenate([path[:, places[name]] for name in self.layers], axis=1)
        nearest: npt.NDArray[np.int64] = (own[:, None] != self.bits).sum(axis=2).argmin(axis=1)
        return nearest


@dataclass(frozen=True)
class Prototypes:
    """The prototypes that the paths show, and the second member of a cascade where it runs.

    Attributes:
        stages: of all members.
    """

    stages: Sequence[Stage]

    def __call__(self, layout: PathLayout, path: Bits) -> Floats:
        """The share for each path."""
        ran = self._ran(layout, path).astype(np.float64)
        computed = {
            name: self._share(stage, name, layout, path) for stage in self.stages for name in stage.shares
        }
        total = np.full(len(path), float(layout.fixed_macs))
        for reader in layout.readers:
            share = ran if reader.name == RAN else computed.get(reader.name, np.ones(len(path)))
            total += reader.macs * share * (ran if _in_second(reader.name) else 1.0)
        return total / layout.dense_macs

    def choices(self, layout: PathLayout, path: Bits) -> tuple[Choice, ...]:
        """What was chosen along the paths ``[N, P]``: first between members, then in each stage where it ran."""
        ran = self._ran(layout, path)
        members = [Choice(place=RAN, images=_counts(ran, 2))] if RAN in layout.names else []
        stages = []
        for stage in self.stages:
            own = path[ran] if _in_second(stage.layers[0]) else path
            images = _counts(stage.prototype(layout, own), len(stage.bits))
            stages.append(Choice(place=stage.layers[0], images=images))
        return (*members, *stages)

    def _ran(self, layout: PathLayout, path: Bits) -> npt.NDArray[np.bool_]:
        """For which paths the second member ran, ``[N]``; where there is no cascade, for all."""
        places = dict(zip(layout.names, layout.slices, strict=True))
        return path[:, places[RAN]][:, 0] > 0 if RAN in places else np.ones(len(path), bool)

    def _share(self, stage: Stage, name: str, layout: PathLayout, path: Bits) -> Floats:
        chosen: Floats = stage.shares[name][stage.prototype(layout, path)]
        return chosen


def _in_second(name: str) -> bool:
    """Whether a layer belongs to the second member of a cascade."""
    return name.startswith(f"{RAN}.")


def _counts(chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_], options: int) -> tuple[int, ...]:
    return tuple(np.bincount(chosen, minlength=options).tolist())
