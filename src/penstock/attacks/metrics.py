"""How well scores tell attacked images from honest ones, with intervals.

Thresholds come from calibration scores alone, never from attacked images. Intervals of areas are percentile bootstraps
over the honest test images and the attacked images (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993);
those of rates are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.detect import conformal_threshold
from penstock.errors import UnsupportedError

Scores = npt.NDArray[np.float64]
ROUNDS = 1000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: the figure.
        low: where its interval begins.
        high: where its interval ends.
    """

    value: float
    low: float
    high: float


def auroc(honest: Scores, attacked: Scores) -> float:
    """Probability that an attacked image scores above an honest one; ties count half."""
    return float(_Order.of(honest, attacked).above(np.ones(len(honest))).mean())


def auroc_estimate(honest: Scores, attacked: Scores, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """AUROC of scores ``[N]`` and ``[M]`` with its bootstrap interval."""
    draw, order = np.random.default_rng(seed), _Order.of(honest, attacked)
    values = np.empty(ROUNDS)
    for round_ in range(ROUNDS):
        weights = np.bincount(draw.integers(0, len(honest), len(honest)), minlength=len(honest))
        chosen = np.bincount(draw.integers(0, len(attacked), len(attacked)), minlength=len(attacked))
        values[round_] = order.above(weights) @ chosen / len(attacked)
    return estimate(auroc(honest, attacked), values, confidence)


def auroc_rounds(
    honest: Scores, attacks: Sequence[tuple[Scores, npt.NDArray[np.bool_]]], seed: int = 0
) -> Scores:
    """``[rounds, attacks]``: bootstrapped AUROC of several attacks on the same images, drawn once for all of them.

    An attack on the first of them only has what a round drew of those. With one seed the draws are the same for any
    other score of the same images, too: differences are of pairs.

    Args:
        honest: ``[N]`` scores.
        attacks: of each attack scores ``[M]`` of its attacked images and which of them count; an attack of which a
            round draws no image that counts has no number there.
        seed: of the draws.
    """
    draw, count = np.random.default_rng(seed), max(len(scores) for scores, _ in attacks)
    orders = [(_Order.of(honest, scores[counts]), counts) for scores, counts in attacks]
    values = np.full((ROUNDS, len(attacks)), np.nan)
    for round_ in range(ROUNDS):
        weights = np.bincount(draw.integers(0, len(honest), len(honest)), minlength=len(honest))
        chosen = np.bincount(draw.integers(0, count, count), minlength=count)
        for place, (order, counts) in enumerate(orders):
            own = chosen[: len(counts)][counts]
            if own.any():
                values[round_, place] = np.average(order.above(weights), weights=own)
    return values


def rate_estimate(flags: npt.NDArray[np.bool_], confidence: float = 0.95) -> Estimate:
    """Share of flags ``[N]``, at least one, with its Clopper-Pearson interval, which never covers too seldom.

    With x of N flags (Clopper and Pearson, *Biometrika* 26, 1934): from the (1 - c) / 2 quantile of Beta(x, N - x + 1)
    to the (1 + c) / 2 quantile of Beta(x + 1, N - x).

    Raises:
        UnsupportedError: scipy, which comes with scikit-learn, is not installed.
    """
    try:
        from scipy.stats import beta
    except ImportError as error:
        raise UnsupportedError('intervals need an extra: pip install "penstock[attacks]"') from error
    count, hits, tail = len(flags), int(flags.sum()), (1 - confidence) / 2
    low = beta.ppf(tail, hits, count - hits + 1) if hits else 0.0
    high = beta.ppf(1 - tail, hits + 1, count - hits) if hits < count else 1.0
    return Estimate(value=hits / count, low=float(low), high=float(high))


def flags_at(calibration: Scores, scores: Scores, fpr: float) -> npt.NDArray[np.bool_]:
    """``[N]``: which scores are above the threshold that honest calibration scores set for this rate."""
    flagged: npt.NDArray[np.bool_] = ~(scores <= conformal_threshold(calibration, fpr))
    return flagged


@dataclass(frozen=True, eq=False)
class _Order:
    """Where attacked scores ``[M]`` stand among honest ones ``[N]``, found once for all rounds of a bootstrap.

    Attributes:
        honest: ``[N]`` places of honest scores, from the least to the largest.
        below: ``[M]``: how many honest scores are less than an attacked one.
        upto: ``[M]``: how many are no larger.
    """

    honest: npt.NDArray[np.intp]
    below: npt.NDArray[np.intp]
    upto: npt.NDArray[np.intp]

    @classmethod
    def of(cls, honest: Scores, attacked: Scores) -> _Order:
        places = np.argsort(honest, kind="stable")
        below, upto = (np.searchsorted(honest[places], attacked, side) for side in ("left", "right"))
        return cls(places, below, upto)

    def above(self, weights: npt.NDArray[np.generic]) -> Scores:
        """``[M]``: share of honest scores below each attacked one, by their weights ``[N]``; ties count half."""
        mass = np.concatenate([[0.0], np.cumsum(weights[self.honest], dtype=np.float64)])
        share: Scores = (mass[self.below] + mass[self.upto]) / (2 * mass[-1])
        return share


def estimate(value: float, drawn: Scores, confidence: float = 0.95) -> Estimate:
    """A figure with the percentile interval of what a bootstrap drew in its place."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value=value, low=float(low), high=float(high))
