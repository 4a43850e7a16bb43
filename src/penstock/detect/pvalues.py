"""Several scores as one, by their conformal p-values: no score needs to be on the scale of another.

With n honest inputs that none of the members was fitted on, a score s of member i becomes its conformal p-value (Bates,
Candes, Lei, Romano and Sesia, *Testing for outliers with conformal p-values*, 2023, https://arxiv.org/abs/2104.08279)

    p_i = (1 + number of honest scores >= s) / (n + 1)

which is at most t with probability at most t for a new honest input. K of them become one score, larger is stranger:

    fisher      -2 sum_i log p_i        evidence adds up: several mildly strange scores are strange together
    harmonic    log mean_i 1 / p_i      between the two (Wilson, *The harmonic mean p-value*, 2019)
    minimum     -log min_i p_i          the strangest score alone speaks

The minimum is the default: a member that is blind to an attack gives it ordinary p-values, which weigh down Fisher's
sum and hardly touch the minimum. So it was on CIFAR-10's ResNet-20 under projected gradient descent, to which
disagreement was blind; other networks and attacks may choose otherwise.

Under independence the first follows a chi-squared distribution; scores of one path are anything but independent. So
none of the textbook laws is used: the combined score gets a conformal threshold like any other, and keeps the promise
whatever the dependence.

p-values have steps: all that is stranger than the strangest of the n honest inputs is equally strange. Scores up to the
rate of 1/(n + 1) are told apart, so n should be several times 1/fpr.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats
from penstock.detect.lifecycle import Detector
from penstock.detect.recipe import COMBINED
from penstock.detect.surprisal import combine
from penstock.errors import InvalidArgumentError, NotFittedError


def _of_pvalues(how: str, p: Floats) -> Floats:
    return combine(-np.log(p), how)


COMBINATIONS: dict[str, Callable[[Floats], Floats]] = {how: partial(_of_pvalues, how) for how in COMBINED}
RANKED = 0.4  # share of the fit set that ranks scores; the rest fits the members


class Member(Protocol):
    """What is combined: a detector that honest inputs alone fit."""

    def fit(self, honest: PathFeatures) -> object:
        """Learn what honest inputs look like."""

    def score(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N]``, larger is stranger."""


class PValueDetector(Detector):
    """Flags inputs that several detectors together find strange.

    Example:
        >>> members = [PathDetector(classes=10), DisagreementDetector(classes=10)]
        >>> detector = PValueDetector(members, classes=10).fit(training).calibrate(held_out, fpr=0.05)

    Args:
        members: two or more; they are fitted by `fit`.
        classes: number of classes that the network knows.
        combination: one of `COMBINATIONS`.
        seed: of the choice of inputs that rank.
    """

    def __init__(
        self, members: Sequence[Member], *, classes: int, combination: str = "minimum", seed: int = 0
    ) -> None:
        super().__init__(classes=classes)
        if len(members) < 2:
            raise InvalidArgumentError(f"{len(members)} members; at least 2 are needed to combine any")
        if combination not in COMBINATIONS:
            raise InvalidArgumentError(f"no combination {combination!r}; there are {', '.join(COMBINED)}")
        self._members = tuple(members)
        self._combine = COMBINATIONS[combination]
        self._seed = seed
        self._ranked: list[npt.NDArray[np.float32]] = []  # of each member, honest scores in ascending order

    def fit(self, honest: PathFeatures) -> Self:
        """Fit the members on a part of the inputs, rank scores by the others, and forget any threshold.

        Raises:
            InvalidArgumentError: fewer than ten inputs, or what a member refuses.
        """
        if len(honest) < 10:
            raise InvalidArgumentError(
                f"{len(honest)} inputs to fit and to rank scores by; at least 10 are needed"
            )
        order = np.random.default_rng(self._seed).permutation(len(honest))
        ranking, fitting = (honest.take(part) for part in np.split(order, [round(RANKED * len(honest))]))
        for member in self._members:
            member.fit(fitting)
        self._ranked = [np.sort(member.score(ranking)) for member in self._members]
        self._thresholds = None
        return self

    def pvalues(self, features: PathFeatures) -> Floats:
        """``[N, K]``: each member's conformal p-value, above 0 and at most 1.

        Raises:
            NotFittedError: call `fit` first.
            InvalidArgumentError: what a member refuses.
        """
        self.check_fitted()
        columns = []
        for member, ranked in zip(self._members, self._ranked, strict=True):
            at_least = len(ranked) - np.searchsorted(ranked, member.score(features), side="left")
            columns.append((1 + at_least) / (len(ranked) + 1))
        return np.stack(columns, axis=1)

    def score(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N]``, larger is stranger.

        Raises:
            NotFittedError: call `fit` first.
            InvalidArgumentError: what a member refuses.
        """
        return self._combine(self.pvalues(features)).astype(np.float32)

    def check_fitted(self) -> None:
        """Refuse to go on without anything learnt.

        Raises:
            NotFittedError: call `fit` first.
        """
        if not self._ranked:
            raise NotFittedError("nothing learnt yet: call fit() on honest inputs first")
