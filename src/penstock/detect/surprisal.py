r"""From a score to how surprising it is among honest inputs, so that several scores can be combined, also in a graph.

With n honest scores that nothing was fitted on, a score s has the conformal p-value (Bates, Candes, Lei, Romano and
Sesia, *Testing for outliers with conformal p-values*, 2023, https://arxiv.org/abs/2104.08279)

    p = (1 + #{honest >= s}) / (n + 1)

which is at most t with probability at most t for a new honest input, and the surprisal -log p. As a function of s that
is a staircase, on which the last digit of s, in which graphs and numpy differ, can move a whole step. So here it is
exact at knots t_0 < t_1 < ... only, at least `APART` from each other, and a straight line between two of them; beyond
the last it goes on as between the last two, so that what is stranger than all honest inputs still differs. Written with
bends instead of cases,

    g(s) = start + sum_k bend_k max(s - t_k, 0)

which plain ONNX has: one Gather, Sub, Relu and Gemm for all scores together. Scores are expected in standard deviations
of honest inputs. A threshold that is conformal for the combined score keeps its promise under this as under any other
increasing map.

The surprisals g_i of K scores become one score, larger is stranger:

    minimum     max_i g_i              the strangest score alone speaks: the least p-value
    harmonic    log mean_i exp(g_i)    between the two (Wilson, *The harmonic mean p-value*, 2019)
    fisher      2 sum_i g_i            evidence adds up: several mildly strange scores are strange together

A score that is blind to an attack gives it ordinary p-values, which weigh down Fisher's sum and hardly touch the
minimum. Under independence Fisher's sum follows a chi-squared distribution; scores of one path are anything but
independent. So none of the textbook laws is used: what is combined gets a conformal threshold like any other score, and
keeps the promise whatever the dependence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.detect.grouping import Floats
from penstock.detect.recipe import COMBINED
from penstock.errors import InvalidArgumentError

APART = (
    0.25  # of two knots, in standard deviations: a score's last digit then moves the surprisal by little more
)
MOST = 64  # knots


@dataclass(frozen=True, eq=False)
class Surprisal:
    """The map of one score.

    Attributes:
        knots: ``[T]`` float32, ascending: t.
        bends: ``[T]`` float32, change of slope at each knot.
        start: surprisal up to the first knot, 0 or more.
    """

    knots: npt.NDArray[np.float32]
    bends: npt.NDArray[np.float32]
    start: float

    @classmethod
    def fit(cls, honest: npt.NDArray[np.float32]) -> Surprisal:
        """The map that honest scores ``[n]`` give.

        Raises:
            InvalidArgumentError: fewer than ten scores, or one that is no finite number.
        """
        if len(honest) < 10 or not np.isfinite(honest).all():
            raise InvalidArgumentError(
                f"{len(honest)} honest scores, {int(np.isfinite(honest).sum())} of them finite; at least 10 are "
                "needed, all finite"
            )
        ranked = np.sort(honest).astype(np.float32)
        apart = max(APART, float(ranked[-1] - ranked[0]) / (MOST - 2))
        knots = [float(ranked[0])]
        for score in ranked.tolist():
            if score >= knots[-1] + apart:
                knots.append(score)
        if len(knots) == 1:  # all honest inputs score alike
            knots.append(knots[0] + apart)
        places = np.array(knots, np.float32)
        at_least = len(ranked) - np.searchsorted(ranked, places, side="left")
        heights = -np.log((1 + at_least) / (len(ranked) + 1))
        slopes = np.diff(heights) / np.diff(places.astype(np.float64))
        bends = np.diff(slopes, prepend=0.0)
        return cls(places[:-1], bends.astype(np.float32), float(np.float32(heights[0])))

    def __call__(self, scores: npt.NDArray[np.float32]) -> Floats:
        """``[N]`` surprisals of scores ``[N]``."""
        above = np.maximum(scores[:, None].astype(np.float64) - self.knots, 0)
        found: Floats = self.start + above @ self.bends.astype(np.float64)
        return found


def combine(surprisals: Floats, combination: str) -> Floats:
    """One score ``[N]`` of several surprisals ``[N, K]``: the only place where this is written in numpy.

    Raises:
        InvalidArgumentError: no such combination.
    """
    if combination not in COMBINED:
        raise InvalidArgumentError(f"no combination {combination!r}; there are {', '.join(COMBINED)}")
    if combination == "fisher":
        return np.asarray(2 * surprisals.sum(axis=1))
    top = surprisals.max(axis=1)
    if combination == "minimum":
        return np.asarray(top)
    above = np.exp(surprisals - top[:, None])  # never grows beyond all bounds
    return np.asarray(top + np.log(above.mean(axis=1)))
