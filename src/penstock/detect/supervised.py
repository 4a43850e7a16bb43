"""The paper's detectors: a classifier that has seen attacked inputs tells their path codes from honest ones.

Li et al. (*Interpretable Neural Network Decoupling*, ECCV 2020, https://arxiv.org/abs/1906.01166) train a random
forest, AdaBoost and gradient boosting on the codes of 1, 5 or 10 images per class. They are there to be compared with:
whoever fits to one attack should report on all others, for an attacker chooses last. Exported graphs hold none;
`to_onnx` makes a fitted one a model of its own, which reads the bits that a bundle gives as ``path``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from penstock.detect.features import PathFeatures
from penstock.detect.lifecycle import Detector
from penstock.errors import InvalidArgumentError, NotFittedError, UnsupportedError

FOREST, ADABOOST, BOOSTING = CLASSIFIERS = ("random-forest", "adaboost", "gradient-boosting")


class SupervisedDetector(Detector):
    """Tells the path codes of attacked inputs from those of honest ones.

    Example:
        >>> detector = SupervisedDetector("random-forest", classes=10, seed=0)
        >>> detector.fit(honest, attacked, per_class=5).calibrate(held_out, fpr=0.05)

    Args:
        classifier: one of `CLASSIFIERS`.
        classes: number of classes that the network knows.
        seed: of the choice of inputs and of the classifier.
    """

    def __init__(self, classifier: str, *, classes: int, seed: int = 0) -> None:
        super().__init__(classes=classes)
        if classifier not in CLASSIFIERS:
            raise InvalidArgumentError(f"no classifier {classifier!r}; there are {', '.join(CLASSIFIERS)}")
        self._classifier = classifier
        self._seed = seed
        self._fitted: Any = None
        self._filters = 0

    def fit(self, honest: PathFeatures, attacked: PathFeatures, *, per_class: int | None = None) -> Self:
        """Learn the difference, and forget any threshold.

        Args:
            honest: clean inputs.
            attacked: inputs of one attack.
            per_class: how many of each to learn from among those that are taken for each class, fewer where there are
                fewer; ``None``: all.

        Raises:
            InvalidArgumentError: one of the two is empty, they are of different networks, or a predicted class does
                not exist.
            UnsupportedError: scikit-learn is not installed.
        """
        if honest.filters != attacked.filters:
            raise InvalidArgumentError(
                f"honest paths have {honest.filters} bits, attacked ones {attacked.filters}: they are of two networks"
            )
        draw = np.random.default_rng(self._seed)
        codes = [self._chosen("honest", honest, per_class, draw)]
        codes.append(self._chosen("attacked", attacked, per_class, draw))
        labels = np.repeat([0, 1], [len(part) for part in codes])
        self._fitted = _maker(self._classifier)(self._seed).fit(np.concatenate(codes), labels)
        self._filters = honest.filters
        self._thresholds = None
        return self

    def score(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N]``, the classifier's probability of an attack.

        Raises:
            NotFittedError: call `fit` first.
            InvalidArgumentError: the features have another number of filters, or a predicted class does not exist.
        """
        self.check_fitted()
        features.check_classes(self._classes)
        if features.filters != self._filters:
            raise InvalidArgumentError(
                f"paths have {features.filters} bits; the detector has {self._filters}"
            )
        if len(features) == 0:
            return np.zeros(0, np.float32)
        probability: npt.NDArray[np.float32] = self._fitted.predict_proba(features.bits)[:, 1].astype(
            np.float32
        )
        return probability

    def to_onnx(self) -> bytes:
        """The fitted classifier as a serialised ONNX model, for any engine that knows the operators of ``ai.onnx.ml``.

        Its input ``path`` is float32 ``[N, P]``, the bits; of its output ``probabilities``, float32 ``[N, 2]``, the
        second column is the score. It has no threshold.

        Raises:
            NotFittedError: call `fit` first.
            UnsupportedError: skl2onnx is not installed.
        """
        self.check_fitted()
        try:
            from skl2onnx import to_onnx
            from skl2onnx.common.data_types import FloatTensorType
        except ImportError as error:
            raise UnsupportedError(
                'a classifier becomes ONNX by skl2onnx: pip install "penstock[attacks]"'
            ) from error
        model = to_onnx(
            self._fitted,
            initial_types=[("path", FloatTensorType([None, self._filters]))],
            options={"zipmap": False},  # a tensor, not a list of dictionaries
            target_opset={"": 18, "ai.onnx.ml": 3},
        )
        content: bytes = model.SerializeToString()
        return content

    def check_fitted(self) -> None:
        """Refuse to go on without anything learnt.

        Raises:
            NotFittedError: call `fit` first.
        """
        if self._fitted is None:
            raise NotFittedError("nothing learnt yet: call fit() on honest and on attacked inputs first")

    def _chosen(
        self, what: str, features: PathFeatures, per_class: int | None, draw: np.random.Generator
    ) -> npt.NDArray[np.uint8]:
        """Codes ``[n, P]`` of the inputs to learn from."""
        if len(features) == 0 or (per_class is not None and per_class < 1):
            raise InvalidArgumentError(
                f"{len(features)} {what} inputs, {per_class} per class; at least 1 is needed of both"
            )
        features.check_classes(self._classes)
        order = draw.permutation(len(features))
        groups = [order[features.predicted[order] == label][:per_class] for label in range(self._classes)]
        chosen: npt.NDArray[np.uint8] = features.bits[np.concatenate(groups)]
        return chosen


def _maker(classifier: str) -> Callable[[int], Any]:
    """What makes a classifier, given its seed."""
    try:
        from sklearn.ensemble import (
            AdaBoostClassifier,
            GradientBoostingClassifier,
            RandomForestClassifier,
        )
    except ImportError as error:
        raise UnsupportedError('fitting needs scikit-learn: pip install "penstock[train]"') from error
    kinds = {
        FOREST: RandomForestClassifier,
        ADABOOST: AdaBoostClassifier,
        BOOSTING: GradientBoostingClassifier,
    }
    return lambda seed: kinds[classifier](n_estimators=100, random_state=seed)
