"""How far what ran is from what gates would have opened: a router chose a path, and gates that look on disagree.

With z the bits and y the gate logits of an input of predicted class c, a gate's vote runs from shut to open in a ramp
around 0, so that the last digit of a logit moves the score by little,

    v = min(1, max(0, y + 1/2))         d = |z - v|, 0 to 1, the disagreement of each filter
    score = (sum_j |d_j - usual[c, j]| surprise[c, j] - location[c]) / spread[c]

with ``usual`` and ``surprise`` those of `penstock.detect.likelihood` for d rounded: filters on which router and gates
disagree for honest inputs, too, count little, and more so the others. Where a stage has no gate, y is what routers say
of a filter, p B - 1/2, and d is how unsure the router was; of a network with gates d is how unsure the gates were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.detect.combined import location_and_spread
from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats
from penstock.detect.likelihood import BitLikelihood

Table = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class GateDisagreement:
    """Which filters' disagreement is usual in each class, and how surprising the others' is.

    Attributes:
        usual: ``[C, P]`` float32, 0 or 1.
        surprise: ``[C, P]`` float32, 0 or more.
        location: ``[C, 1]`` float32, mean score of each predicted class on the fit set.
        spread: ``[C, 1]`` float32, above 0, its standard deviation.
    """

    usual: Table
    surprise: Table
    location: Table
    spread: Table

    @classmethod
    def fit(cls, honest: PathFeatures, classes: int) -> GateDisagreement:
        """Count disagreements per class."""
        rounded = (disagreement(honest) > 0.5).astype(np.uint8)
        counted = BitLikelihood.fit(PathFeatures(rounded, honest.gate_logits, honest.predicted), classes)
        unit = np.ones((classes, 1), np.float32)
        raw = cls(counted.usual, counted.surprise, 0 * unit, unit).score(honest)[:, None]
        return cls(counted.usual, counted.surprise, *location_and_spread(raw, honest.predicted, classes))

    def surprises(self, features: PathFeatures) -> Floats:
        """``[N, P]``: what each filter adds, before the sum is standardised."""
        own = features.predicted
        surprises: Floats = np.abs(disagreement(features) - self.usual[own]) * self.surprise[own]
        return surprises

    def score(self, features: PathFeatures) -> Floats:
        """``[N]``, larger is stranger; honest inputs are around 0, give or take 1. In double precision."""
        own = features.predicted
        total = self.surprises(features).sum(axis=1)
        score: Floats = (total - self.location[own, 0]) / self.spread[own, 0]
        return score


def disagreement(features: PathFeatures) -> Floats:
    """``[N, P]``, 0 to 1: d."""
    votes = np.clip(features.gate_logits.astype(np.float64) + 0.5, 0, 1)
    found: Floats = np.abs(features.bits - votes)
    return found
