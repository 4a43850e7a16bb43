"""The detectors that an exported graph can carry, by name.

path-likelihood+gate-mahalanobis    the mean of both, `penstock.detect.combined`; what is taken if nothing is said
path-likelihood                     likelihood of the bits alone
gate-mahalanobis                    distance of the gate logits alone
disagreement                        `penstock.detect.disagreement`
doubt                               `penstock.detect.doubt`
router-gate                         `penstock.detect.router_gate`
pvalues-minimum, -harmonic, -fisher likelihood, distance, disagreement and doubt, combined by their surprisal,
                                    `penstock.detect.surprisal`
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from penstock.detect.combined import CombinedScore, check_classes
from penstock.detect.disagreement import ClassDisagreement
from penstock.detect.doubt import DoubtScore
from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats
from penstock.detect.lifecycle import Detector
from penstock.detect.pvalues import RANKED
from penstock.detect.router_gate import GateDisagreement
from penstock.detect.surprisal import Surprisal, combine
from penstock.errors import InvalidArgumentError, NotFittedError

DEFAULT = "path-likelihood+gate-mahalanobis"
LIKELIHOOD, MAHALANOBIS, DISAGREEMENT, DOUBT = PARTS = (
    "path-likelihood",
    "gate-mahalanobis",
    "disagreement",
    "doubt",
)
ROUTER_GATE = "router-gate"
PVALUES = "pvalues-"
DETECTORS = (DEFAULT, *PARTS, ROUTER_GATE, *(f"{PVALUES}{how}" for how in ("minimum", "harmonic", "fisher")))
FEWEST = 50  # honest inputs to fit and to rank by


class FamilyDetector(Detector):
    """Any detector of the family; graphs compute the same score to 1e-4 of ``max(1, |score|)``.

    Args:
        name: one of `DETECTORS`.
        classes: number of classes that the network knows, two or more.
        rank: directions of the gate logits' covariance to keep, at most.
        seed: of the choice of inputs that rank.
    """

    def __init__(self, name: str, *, classes: int, rank: int = 32, seed: int = 0) -> None:
        super().__init__(classes=classes)
        if name not in DETECTORS:
            raise InvalidArgumentError(f"no detector {name!r}; there are {', '.join(DETECTORS)}")
        if classes < 2:
            raise InvalidArgumentError("classes is 1: with no other class there is nothing to disagree about")
        self.name = name
        self._rank = rank
        self._seed = seed
        self._combined: CombinedScore | None = None
        self._disagreement: ClassDisagreement | None = None
        self._doubt: DoubtScore | None = None
        self._router_gate: GateDisagreement | None = None
        self._surprisals: tuple[Surprisal, ...] = ()

    @property
    def combination(self) -> str | None:
        """How surprisals are combined; ``None`` for a detector that does without."""
        return self.name.removeprefix(PVALUES) if self.name.startswith(PVALUES) else None

    def fit(self, honest: PathFeatures, ranking: PathFeatures | None = None) -> Self:
        """Learn what honest paths look like, and forget any threshold.

        Args:
            honest: inputs to fit to.
            ranking: for surprisals, honest inputs that the network has not learned from, on which it is as unsure as it
                will be; ``None``: a part of ``honest``.

        Raises:
            InvalidArgumentError: too few inputs, a predicted class that does not exist, or doubts that are asked for
                and not known.
            UnsupportedError: scikit-learn is not installed.
        """
        if len(honest) < FEWEST:
            raise InvalidArgumentError(
                f"{len(honest)} inputs to fit a detector to; at least {FEWEST} are needed"
            )
        check_classes(honest, self._classes)
        fitting = honest
        if ranking is None:
            ranking = honest
            if self.combination is not None:
                order = np.random.default_rng(self._seed).permutation(len(honest))
                ranking, fitting = (
                    honest.take(part) for part in np.split(order, [round(RANKED * len(honest))])
                )
        if self.combination is not None or self.name == DOUBT:
            self._doubt = DoubtScore.fit(_doubts(ranking))
        self._combined = CombinedScore.fit(fitting, self._classes, self._rank)
        self._disagreement = ClassDisagreement.of_prototypes(fitting, self._classes)
        self._router_gate = GateDisagreement.fit(fitting, self._classes)
        self._surprisals = ()
        if self.combination is not None:
            self._surprisals = tuple(Surprisal.fit(part) for part in self._parts(ranking).T)
        self._thresholds = None
        return self

    def score(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N]``, larger is stranger, in the precision that graphs have.

        Raises:
            NotFittedError: call `fit` first.
            InvalidArgumentError: the features have another number of filters or an unknown class.
        """
        parts = self._parts(features)
        if self.name == ROUTER_GATE:
            return self.router_gate.score(features).astype(np.float32)
        if self.combination is not None:
            surprisals = [one(part) for one, part in zip(self.surprisals, parts.T, strict=True)]
            return combine(surprisals, self.combination).astype(np.float32)
        if self.name == DEFAULT:
            mean: Floats = parts[:, :2].mean(axis=1)
            return mean.astype(np.float32)
        return np.asarray(parts[:, PARTS.index(self.name)], np.float32)

    @property
    def combined(self) -> CombinedScore:
        """Tables of likelihood and distance.

        Raises:
            NotFittedError: call `fit` first.
        """
        if self._combined is None:
            raise NotFittedError("nothing learnt yet: call fit() on honest inputs first")
        return self._combined

    @property
    def disagreement(self) -> ClassDisagreement:
        """Tables of the disagreement.

        Raises:
            NotFittedError: call `fit` first.
        """
        if self._disagreement is None:
            raise NotFittedError("nothing learnt yet: call fit() on honest inputs first")
        return self._disagreement

    @property
    def doubt(self) -> DoubtScore | None:
        """Where honest doubts lie; ``None`` where the detector does not ask for them."""
        return self._doubt

    @property
    def router_gate(self) -> GateDisagreement:
        """Tables of the disagreement of what ran with gates.

        Raises:
            NotFittedError: call `fit` first.
        """
        if self._router_gate is None:
            raise NotFittedError("nothing learnt yet: call fit() on honest inputs first")
        return self._router_gate

    @property
    def surprisals(self) -> tuple[Surprisal, ...]:
        """One map for each of `PARTS`; none where scores are not combined by them."""
        return self._surprisals

    def check_fitted(self) -> None:
        """Refuse to go on without anything learnt.

        Raises:
            NotFittedError: call `fit` first.
        """
        _ = self.combined

    def _parts(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N, 4]``: the scores of `PARTS`, in standard deviations of honest inputs; doubt nobody asks for is 0."""
        both = self.combined.components(features)
        unsure = np.zeros(len(features)) if self._doubt is None else self._doubt.score(_doubts(features))
        return np.column_stack([both, self.disagreement.score(features), unsure]).astype(np.float32)


def _doubts(features: PathFeatures) -> npt.NDArray[np.float32]:
    if features.doubt is None:
        raise InvalidArgumentError(
            "the features do not say how unsure the network is: make them with PathFeatures.of"
        )
    return features.doubt
