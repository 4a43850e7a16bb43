"""The life cycle of a detector: fit, calibrate, score, predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from penstock.detect.calibration import class_thresholds, conformal_threshold
from penstock.detect.combined import CombinedScore, check_classes
from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats
from penstock.errors import InvalidArgumentError, NotCalibratedError, NotFittedError, UnsupportedError

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
        self._thresholds: npt.NDArray[np.float32] | None = None  # [1], or [C]: one per predicted class

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
        self._thresholds = None
        return self

    def calibrate(self, honest: PathFeatures, fpr: float, *, per_class: bool = False) -> Self:
        """Set the threshold so that a new honest input is flagged with probability ``fpr`` at most.

        Args:
            honest: inputs that neither the network nor `fit` has seen.
            fpr: the promised rate, marginal over the draw of these inputs.
            per_class: set a threshold for each predicted class, so that the promise holds among the inputs that are
                taken for it; ``1/fpr - 1`` of these inputs or more must be taken for every class.

        Raises:
            NotFittedError: there is no score yet.
            InvalidArgumentError: too few inputs for this rate, or a rate that is not between 0 and 1.
        """
        scores = self.score(honest)
        if per_class:
            names = [f"class {label}" for label in range(self._classes)]
            found = class_thresholds(scores, honest.predicted, names, fpr)
        else:
            found = np.array([conformal_threshold(scores, fpr)])
        self._thresholds = found.astype(np.float32)
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
        flagged: npt.NDArray[np.bool_] = ~(self.score(features) <= self.thresholds[features.predicted])
        return flagged

    @property
    def thresholds(self) -> npt.NDArray[np.float32]:
        """``[C]``: scores above that of the predicted class are flagged.

        Raises:
            NotFittedError: call `fit` first.
            NotCalibratedError: call `calibrate` first.
        """
        self._score()
        if self._thresholds is None:
            raise NotCalibratedError("no threshold yet: call calibrate() on honest inputs first")
        return np.broadcast_to(self._thresholds, (self._classes,))

    @property
    def threshold(self) -> float:
        """The threshold of all classes; a single-precision number.

        Raises:
            NotFittedError: call `fit` first.
            NotCalibratedError: call `calibrate` first.
            UnsupportedError: classes have thresholds of their own.
        """
        thresholds = self.thresholds
        if self._thresholds is not None and len(self._thresholds) > 1:
            raise UnsupportedError("each class has a threshold of its own: ask for `thresholds`")
        return float(thresholds[0])

    def state(self) -> dict[str, npt.NDArray[np.float32]]:
        """All that was learnt, as float32 arrays: `penstock.detect.combined` says what is done with them.

        The keys are those of `penstock.detect.combined.SHAPES` and, once calibrated, ``threshold`` ``[1]``, or
        ``[C]`` where classes have their own.

        Raises:
            NotFittedError: call `fit` first.
        """
        arrays = self._score().arrays()
        if self._thresholds is not None:
            arrays[THRESHOLD] = self._thresholds
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
            detector._thresholds = state[THRESHOLD]
            shape, possible = state[THRESHOLD].shape, ((1,), (fitted.classes,))
            if shape not in possible:
                raise InvalidArgumentError(
                    f"detector state {THRESHOLD!r} has shape {shape}; {possible[0]} or {possible[1]} is needed"
                )
        return detector

    def _score(self) -> CombinedScore:
        if self._fitted is None:
            raise NotFittedError("nothing learnt yet: call fit() on honest inputs first")
        return self._fitted
