"""Where a score comes from: part by part, filter by filter, and which classes' paths are like this one.

With the names of `penstock.detect.combined` and ``q = d^2 - 1``, every part of a recipe is cut up without remainder
into what filters' bits add, what their gate logits add, what the network's own answer adds, and a baseline, which is
what honest inputs of the class add on average, taken away:

    path-likelihood    bits[j]  = |z_j - usual[c, j]| surprise[c, j] / spread[c, 0],   baseline = -location / spread
    gate-mahalanobis   q[j]     = x_j (directions (direction_weight p))_j + residual_weight e_j^2,     sum_j q[j] = q
                       gates[j] = q[j] / (d + 1) / spread[c, 1],                      because d - 1 = q / (d + 1)
                       baseline = -(location[c, 1] - 1) / spread[c, 1]
    disagreement       bits[j]  = (z_j - q_j) (slope[c, j] - slope[k, j]) / spread[c],   k the nearest other class
                       baseline = (constant[c] - constant[k] - location[c]) / spread[c]
    router-gate        bits[j]  = |d_j - usual[c, j]| surprise[c, j] / spread[c],        baseline = -location / spread
    doubt              answer   = doubt / spread,                                        baseline = -location / spread

The mean of K parts adds 1/K of each. Combined by p-values, a part i with surprisal g_i adds

    minimum    the score, where g_i is the largest, else 0
    fisher     2 g_i
    harmonic   exp(g_i) / sum_k exp(g_k) of the score

and that is shared among those terms of its cut that are positive, in proportion, without the baseline: where honest
inputs lie stands in the p-value already. Where no term is positive, the baseline has it all.

In a mean, ``bits`` of a disagreement have both signs, and ``gates`` may be negative, a little: along the kept
directions a filter's deviation can be what is to be expected given the others'. All others are 0 or more.

The surprise at seeing a path in class c is its negative log-likelihood, ``sum_j |z_j - usual[c, j]|
surprise[c, j] + log(1 + exp(-surprise[c, j]))``, here per filter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.detect.combined import CombinedScore
from penstock.detect.cuts import cut
from penstock.detect.family_score import FamilyScore
from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats
from penstock.detect.surprisal import combine


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where the scores of ``N`` inputs come from, all float64.

    Attributes:
        parts: ``[N, K]``, what each part of the recipe adds; they sum to the score, and so do all that follow but the
            last.
        baseline: ``[N]``.
        answer: ``[N]``, what the network's doubt about its answer adds.
        bits: ``[N, P]``, what each filter's bit adds.
        gates: ``[N, P]``, what each filter's gate logit adds.
        surprise: ``[N, C]``, at each class, in nats per filter.
    """

    parts: Floats
    baseline: Floats
    answer: Floats
    bits: Floats
    gates: Floats
    surprise: Floats


def explain(score: FamilyScore, features: PathFeatures) -> Explanation:
    """Cut up the scores of some inputs.

    Raises:
        InvalidArgumentError: the features have another number of filters or an unknown class, or do not say how unsure
            the network is where the score asks for it.
    """
    parts = score.parts(features)
    values = _values(score, parts)
    cuts = [cut(name, score, features) for name in score.recipe.parts]
    if score.recipe.by_surprisal:
        cuts = [one.scaled_to(values[:, place]) for place, one in enumerate(cuts)]
    else:
        cuts = [one.times(np.full(len(features), 1 / len(cuts))) for one in cuts]
    whole = sum(cuts[1:], start=cuts[0])
    return Explanation(
        parts=values,
        baseline=whole.baseline,
        answer=whole.answer,
        bits=whole.bits,
        gates=whole.gates,
        surprise=_surprise(score.combined, features),
    )


def _values(score: FamilyScore, parts: npt.NDArray[np.float32]) -> Floats:
    """``[N, K]``: what each part adds."""
    if not score.recipe.by_surprisal:
        means: Floats = parts.astype(np.float64) / parts.shape[1]
        return means
    surprisals = score.surprised(parts)
    if score.recipe.how == "fisher":
        return np.multiply(surprisals, 2.0)
    if score.recipe.how == "minimum":
        weights: Floats = np.eye(parts.shape[1])[surprisals.argmax(axis=1)]
    else:
        weights = np.exp(surprisals - surprisals.max(axis=1, keepdims=True))
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    values: Floats = combine(surprisals, score.recipe.how)[:, None] * shares
    return values


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
