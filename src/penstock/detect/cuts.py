"""Parts of a score cut into what filters, gates and the answer add; `penstock.detect.explanation` has the formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.detect.combined import CombinedScore
from penstock.detect.disagreement import ClassDisagreement
from penstock.detect.doubt import DoubtScore
from penstock.detect.family_score import FamilyScore, doubts_of
from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats
from penstock.detect.recipe import DISAGREEMENT, DOUBT, LIKELIHOOD, MAHALANOBIS, SUB_ARCHITECTURE
from penstock.detect.router_gate import GateDisagreement


@dataclass(frozen=True, eq=False)
class Cut:
    """What adds up to a score of ``N`` inputs, all float64.

    Attributes:
        bits: ``[N, P]``, of each filter's bit.
        gates: ``[N, P]``, of each filter's gate logit.
        answer: ``[N]``, of the network's answer.
        baseline: ``[N]``, of nothing that an input did.
    """

    bits: Floats
    gates: Floats
    answer: Floats
    baseline: Floats

    def __add__(self, other: Cut) -> Cut:
        return Cut(
            self.bits + other.bits,
            self.gates + other.gates,
            self.answer + other.answer,
            self.baseline + other.baseline,
        )

    def times(self, factor: Floats) -> Cut:
        """Everything times ``[N]``."""
        column = factor[:, None]
        return Cut(self.bits * column, self.gates * column, self.answer * factor, self.baseline * factor)

    def scaled_to(self, values: Floats) -> Cut:
        """``values`` ``[N]`` shared among what makes an input stranger; the baseline's, where nothing does.

        What makes it less strange gets nothing: with both signs, a small sum could have any shares.
        """
        bits, gates, answer = (np.maximum(part, 0) for part in (self.bits, self.gates, self.answer))
        strange = Cut(bits, gates, answer, np.zeros(len(values)))
        raw = strange.bits.sum(axis=1) + strange.gates.sum(axis=1) + strange.answer
        shared = raw > 0
        scaled = strange.times(np.where(shared, values / np.where(shared, raw, 1), 0))
        return Cut(scaled.bits, scaled.gates, scaled.answer, np.where(shared, 0, values))


def cut(part: str, score: FamilyScore, features: PathFeatures) -> Cut:
    """Cut up one part of a recipe; what is added up is its score in standard deviations of honest inputs."""
    if part == LIKELIHOOD:
        return _likelihood(score.combined, features)
    if part == MAHALANOBIS:
        return _distance(score.combined, features)
    if part == DISAGREEMENT:
        assert score.disagreement is not None
        return _disagreement(score.disagreement, features)
    if part == SUB_ARCHITECTURE:
        assert score.sub_architecture is not None
        return _disagreement(score.sub_architecture, features)
    if part == DOUBT:
        assert score.doubt is not None
        return _doubt(score.doubt, features)
    assert score.router_gate is not None
    return _router_gate(score.router_gate, features)


def _likelihood(tables: CombinedScore, features: PathFeatures) -> Cut:
    location, spread = _standard(tables.location, tables.spread, features, column=0)
    return _of(features, -location / spread, bits=tables.likelihood.surprises(features) / spread[:, None])


def _distance(tables: CombinedScore, features: PathFeatures) -> Cut:
    location, spread = _standard(tables.location, tables.spread, features, column=1)
    squares = _squares(tables, features)
    distance = np.sqrt(1 + squares.sum(axis=1))
    return _of(features, -(location - 1) / spread, gates=squares / ((distance + 1) * spread)[:, None])


def _disagreement(tables: ClassDisagreement, features: PathFeatures) -> Cut:
    own, nearest = features.predicted, tables.nearest_other(features)
    away = features.bits - tables.usual.astype(np.float64)
    location, spread = _standard(tables.location, tables.spread, features, column=0)
    slopes = tables.slope.astype(np.float64)[own] - tables.slope[nearest]
    constant = tables.constant.astype(np.float64)[own] - tables.constant[nearest]
    return _of(features, (constant - location) / spread, bits=away * slopes / spread[:, None])


def _router_gate(tables: GateDisagreement, features: PathFeatures) -> Cut:
    location, spread = _standard(tables.location, tables.spread, features, column=0)
    return _of(features, -location / spread, bits=tables.surprises(features) / spread[:, None])


def _doubt(tables: DoubtScore, features: PathFeatures) -> Cut:
    baseline = np.full(len(features), -tables.location / tables.spread)
    return _of(features, baseline, answer=doubts_of(features).astype(np.float64) / tables.spread)


def _of(
    features: PathFeatures,
    baseline: Floats,
    *,
    bits: Floats | None = None,
    gates: Floats | None = None,
    answer: Floats | None = None,
) -> Cut:
    nothing = np.zeros(features.bits.shape)
    return Cut(
        nothing if bits is None else bits.astype(np.float64),
        nothing if gates is None else gates,
        np.zeros(len(features)) if answer is None else answer,
        baseline,
    )


def _standard(
    location: npt.NDArray[np.float32], spread: npt.NDArray[np.float32], features: PathFeatures, column: int
) -> tuple[Floats, Floats]:
    """``[N]`` each, of the predicted classes."""
    own = features.predicted
    return location[own, column].astype(np.float64), spread[own, column].astype(np.float64)


def _squares(score: CombinedScore, features: PathFeatures) -> Floats:
    """``[N, P]``: what each filter adds to the squared distance."""
    tables = score.mahalanobis
    directions = tables.directions.astype(np.float64)
    x = (features.gate_logits.astype(np.float64) - tables.mean[features.predicted]) / tables.scale
    along = x @ directions  # [N, r]
    beyond = x - along @ directions.T  # [N, P]
    squares: Floats = (
        x * ((along * tables.direction_weight) @ directions.T) + beyond**2 * tables.residual_weight
    )
    return squares
