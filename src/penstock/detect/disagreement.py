"""Whether a path looks more like another class than the one that its input was taken for.

Each class k has a reference, and a path z a distance to it that is linear in the bits:

    prototype          D_k(z) = -log P(z | k), the bits independent with the rates of `penstock.detect.likelihood`
    sub-architecture   D_k(z) = mean over layers of the share of bits that differ from the class's binary mask (Hu et
                       al., *Architecture Disentanglement*, ICCV 2021, compare masks layer by layer too)

The disagreement at a predicted class c is how much nearer the nearest other class is,

    g = D_c(z) - min over k != c of D_k(z)

standardised by its mean and spread among honest inputs of the class. What all classes have in common cancels in g, so
it is left out of the tables: with the mean slope over classes taken away, and q the mean path of the fit set,

    D_k(z) = constant[k] + (z - q) @ slope[k]^T + (the same for all classes)

Sums then stay small, and single precision agrees with double precision to 1e-4 of ``max(1, |score|)``. The cost is one
product of P x C, less than any other score here.

What it cannot see: an attack that drives an input all the way into another class, as projected gradient descent does
when gradients pass through the gates, ends at paths that agree with that class better than honest ones do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.detect.combined import location_and_spread
from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats, class_totals
from penstock.errors import InvalidArgumentError
from penstock.paths import PathSet

Table = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ClassDisagreement:
    """Linear distances to the references of all classes, and how honest inputs disagree.

    Attributes:
        usual: ``[P]`` float32, mean path of the fit set: q.
        slope: ``[C, P]`` float32.
        constant: ``[C]`` float32.
        location: ``[C, 1]`` float32, mean disagreement of each predicted class on the fit set.
        spread: ``[C, 1]`` float32, above 0, its standard deviation.
    """

    usual: Table
    slope: Table
    constant: Table
    location: Table
    spread: Table

    @classmethod
    def of_prototypes(cls, honest: PathFeatures, classes: int) -> ClassDisagreement:
        """References are the opening rates of each class's honest inputs."""
        opened, counts = class_totals(honest.bits, honest.predicted, classes)
        rate = (opened + 0.5) / (counts + 1)
        return cls._centred(-np.log(rate / (1 - rate)), -np.log1p(-rate).sum(axis=1), honest)

    @classmethod
    def of_sub_architectures(cls, masks: PathSet, honest: PathFeatures) -> ClassDisagreement:
        """References are the binary masks of the classes, in their order, one row each."""
        if masks.layout.bits != honest.filters:
            raise InvalidArgumentError(
                f"sub-architectures have {masks.layout.bits} bits, paths {honest.filters}: they are of two networks"
            )
        sizes = np.array([layer.filters for layer in masks.layout.layers])
        weight = np.repeat(1 / (len(sizes) * sizes), sizes)
        bits = masks.bits.astype(np.float64)
        return cls._centred((1 - 2 * bits) * weight, (bits * weight).sum(axis=1), honest)

    @classmethod
    def _centred(cls, slope: Floats, constant: Floats, honest: PathFeatures) -> ClassDisagreement:
        usual = honest.bits.mean(axis=0, dtype=np.float64).astype(np.float32)
        slope = slope - slope.mean(axis=0)
        constant = constant - constant.mean() + slope @ usual
        unit = np.ones((len(slope), 1), np.float32)
        tables = (usual, slope.astype(np.float32), constant.astype(np.float32))
        raw = cls(*tables, 0 * unit, unit).score(honest)[:, None]
        return cls(*tables, *location_and_spread(raw, honest.predicted, len(slope)))

    def distances(self, features: PathFeatures) -> Floats:
        """``[N, C]``, to the references of all classes, but for what they have in common."""
        away = features.bits - self.usual.astype(np.float64)
        distances: Floats = self.constant + away @ self.slope.T
        return distances

    def nearest_other(self, features: PathFeatures) -> npt.NDArray[np.int64]:
        """``[N]``, the class whose reference is nearest, but for the predicted one."""
        return _nearest_other(self.distances(features), features.predicted)

    def score(self, features: PathFeatures) -> Floats:
        """``[N]``, larger is stranger; honest inputs are around 0, give or take 1. In double precision."""
        own, rows = features.predicted, np.arange(len(features))
        distances = self.distances(features)
        nearer = distances[rows, own] - distances[rows, _nearest_other(distances, own)]
        score: Floats = (nearer - self.location[own, 0]) / self.spread[own, 0]
        return score


def _nearest_other(distances: Floats, own: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    others = distances.copy()
    others[np.arange(len(own)), own] = np.inf
    nearest: npt.NDArray[np.int64] = others.argmin(axis=1)
    return nearest


def check_masks(masks: PathSet | None, classes: int) -> None:
    """Refuse sub-architectures that are not one for each class."""
    if masks is not None and len(masks) != classes:
        raise InvalidArgumentError(f"{len(masks)} sub-architectures for {classes} classes")
