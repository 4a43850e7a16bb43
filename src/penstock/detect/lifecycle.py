"""What all detectors share: ``fit -> calibrate(fpr) -> score -> predict``, and errors that name the missing call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from penstock.detect.calibration import class_thresholds, conformal_threshold
from penstock.detect.features import PathFeatures
from penstock.errors import InvalidArgumentError, NotCalibratedError, NotFittedError, UnsupportedError

Tables = TypeVar("Tables")


class Detector(ABC):
    """Gives inputs a score, and flags those above a threshold with a promise; how to fit is each detector's own.

    Args:
        classes: number of classes that the network knows.
    """

    def __init__(self, *, classes: int) -> None:
        if classes < 1:
            raise InvalidArgumentError(f"classes is {classes}; it must be at least 1")
        self._classes = classes
        self._thresholds: npt.NDArray[np.float32] | None = None  # [1], or [C]: one per predicted class

    @abstractmethod
    def score(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N]``, larger is stranger.

        Raises:
            NotFittedError: call ``fit`` first.
        """

    @abstractmethod
    def check_fitted(self) -> None:
        """Refuse to go on without anything learnt.

        Raises:
            NotFittedError: call ``fit`` first.
        """

    def calibrate(self, honest: PathFeatures, fpr: float, *, per_class: bool = False) -> Self:
        """Set the threshold so that a new honest input is flagged with probability ``fpr`` at most.

        Args:
            honest: inputs that neither the network nor ``fit`` has seen.
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

    def predict(self, features: PathFeatures) -> npt.NDArray[np.bool_]:
        """``[N]``: which inputs are flagged.

        Raises:
            NotFittedError: call ``fit`` first.
            NotCalibratedError: call `calibrate` first.
        """
        # Not `>`: whatever is no number is no honest score either.
        flagged: npt.NDArray[np.bool_] = ~(self.score(features) <= self.thresholds[features.predicted])
        return flagged

    @property
    def thresholds(self) -> npt.NDArray[np.float32]:
        """``[C]``: scores above that of the predicted class are flagged.

        Raises:
            NotFittedError: call ``fit`` first.
            NotCalibratedError: call `calibrate` first.
        """
        self.check_fitted()
        if self._thresholds is None:
            raise NotCalibratedError("no threshold yet: call calibrate() on honest inputs first")
        return np.broadcast_to(self._thresholds, (self._classes,))

    @property
    def threshold(self) -> float:
        """The threshold of all classes; a single-precision number.

        Raises:
            NotFittedError: call ``fit`` first.
            NotCalibratedError: call `calibrate` first.
            UnsupportedError: classes have thresholds of their own.
        """
        thresholds = self.thresholds
        if self._thresholds is not None and len(self._thresholds) > 1:
            raise UnsupportedError("each class has a threshold of its own: ask for `thresholds`")
        return float(thresholds[0])


class LearningDetector(Detector, Generic[Tables]):
    """A detector that keeps all that it has learnt in one value; how to learn and to score by it is its own.

    Args:
        classes: number of classes that the network knows.
    """

    def __init__(self, *, classes: int) -> None:
        super().__init__(classes=classes)
        self._fitted: Tables | None = None

    @property
    def fitted(self) -> Tables:
        """What was learnt.

        Raises:
            NotFittedError: call ``fit`` first.
        """
        if self._fitted is None:
            raise NotFittedError("nothing learnt yet: call fit() on honest inputs first")
        return self._fitted

    def check_fitted(self) -> None:
        """Refuse to go on without anything learnt.

        Raises:
            NotFittedError: call ``fit`` first.
        """
        _ = self.fitted

    def _check_honest(self, honest: PathFeatures, fewest: int = 2) -> None:
        """Refuse inputs that nothing can be learnt from.

        Raises:
            InvalidArgumentError: fewer than ``fewest``, or a predicted class that does not exist.
        """
        if len(honest) < fewest:
            raise InvalidArgumentError(
                f"{len(honest)} inputs to fit a detector to; at least {fewest} are needed"
            )
        honest.check_classes(self._classes)

    def _learn(self, fitted: Tables) -> Self:
        """Keep what was learnt, and forget any threshold."""
        self._fitted = fitted
        self._thresholds = None
        return self
