"""The life cycle of a detector: fit, calibrate, score, predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from penstock.detect.calibration import conformal_threshold
from penstock.detect.combined import CombinedScore, check_classes
from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats
from penstock.errors import InvalidArgumentError, NotCalibratedError, NotFittedError

THRESHOLD = "threshold"


class PathDetector:
    """Tells paths that look like no honest path of the predicted class.

    Example:
        >>> detector = PathDetector(classes=10).fit(training).calibrate(held_out, fpr=0.05)
        >>> flags = detector.predict(suspects)

    Args:
        classes: number of classes that the network knows.
        rank: directions of the gate logits' covariance to keep, at most.
    """

    def __init__(self, *, classes: int, rank: int = 32) -> None:
        if classes < 1 or rank < 1:
            raise InvalidArgumentError(f"classes is {classes} and rank {rank}; both must be at least 1")
        self._classes = classes
        self._rank = rank
        self._fitted: CombinedScore | None = None
        self._threshold: float | None = None

    def fit(self, honest: PathFeatures) -> Self:
        """Learn what honest paths look like, and forget any threshold.

        A class that fewer than two of the inputs were taken for gets the statistics of all of them.

        Raises:
            InvalidArgumentError: fewer than two inputs, or a predicted class that does not exist.
            UnsupportedError: scikit-learn is not installed.
        """
        if len(honest) < 2:
            raise InvalidArgumentError(f"{len(honest)} inputs to fit a detector to; at least 2 are needed")
        check_classes(honest, self._classes)
        self._fitted = CombinedScore.fit(honest, self._classes, self._rank)
        self._threshold = None
        return self

    def calibrate(self, honest: PathFeatures, fpr: float) -> Self:
        """Set the threshold so that a new honest input is flagged with probability ``fpr`` at most.

        Args:
            honest: inputs that neither the network nor `fit` has seen.
            fpr: the promised rate, marginal over the draw of these inputs.

        Raises:
            NotFittedError: there is no score yet.
            InvalidArgumentError: too few inputs for this rate, or a rate that is not between 0 and 1.
        """
        self._threshold = conformal_threshold(self.score(honest), fpr)
        return self

    def score(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N]``, larger is stranger; the mean of `components`, in the precision that graphs have.

        Raises:
            NotFittedError: call `fit` first.
            InvalidArgumentError: the features have another number of filters or an unknown class.
        """
        mean: Floats = self.components(features).mean(axis=1)
        return mean.astype(np.float32)

    def components(self, features: PathFeatures) -> Floats:
        """``[N, 2]``: likelihood of the bits, distance of the logits, each standardised within its class.

        Raises:
            NotFittedError: call `fit` first.
            InvalidArgumentError: the features have another number of filters or an unknown class.
        """
        return self._score().components(features)

    def predict(self, features: PathFeatures) -> npt.NDArray[np.bool_]:
        """``[N]``: which inputs are flagged.

        Raises:
            NotFittedError: call `fit` first.
            NotCalibratedError: call `calibrate` first.
        """
        # Not `>`: whatever is no number is no honest score either.
        flagged: npt.NDArray[np.bool_] = ~(self.score(features) <= np.float32(self.threshold))
        return flagged

    @property
    def threshold(self) -> float:
        """Scores above it are flagged; a single-precision number.

        Raises:
            NotFittedError: call `fit` first.
            NotCalibratedError: call `calibrate` first.
        """
        self._score()
        if self._threshold is None:
            raise NotCalibratedError("no threshold yet: call calibrate() on honest inputs first")
        return self._threshold

    def state(self) -> dict[str, npt.NDArray[np.float32]]:
        """All that was learnt, as float32 arrays: `penstock.detect.combined` says what is done with them.

        The keys are those of `penstock.detect.combined.SHAPES` and, once calibrated, ``threshold`` ``[1]``.

        Raises:
            NotFittedError: call `fit` first.
        """
        arrays = self._score().arrays()
        if self._threshold is not None:
            arrays[THRESHOLD] = np.array([self._threshold], dtype=np.float32)
        return arrays

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The detector whose `state` this is; it gives the very same scores.

        Raises:
            InvalidArgumentError: a table is missing, or it has another type or shape than it must have.
        """
        fitted = CombinedScore.from_arrays(state)
        detector = cls(classes=fitted.classes, rank=fitted.mahalanobis.directions.shape[1])
        detector._fitted = fitted
        if THRESHOLD in state:
            detector._threshold = float(state[THRESHOLD].item())
        return detector

    def _score(self) -> CombinedScore:
        if self._fitted is None:
            raise NotFittedError("nothing learnt yet: call fit() on honest inputs first")
        return self._fitted
