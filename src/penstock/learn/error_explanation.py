"""Why some answers are wrong: is the wrong class's sub-architecture like the right one's?

The paper's last experiment: misclassified images tend to be assigned to classes whose sub-architectures are similar
to that of the right class. For an image of class ``c`` that the network takes for ``p``, the *percentile* is the share
of the other wrong classes whose similarity to ``c`` lies below that of ``p``, ties counting half:

    percentile = mean over d not in {c, p} of  1[S[c, d] < S[c, p]] + 1[S[c, d] = S[c, p]] / 2

If errors had nothing to do with paths its mean were 0.5. Errors between the same two classes say the same thing again,
so besides an interval over images (bootstrap), the test permutes the *classes'* sub-architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from penstock.paths import Floats


@dataclass(frozen=True, kw_only=True)
class ErrorFigures:
    """How similar wrongly predicted classes are to the right ones.

    Attributes:
        images: number of images the network answered.
        errors: how many of them it got wrong.
        percentile: mean percentile of the wrong class, ``None`` without errors; chance is 0.5.
        interval_95: bootstrap interval over the errors, ``None`` without errors.
        p_value: share of permutations of the classes' sub-architectures with a mean at least as high.
        nearest: share of the errors that went to the most similar class.
        nearest_chance: share that would by chance.
    """

    images: int
    errors: int
    percentile: float | None
    interval_95: tuple[float, float] | None
    p_value: float | None
    nearest: float | None
    nearest_chance: float


def explain_errors(
    similar: Floats,
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> ErrorFigures:
    """Measure it.

    Args:
        similar: ``[classes, classes]`` mean similarity.
        labels: ``[N]``.
        predicted: ``[N]`` what the whole network says.
        resamples: of the bootstrap, and permutations of the test.
        seed: of both.
    """
    wrong = labels != predicted
    right_class, wrong_class = labels[wrong], predicted[wrong]
    count = int(wrong.sum())
    chance = 1 / (len(similar) - 1)
    if not count:
        return ErrorFigures(
            images=len(labels), errors=0, percentile=None, interval_95=None, p_value=None, nearest=None,
            nearest_chance=chance,
        )  # fmt: skip
    draw = np.random.default_rng(seed)
    ranks = percentiles(similar)
    values = ranks[right_class, wrong_class]
    reached = values.mean()
    means = [values[draw.integers(0, count, count)].mean() for _ in range(resamples)]
    higher = 0
    for _ in range(resamples):
        order = draw.permutation(len(similar))  # percentiles of permuted classes are permuted percentiles
        higher += bool(ranks[order[right_class], order[wrong_class]].mean() >= reached)
    low, high = np.quantile(means, [0.025, 0.975])
    others = np.where(np.eye(len(similar), dtype=np.bool_), -np.inf, similar)
    return ErrorFigures(
        images=len(labels),
        errors=count,
        percentile=float(reached),
        interval_95=(float(low), float(high)),
        p_value=(higher + 1) / (resamples + 1),
        nearest=float((others.argmax(axis=1)[right_class] == wrong_class).mean()),
        nearest_chance=chance,
    )


def percentiles(similar: Floats) -> Floats:
    """``[c, p]`` the percentile of class p among the classes other than c, see above; NaN on the diagonal.

    Args:
        similar: ``[classes, classes]``, at least three classes.
    """
    classes = len(similar)
    other = ~np.eye(classes, dtype=np.bool_)
    # A mean rank counts the smaller ones, half of the equal ones, and 1.
    among = rankdata(similar[other].reshape(classes, classes - 1), axis=1) - 1
    ranks = np.full((classes, classes), np.nan)
    ranks[other] = among.ravel() / (classes - 2)
    return ranks
