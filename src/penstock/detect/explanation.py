"""Where a combined score comes from: filter by filter, and which classes' paths are like this one.

With the names of `penstock.detect.combined` and ``q = d^2 - 1``, the score is cut up without remainder:

    bits[j]  = |z_j - usual[c, j]| * surprise[c, j] / (2 spread[c, 0])
    q[j]     = x_j (directions (direction_weight p))_j + residual_weight e_j^2,      sum_j q[j] = q
    gates[j] = q[j] / (d + 1) / (2 spread[c, 1]),                   because d - 1 = q / (d + 1)
    baseline = -(location[c, 0] / spread[c, 0] + (location[c, 1] - 1) / spread[c, 1]) / 2
    score    = baseline + sum_j (bits[j] + gates[j])

``bits`` is never negative. ``gates`` may be, a little: along the kept directions a filter's deviation can be what
is to be expected given the others'.

The surprise at seeing a path in class c is its negative log-likelihood, ``sum_j |z_j - usual[c, j]|
surprise[c, j] + log(1 + exp(-surprise[c, j]))``, here per filter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.detect.combined import CombinedScore
from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where the scores of ``N`` inputs come from, all float64.

    Attributes:
        parts: ``[N, 2]``, what the likelihood and the distance add; they sum to the score.
        baseline: ``[N]``.
        bits: ``[N, P]``, what each filter's bit adds.
        gates: ``[N, P]``, what each filter's gate logit adds.
        surprise: ``[N, C]``, at each class, in nats per filter.
    """

    parts: Floats
    baseline: Floats
    bits: Floats
    gates: Floats
    surprise: Floats


def explain(score: CombinedScore, features: PathFeatures) -> Explanation:
    """Cut up the scores of some inputs.

    Raises:
        InvalidArgumentError: the features have another number of filters or an unknown class.
    """
    parts = score.components(features) / 2
    own = features.predicted
    location, spread = score.location[own].astype(np.float64), score.spread[own].astype(np.float64)
    bits = score.likelihood.surprises(features) / (2 * spread[:, :1])
    squares = _squares(score, features)
    distance = np.sqrt(1 + squares.sum(axis=1, keepdims=True))
    return Explanation(
        parts=parts,
        baseline=-(location[:, 0] / spread[:, 0] + (location[:, 1] - 1) / spread[:, 1]) / 2,
        bits=bits,
        gates=squares / (distance + 1) / (2 * spread[:, 1:]),
        surprise=_surprise(score, features),
    )


def _squares(score: CombinedScore, features: PathFeatures) -> Floats:
    """``[N, P]``: what each filter adds to the squared distance."""
    tables = score.mahalanobis
    directions = tables.directions.astype(np.float64)
    x = (features.gate_logits.astype(np.float64) - tables.mean[features.predicted]) / tables.scale
    along = x @ directions  # [N, r]
    beyond = x - along @ directions.T  # [N, P]
    squares: Floats = (
        x * ((along * tables.direction_weight) @ directions.T) + beyond**2 * tables.residual_weight
    )
    return squares


def _surprise(score: CombinedScore, features: PathFeatures) -> Floats:
    """``[N, C]``, nats per filter."""
    usual, surprise = (
        table.astype(np.float64) for table in (score.likelihood.usual, score.likelihood.surprise)
    )
    # |z - m| = m + z (1 - 2 m) for bits: linear in z, so that all classes are one product.
    constant = (usual * surprise + np.log1p(np.exp(-surprise))).sum(axis=1)
    slopes = surprise * (1 - 2 * usual)
    total: Floats = constant + features.bits @ slopes.T
    return total / score.filters
