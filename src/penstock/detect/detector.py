"""The usual detector: likelihood of the bits and distance of the gate logits, as tables that graphs can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from penstock.detect.combined import CombinedScore
from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats
from penstock.detect.lifecycle import LearningDetector
from penstock.errors import InvalidArgumentError

THRESHOLD = "threshold"


class PathDetector(LearningDetector[CombinedScore]):
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
        super().__init__(classes=classes)
        self._rank = rank

    def fit(self, honest: PathFeatures) -> Self:
        """Learn what honest paths look like, and forget any threshold.

        A class that fewer than two of the inputs were taken for gets the statistics of all of them.

        Raises:
            InvalidArgumentError: fewer than two inputs, or a predicted class that does not exist.
            UnsupportedError: scikit-learn is not installed.
        """
        self._check_honest(honest)
        return self._learn(CombinedScore.fit(honest, self._classes, self._rank))

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
        return self.fitted.components(features)

    def state(self) -> dict[str, npt.NDArray[np.float32]]:
        """All that was learnt, as float32 arrays: `penstock.detect.combined` says what is done with them.

        The keys are those of `penstock.detect.combined.SHAPES` and, once calibrated, ``threshold`` ``[1]``, or
        ``[C]`` where classes have their own.

        Raises:
            NotFittedError: call `fit` first.
        """
        arrays = self.fitted.arrays()
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
