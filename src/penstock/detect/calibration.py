"""A threshold with a promise: split conformal calibration.

Let n calibration scores and the score of a new honest input be exchangeable, for instance independent draws
from one distribution. With the threshold t = the k-th smallest calibration score,

    k = ceil((n + 1) (1 - r)),      flag iff score > t

the new input is flagged with probability ``1 - k / (n + 1) <= r``: its rank among the n + 1 scores is
uniform, and it is flagged only if that rank is above k (Vovk et al., *Algorithmic Learning in a Random
World*, 2005; Angelopoulos and Bates, section 1 and appendix C, https://arxiv.org/abs/2107.07511). Ties, as
discrete scores have, only lower the rate.

**The promise is marginal**: it averages over calibration sets and over inputs. With one calibration set, the
rate that holds from then on is a draw from Beta(n + 1 - k, k), and it may differ between classes and change
with the inputs. `false_positive_interval` says how far a measured rate may lie from r by chance alone.

With a threshold for each predicted class (`class_thresholds`; Mondrian conformal prediction, the same book, section
4.5), the promise holds among the inputs that are taken for each class, because exchangeable inputs stay so among those
with one prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from penstock.errors import InvalidArgumentError, UnsupportedError

Scores = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def conformal_threshold(scores: Scores, fpr: float) -> float:
    """The threshold above which a score is flagged.

    Args:
        scores: ``[n]`` scores of honest inputs that the detector was not fitted on.
        fpr: share of honest inputs that may be flagged.

    Returns:
        One of the scores.

    Raises:
        InvalidArgumentError: no scores, one that is not finite, a rate that is not between 0 and 1, or too
            few scores for this rate; the message says how many are needed.
    """
    if scores.ndim != 1:
        raise InvalidArgumentError(f"scores have shape {scores.shape}; [n] is needed")
    rank = conformal_rank(len(scores), fpr)
    if not np.isfinite(scores).all():
        raise InvalidArgumentError(f"{np.sum(~np.isfinite(scores))} of {len(scores)} scores are not finite")
    return float(np.partition(scores, rank - 1)[rank - 1])


def conformal_rank(count: int, fpr: float) -> int:
    """Which of ``count`` scores, from the smallest, is the threshold: k, counted from 1.

    Raises:
        InvalidArgumentError: a rate that is not between 0 and 1, or too few scores for it.
    """
    rank = math.ceil((count + 1) * (1 - _decimal(fpr)))
    if rank > count:
        needed = fewest_scores(fpr)
        raise InvalidArgumentError(
            f"{count} calibration scores are too few for a false-positive rate of {fpr}: {needed} are needed"
        )
    return rank


def fewest_scores(fpr: float) -> int:
    """How many scores a threshold for this rate takes at least: ``1/fpr - 1``, rounded up."""
    return math.ceil(1 / _decimal(fpr)) - 1


def _decimal(fpr: float) -> Fraction:
    """The rate as the decimal that was written: in binary, 10 * (1 - 0.7) is a little above 3 and would give 4."""
    if not 0 < fpr < 1:
        raise InvalidArgumentError(f"false-positive rate is {fpr}; it must be above 0 and below 1")
    return Fraction(str(float(fpr)))


def class_thresholds(
    scores: Scores, predicted: npt.NDArray[np.int64], names: Sequence[str], fpr: float
) -> npt.NDArray[np.float64]:
    """The threshold of each predicted class, above which a score is flagged.

    Args:
        scores: ``[n]`` scores of honest inputs that the detector was not fitted on.
        predicted: ``[n]`` the classes that they were taken for.
        names: of all classes.
        fpr: share of the honest inputs taken for a class that may be flagged.

    Returns:
        ``[classes]``, each one of the scores of its class.

    Raises:
        InvalidArgumentError: too few scores of some class, says of which, or what `conformal_threshold` refuses.
    """
    counts = np.bincount(predicted, minlength=len(names))
    needed = fewest_scores(fpr)
    lacking = [
        f"{name} {count}" for name, count in zip(names, counts.tolist(), strict=True) if count < needed
    ]
    if lacking:
        raise InvalidArgumentError(
            f"a threshold per class for a false-positive rate of {fpr} needs {needed} honest images taken for each "
            f"class; too few are there for {', '.join(lacking)}: add images, raise the rate, or set one threshold for "
            "all classes"
        )
    return np.array([conformal_threshold(scores[predicted == label], fpr) for label in range(len(names))])


def false_positive_interval(
    n_test: int, n_calibration: int, fpr: float, confidence: float = 0.99
) -> tuple[float, float]:
    """Where the measured false-positive rate lies, if all is as promised and no scores are tied.

    The number of flags among ``n_test`` honest inputs, over the draw of both sets, is beta-binomial with
    ``n_test`` trials and parameters ``n_calibration + 1 - k`` and ``k``.

    Args:
        n_test: number of honest inputs on which the rate was measured.
        n_calibration: number of calibration scores.
        fpr: the promised rate.
        confidence: probability of the interval; each tail has half of what remains, or less.

    Returns:
        lowest and highest rate.

    Raises:
        InvalidArgumentError: nothing tested, a rate or confidence not between 0 and 1, or too few scores.
        UnsupportedError: scipy, which comes with scikit-learn, is not installed.
    """
    if n_test < 1 or not 0 < confidence < 1:
        raise InvalidArgumentError(
            f"n_test is {n_test}, confidence {confidence}; at least 1 and a number between 0 and 1 are needed"
        )
    try:
        from scipy.stats import betabinom
    except ImportError as error:
        raise UnsupportedError('intervals need scikit-learn: pip install "penstock[train]"') from error
    rank = conformal_rank(n_calibration, fpr)
    low, high = betabinom.interval(confidence, n_test, n_calibration + 1 - rank, rank)
    return float(low) / n_test, float(high) / n_test


def resplit_rates(
    scores: Scores, n_calibration: int, fpr: float, rounds: int, seed: int
) -> npt.NDArray[np.float64]:
    """Measured false-positive rates when the same honest scores are split again and again.

    Args:
        scores: ``[N]`` scores of honest inputs that the detector was not fitted on.
        n_calibration: how many of them set the threshold; the others are tested.
        fpr: the promised rate.
        rounds: number of splits. Those of one random order take stretches of it to calibrate, one behind the other and
            on around its end, as many as come nearest to one or two turns: each split is as random as any, and scores
            weigh alike in the mean.
        seed: of the splits.

    Returns:
        ``[rounds]``; their mean is at most ``fpr`` but for chance, their spread that of one split.

    Raises:
        InvalidArgumentError: nothing would be left to test, or what `conformal_threshold` refuses.
    """
    if not n_calibration < len(scores):
        raise InvalidArgumentError(f"{n_calibration} of {len(scores)} scores to calibrate leave none to test")
    draw = np.random.default_rng(seed)
    parts = _stretches(len(scores), n_calibration)
    shuffled = scores
    rates = np.empty(rounds)
    for round_ in range(rounds):
        shuffled = np.roll(shuffled, n_calibration) if round_ % parts else draw.permutation(scores)
        threshold = conformal_threshold(shuffled[:n_calibration], fpr)
        rates[round_] = np.mean(shuffled[n_calibration:] > threshold)
    return rates


def _stretches(count: int, length: int) -> int:
    """How many stretches of a circle of ``count`` come nearest to one or two turns."""
    return min(range(1, 2 * count // length + 2), key=lambda many: _beside_turns(many * length / count))


def _beside_turns(turns: float) -> float:
    return min(abs(turns - whole) for whole in (1, 2))
