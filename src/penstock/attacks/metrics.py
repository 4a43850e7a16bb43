"""How well scores tell attacked images from honest ones, with intervals.

Thresholds come from calibration scores alone, never from attacked images. Intervals of areas are percentile bootstraps
over the honest test images and the attacked images (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993);
those of rates are exact.
"""

from __future__ import annotations

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
    return float(_above(honest, attacked, np.ones(len(honest))) @ np.ones(len(attacked)) / len(attacked))


def auroc_estimate(honest: Scores, attacked: Scores, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """AUROC of scores ``[N]`` and ``[M]`` with its bootstrap interval."""
    draw = np.random.default_rng(seed)
    values = np.empty(ROUNDS)
    for round_ in range(ROUNDS):
        weights = np.bincount(draw.integers(0, len(honest), len(honest)), minlength=len(honest))
        chosen = np.bincount(draw.integers(0, len(attacked), len(attacked)), minlength=len(attacked))
        values[round_] = _above(honest, attacked, weights) @ chosen / len(attacked)
    return _estimate(auroc(honest, attacked), values, confidence)


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


def _above(honest: Scores, attacked: Scores, weights: npt.NDArray[np.generic]) -> Scores:
    """``[M]``: weighted share of honest scores below each attacked one, ties half."""
    order = np.argsort(honest, kind="stable")
    mass = np.concatenate([[0.0], np.cumsum(weights[order], dtype=np.float64)])
    ordered = honest[order]
    below = mass[np.searchsorted(ordered, attacked, "left")]
    upto = mass[np.searchsorted(ordered, attacked, "right")]
    share: Scores = (below + upto) / (2 * mass[-1])
    return share


def _estimate(value: float, drawn: Scores, confidence: float) -> Estimate:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value=value, low=float(low), high=float(high))
