"""How unlikely an input's bits are for its class.

Bits are taken as independent given the predicted class c, ``P(z_j = 1 | c) = p[c, j]``, with ``p`` estimated
from the fit set under Jeffreys' prior, Beta(1/2, 1/2):

    p[c, j] = (n1[c, j] + 1/2) / (n[c] + 1)

where ``n[c]`` counts the inputs of class c and ``n1[c, j]`` those whose filter j is open. So no bit is ever
impossible. With ``m[c] = 1[p[c] > 1/2]``, the most probable path of the class, the score is

    -log P(z | c) + log P(m[c] | c) = sum_j |z_j - m[c, j]| * a[c, j],      a = |log(p / (1 - p))|

the negative log-likelihood up to a constant of the class: every bit that is not as usual adds its surprise. A
sum of terms that are never negative loses nothing to cancellation, whatever the precision it is computed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats, class_totals


@dataclass(frozen=True, eq=False)
class BitLikelihood:
    """Which bits are usual in each class, and how surprising the others are.

    Attributes:
        usual: ``[C, P]`` float32, 0 or 1: m.
        surprise: ``[C, P]`` float32, 0 or more: a.
    """

    usual: npt.NDArray[np.float32]
    surprise: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, features: PathFeatures, classes: int) -> BitLikelihood:
        """Count open filters per class; a class with fewer than two inputs gets the counts of all."""
        opened, counts = class_totals(features.bits, features.predicted, classes)
        log_odds = np.log((opened + 0.5) / (counts - opened + 0.5))
        return cls((log_odds > 0).astype(np.float32), np.abs(log_odds).astype(np.float32))

    def surprises(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N, P]``: what each filter adds to the score, 0 where it does as usual in the class."""
        own = features.predicted
        surprises: npt.NDArray[np.float32] = np.abs(features.bits - self.usual[own]) * self.surprise[own]
        return surprises

    def score(self, features: PathFeatures) -> Floats:
        """``[N]``, 0 or more, larger is stranger."""
        total: Floats = self.surprises(features).sum(axis=1, dtype=np.float64)
        return total
