"""The score that goes into exported graphs: likelihood of the bits and distance of the gate logits, together.

Classes differ in how varied their honest paths are, so each score is measured in standard deviations of its
own class on the fit set before both are averaged. With c the predicted class, z the bits as floats, y the
gate logits, the tables as `CombinedScore.arrays` gives them, and C classes, P filters, r directions:

    a = sum_j |z - usual[c]| * surprise[c]                                              [N]
    x = (y - mean[c]) / scale                                                           [N, P]
    p = x @ directions                                                                  [N, r]
    e = x - p @ directions^T                                                            [N, P]
    d = sqrt(1 + sum_r p^2 * direction_weight + sum_j e^2 * residual_weight)            [N]
    score = ((a - location[c, 0]) / spread[c, 0] + (d - location[c, 1]) / spread[c, 1]) / 2

Honest inputs score around 0, give or take 1. Single precision agrees with double precision to 1e-4 of
``max(1, |score|)``, because nothing large is subtracted from anything large on the way to a and d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats, class_totals
from penstock.detect.likelihood import BitLikelihood
from penstock.detect.mahalanobis import GateMahalanobis
from penstock.errors import InvalidArgumentError

Table = npt.NDArray[np.float32]

# Every table and its shape: C classes, P filters, r directions.
SHAPES: dict[str, tuple[str | int, ...]] = {
    "usual": ("C", "P"),
    "surprise": ("C", "P"),
    "mean": ("C", "P"),
    "scale": ("P",),
    "directions": ("P", "r"),
    "direction_weight": ("r",),
    "residual_weight": (1,),
    "location": ("C", 2),
    "spread": ("C", 2),
}
DIVISORS = ("scale", "spread")
WEIGHTS = ("direction_weight", "residual_weight")

BATCH = 1024  # inputs scored at once: bounds the memory of the tables that are gathered per input
PRIOR = 10  # inputs of an average class mixed into a class's variance: a few inputs say little about it
SMALLEST_SPREAD = 0.05  # as a share of the location: what single precision can resolve to 1e-4


@dataclass(frozen=True, eq=False)
class CombinedScore:
    """Both scores and how to standardise them.

    Attributes:
        likelihood: score 0, of the bits.
        mahalanobis: score 1, of the gate logits.
        location: ``[C, 2]`` float32, mean of each score on the fit set.
        spread: ``[C, 2]`` float32, above 0, standard deviation of each score on the fit set.
    """

    likelihood: BitLikelihood
    mahalanobis: GateMahalanobis
    location: Table
    spread: Table

    @classmethod
    def fit(cls, features: PathFeatures, classes: int, rank: int) -> CombinedScore:
        """Fit both scores, then see where they lie on the same inputs."""
        likelihood = BitLikelihood.fit(features, classes)
        mahalanobis = GateMahalanobis.fit(features, classes, rank)
        raw = _raw(likelihood, mahalanobis, features)
        return cls(likelihood, mahalanobis, *location_and_spread(raw, features.predicted, classes))

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.location)

    @property
    def filters(self) -> int:
        """Length P of a path."""
        return len(self.mahalanobis.scale)

    def components(self, features: PathFeatures) -> Floats:
        """``[N, 2]``: both scores in standard deviations of the predicted class, in double precision.

        Raises:
            InvalidArgumentError: the features have another number of filters or an unknown class.
        """
        if features.filters != self.filters:
            raise InvalidArgumentError(f"paths have {features.filters} bits; the detector has {self.filters}")
        features.check_classes(self.classes)
        own = features.predicted
        raw = _raw(self.likelihood, self.mahalanobis, features)
        return (raw - self.location[own]) / self.spread[own]

    def arrays(self) -> dict[str, Table]:
        """The tables named in `SHAPES`."""
        return {
            **vars(self.likelihood),
            **vars(self.mahalanobis),
            "location": self.location,
            "spread": self.spread,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> CombinedScore:
        """Read what `arrays` gave; other keys are ignored.

        Raises:
            InvalidArgumentError: a table is missing, not float32, not finite, or has another shape than the
                others imply.
        """
        _check_tables(arrays)
        return cls(
            BitLikelihood(**{field.name: arrays[field.name] for field in fields(BitLikelihood)}),
            GateMahalanobis(**{field.name: arrays[field.name] for field in fields(GateMahalanobis)}),
            arrays["location"],
            arrays["spread"],
        )


def _raw(likelihood: BitLikelihood, mahalanobis: GateMahalanobis, features: PathFeatures) -> Floats:
    """``[N, 2]``: both scores as they come."""
    raw = np.empty((len(features), 2))
    for index, batch in enumerate(features.batches(BATCH)):
        rows = slice(index * BATCH, index * BATCH + len(batch))
        raw[rows, 0] = likelihood.score(batch)
        raw[rows, 1] = mahalanobis.score(batch)
    return raw


def location_and_spread(raw: Floats, predicted: npt.NDArray[np.int64], classes: int) -> tuple[Table, Table]:
    """``[C, S]`` each, from scores ``[N, S]``; pooled for a class with fewer than two inputs."""
    totals, counts = class_totals(raw, predicted, classes)
    location = totals / counts
    # Around the overall mean first, so that the difference of squares below stays small against its terms.
    center = raw.mean(axis=0)
    squares, _ = class_totals((raw - center) ** 2, predicted, classes)
    variance = np.maximum(squares / counts - (location - center) ** 2, 0)
    average = ((raw - location[predicted]) ** 2).mean(axis=0)
    spread = np.sqrt((counts * variance + PRIOR * average) / (counts + PRIOR))
    spread = np.maximum(spread, SMALLEST_SPREAD * np.abs(location))
    spread[spread == 0] = 1  # all honest inputs score exactly 0: any other score counts as it is
    return location.astype(np.float32), spread.astype(np.float32)


def _check_tables(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    sizes: dict[str | int, int] = {1: 1, 2: 2}
    for name, dimensions in SHAPES.items():
        if name not in arrays:
            raise InvalidArgumentError(f"detector state has no {name!r}; it needs {', '.join(SHAPES)}")
        table = arrays[name]
        if table.dtype != np.float32 or not np.isfinite(table).all():
            raise InvalidArgumentError(f"detector state {name!r} must be finite float32; it is {table.dtype}")
        # The first table that has a dimension says how long it is.
        for dimension, size in zip(dimensions, table.shape, strict=False):
            sizes.setdefault(dimension, size)
        needed = tuple(sizes.get(dimension) for dimension in dimensions)
        if table.shape != needed:
            raise InvalidArgumentError(f"detector state {name!r} has shape {table.shape}; {needed} is needed")
        if name in DIVISORS and table.min() <= 0:
            raise InvalidArgumentError(f"detector state {name!r} holds {table.min()}; it must be above 0")
        if name in WEIGHTS and table.min(initial=0) < 0:
            raise InvalidArgumentError(f"detector state {name!r} holds {table.min()}; a weight is 0 or more")
