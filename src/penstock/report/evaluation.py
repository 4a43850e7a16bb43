"""The figures of a decoupled network on test images: what ``penstock evaluate`` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.learn.dependence import Dependence
from penstock.learn.figures import dependent_shares
from penstock.paths import PathSet
from penstock.report.observation import Observation


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class; shares are between 0 and 1.

    Attributes:
        name: of the class.
        images: how many of its images were looked at.
        dense_accuracy: share of them that the dense network gets right; ``None`` without images.
        decoupled_accuracy: share that the decoupled one gets right; ``None`` without images.
        mac_fraction: mean share of the dense MACs that its images ask for; ``None`` without images.
    """

    name: str
    images: int
    dense_accuracy: float | None
    decoupled_accuracy: float | None
    mac_fraction: float | None


@dataclass(frozen=True, kw_only=True)
class LayerFigures:
    """One gated layer or observer; entropies and spread are means over its filters.

    Attributes:
        name: of the convolution.
        filters: how many it has; of an observer, its bits.
        density: mean share of filters that are open.
        varying: share of filters open on 5 % to 95 % of the images.
        input_dependent: share of filters that vary and are steady, see `penstock.learn.dependence`.
        class_spread: standard deviation of a filter's opening rate between classes.
        entropy: H(z) in nats.
        class_entropy: H(z|y) in nats.
        information: I(z;y) in nats.
    """

    name: str
    filters: int
    density: float
    varying: float
    input_dependent: float
    class_spread: float
    entropy: float
    class_entropy: float
    information: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All figures of one network; shares are between 0 and 1.

    Attributes:
        source: what was evaluated.
        sha256: of its checkpoint.
        data: name of the data set.
        images: number of test images.
        dense_accuracy: of the network as it was before it got gates.
        decoupled_accuracy: of the decoupled one.
        loss_points: how many percentage points of accuracy decoupling cost; below 0 it gained.
        mac_fraction: mean share of the dense MACs, gates counted.
        density: share of filters that are open, over all images.
        varying: share of filters open on 5 % to 95 % of the images, the naive measure; ``None`` of a
            cascade, whose one decision all filters of its second member follow.
        input_dependent: share of filters that vary and whose bit noise of +-1/255 leaves alone, the strict one;
            ``None`` of a cascade.
        flags: promised and measured false-positive rate; ``None`` where no detector was fitted.
        classes: figures of each class.
        layers: figures of each gated layer, in network order, and of each observer.
    """

    source: str
    sha256: str
    data: str
    images: int
    dense_accuracy: float
    decoupled_accuracy: float
    loss_points: float
    mac_fraction: float
    density: float
    varying: float | None
    input_dependent: float | None
    flags: dict[str, Any] | None
    classes: tuple[ClassFigures, ...]
    layers: tuple[LayerFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


def evaluate(seen: Observation) -> Evaluation:
    """The figures of what was observed."""
    dense = seen.dense_predicted == seen.images.labels
    decoupled = seen.predicted == seen.images.labels
    layout = seen.paths.layout
    return Evaluation(
        source=seen.name,
        sha256=seen.sha256,
        data=seen.data,
        images=len(seen.images),
        dense_accuracy=float(dense.mean()),
        decoupled_accuracy=float(decoupled.mean()),
        loss_points=100 * float(dense.mean() - decoupled.mean()),
        mac_fraction=float(seen.paths.active_macs.mean()),
        density=layout.over_filters(seen.paths.bits, without=1.0),
        **dependent_shares(seen.checkpoint.network, seen.paths, seen.dependence),
        flags=seen.flags,
        classes=_class_figures(seen, dense, decoupled),
        layers=layer_figures(seen.paths, seen.dependence),
    )


def layer_figures(paths: PathSet, dependence: Dependence) -> tuple[LayerFigures, ...]:
    """The figures of each layer, in network order."""

    def means(values: npt.NDArray[Any]) -> list[float]:
        return [float(part.mean()) for part in paths.layout.split(values)]

    columns = {
        "density": paths.layer_density().tolist(),
        "varying": means(dependence.varies),
        "input_dependent": means(dependence.input_dependent),
        "class_spread": means(dependence.class_spread),
        "entropy": means(dependence.entropy),
        "class_entropy": means(dependence.class_entropy),
        "information": means(dependence.information),
    }
    return tuple(
        LayerFigures(
            name=layer.name,
            filters=layer.filters,
            **{name: values[index] for name, values in columns.items()},
        )
        for index, layer in enumerate(paths.layout.layers)
    )


def _class_figures(
    seen: Observation, dense: npt.NDArray[np.bool_], decoupled: npt.NDArray[np.bool_]
) -> tuple[ClassFigures, ...]:
    macs = seen.paths.active_macs

    def mean(values: npt.NDArray[Any], chosen: npt.NDArray[np.bool_]) -> float | None:
        return float(values[chosen].mean()) if chosen.any() else None

    figures = []
    for label, name in enumerate(seen.images.class_names):
        own = seen.images.labels == label
        figures.append(
            ClassFigures(
                name=name,
                images=int(own.sum()),
                dense_accuracy=mean(dense, own),
                decoupled_accuracy=mean(decoupled, own),
                mac_fraction=mean(macs, own),
            )
        )
    return tuple(figures)
