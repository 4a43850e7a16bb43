"""The detectors that an exported graph can carry, by name: `penstock.detect.recipe` has the grammar."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from penstock.detect.disagreement import check_masks
from penstock.detect.family_score import FamilyScore
from penstock.detect.features import PathFeatures
from penstock.detect.lifecycle import LearningDetector
from penstock.detect.recipe import COMPARING, Recipe
from penstock.errors import InvalidArgumentError
from penstock.paths import PathSet

RANKED = 0.4  # share of the honest inputs that ranks scores where no others do; the rest is fitted to
FEWEST = 50  # honest inputs to fit and to rank by surprisal


class FamilyDetector(LearningDetector[FamilyScore]):
    """Any detector of the family; graphs compute the same score to 1e-4 of ``max(1, |score|)``.

    Example:
        >>> detector = FamilyDetector("minimum:gate-mahalanobis+doubt", classes=10)
        >>> flags = detector.fit(training).calibrate(held_out, fpr=0.05).predict(suspects)

    Args:
        name: of a recipe.
        classes: number of classes that the network knows.
        rank: directions of the gate logits' covariance to keep, at most.
        seed: of the choice of inputs that rank.
        sub_architectures: binary masks ``[classes, P]`` of a disentanglement, for recipes that compare with them.

    Raises:
        InvalidArgumentError: no such recipe, or it compares classes and there is only one.
    """

    def __init__(
        self,
        name: str,
        *,
        classes: int,
        rank: int = 32,
        seed: int = 0,
        sub_architectures: PathSet | None = None,
    ) -> None:
        super().__init__(classes=classes)
        self.recipe = Recipe.parse(name)
        if classes < 2 and set(COMPARING).intersection(self.recipe.parts):
            raise InvalidArgumentError("classes is 1: with no other class there is nothing to disagree about")
        check_masks(sub_architectures, classes)
        self._masks = sub_architectures
        self._rank = rank
        self._seed = seed

    def fit(self, honest: PathFeatures, ranking: PathFeatures | None = None) -> Self:
        """Learn what honest paths look like, and forget any threshold.

        Args:
            honest: inputs to fit to.
            ranking: honest inputs that the network has not learned from, on which it is as unsure as it will be, for
                surprisals and doubt; ``None``: for surprisals a part of ``honest``, which is not fitted to then, for
                doubt alone all of it.

        Raises:
            InvalidArgumentError: too few inputs, a predicted class that does not exist, or doubts that are asked for
                and not known.
            UnsupportedError: scikit-learn is not installed.
        """
        self._check_honest(honest, FEWEST if self.recipe.by_surprisal else 2)
        fitting = honest
        if ranking is None:
            ranking = honest
            if self.recipe.by_surprisal:
                order = np.random.default_rng(self._seed).permutation(len(honest))
                ranking, fitting = (
                    honest.take(part) for part in np.split(order, [round(RANKED * len(honest))])
                )
        return self._learn(
            FamilyScore.fit(self.recipe, fitting, ranking, self._classes, self._rank, self._masks)
        )

    def score(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N]``, larger is stranger, in the precision that graphs have.

        Raises:
            NotFittedError: call `fit` first.
            InvalidArgumentError: the features have another number of filters or an unknown class.
        """
        return self.fitted.score(features)
