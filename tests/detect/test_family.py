"""Every detector of the family keeps the life cycle, and surprisals are those of conformal p-values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from penstock.detect import (
    ClassDisagreement,
    FamilyDetector,
    PathDetector,
    PathFeatures,
    false_positive_interval,
)
from penstock.detect.doubt import doubt
from penstock.detect.recipe import COMBINED, PARTS
from penstock.detect.surprisal import APART, MOST, Surprisal, combine
from penstock.errors import InvalidArgumentError, NotCalibratedError, NotFittedError
from penstock.paths import PathSet

Draw = Callable[..., PathFeatures]

NAMES = (
    *PARTS,
    "path-likelihood+gate-mahalanobis",
    "minimum:gate-mahalanobis+doubt",
    *(f"{how}:path-likelihood+gate-mahalanobis+disagreement+doubt" for how in COMBINED),
)


def test_at_its_knots_the_surprisal_is_that_of_the_conformal_pvalue() -> None:
    honest = np.random.default_rng(0).normal(0, 1, 3000).astype(np.float32)
    found = Surprisal.fit(honest)
    at_least = (honest[None] >= found.knots[:, None]).sum(axis=1)
    np.testing.assert_allclose(found(found.knots), -np.log((1 + at_least) / 3001), atol=1e-5)
    assert 10 < len(found.knots) <= MOST
    assert np.diff(found.knots).min() >= APART
    # Between them it is no farther off than the steps are apart, it never falls, and goes on where there is no step.
    scores = np.linspace(-5, 8, 500).astype(np.float32)
    surprisals = found(scores)
    assert (np.diff(surprisals) >= -1e-6).all()
    assert surprisals[0] == pytest.approx(0, abs=1e-6)
    assert found(np.array([9.0], np.float32))[0] > found(np.array([8.0], np.float32))[0] > np.log(3001)
    inside = scores[(scores > -2) & (scores < 2)]
    exact = -np.log((1 + (honest[None] >= inside[:, None]).sum(axis=1)) / 3001)
    assert np.abs(found(inside) - exact).max() < 0.1


def test_scores_that_are_all_alike_or_no_numbers() -> None:
    found = Surprisal.fit(np.zeros(100, np.float32))
    low, high = found(np.array([0.0, 1.0], np.float32))
    assert low == pytest.approx(0)
    assert high > 4
    for wrong in (np.zeros(9, np.float32), np.full(20, np.nan, np.float32)):
        with pytest.raises(InvalidArgumentError, match="at least 10"):
            Surprisal.fit(wrong)


def test_combinations_are_those_of_pvalues() -> None:
    pvalues = np.random.default_rng(0).uniform(0.001, 1, (50, 3))
    wanted = {
        "fisher": -2 * np.log(pvalues).sum(axis=1),
        "harmonic": np.log((1 / pvalues).mean(axis=1)),
        "minimum": -np.log(pvalues.min(axis=1)),
    }
    assert set(COMBINED) == set(wanted)
    for how, values in wanted.items():
        np.testing.assert_allclose(combine(-np.log(pvalues), how), values)


@pytest.mark.parametrize("name", NAMES)
def test_each_keeps_its_promise_and_sees_what_is_strange(name: str, features: Draw, masks: PathSet) -> None:
    detector = FamilyDetector(name, classes=4, sub_architectures=masks)
    with pytest.raises(NotFittedError):
        detector.score(features(5, seed=0))
    detector.fit(features(2000, seed=1))
    with pytest.raises(NotCalibratedError):
        detector.predict(features(5, seed=0))
    detector.calibrate(features(999, seed=2), fpr=0.05)
    low, high = false_positive_interval(2000, 999, 0.05, 0.999)
    assert low <= detector.predict(features(2000, seed=3)).mean() <= high
    strange = features(500, seed=4)
    moved = replace(strange, predicted=(strange.predicted + 1) % 4)
    if name == "doubt":
        moved = replace(strange, doubt=np.full(500, 10, np.float32))
    if name == "router-gate":  # what ran is another input's path than these gates ask for
        moved = PathFeatures(strange.bits[::-1], strange.gate_logits, strange.predicted)
    assert detector.predict(moved).mean() > 0.5


@pytest.mark.parametrize("how", COMBINED)
def test_two_kinds_of_strangeness_are_found(how: str, features: Draw) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    detector = FamilyDetector(f"{how}:path-likelihood+gate-mahalanobis+disagreement", classes=4, rank=6)
    detector.fit(features(1500, seed=1))
    honest, moved, taken = features(2000, seed=3), features(400, seed=4, offset=1.0), features(400, seed=5)
    taken = replace(taken, predicted=(taken.predicted + 1) % 4)
    for strange, least in ((moved, 0.8), (taken, 0.95)):
        scores = np.concatenate([detector.score(honest), detector.score(strange)])
        assert metrics.roc_auc_score(np.repeat([0, 1], [2000, 400]), scores) > least


def test_doubt_is_a_large_probability_that_is_missing() -> None:
    logits = np.array([[0, 0, 0, 0], [100, 0, 0, 0], [2, 2, -90, -90]], np.float32)
    np.testing.assert_allclose(doubt(logits), [np.log(4), 0, np.log(2)], atol=1e-6)


def test_surprisals_may_be_ranked_by_inputs_of_their_own_and_need_doubts(features: Draw) -> None:
    honest, unsure = features(500, seed=1), features(500, seed=2)
    unsure = replace(unsure, doubt=np.random.default_rng(0).uniform(5, 9, 500).astype(np.float32))
    surprised, used_to_it = (FamilyDetector("doubt", classes=4).fit(honest, each) for each in (None, unsure))
    shown = features(100, seed=3)
    assert used_to_it.score(shown).max() < surprised.score(shown).max()
    for name in ("doubt", "minimum:gate-mahalanobis+doubt"):
        with pytest.raises(InvalidArgumentError, match="how unsure the network is"):
            FamilyDetector(name, classes=4).fit(replace(honest, doubt=None))


def test_those_without_surprisals_are_the_known_ones(features: Draw, masks: PathSet) -> None:
    honest, shown = features(800, seed=1), features(50, seed=2, spread=2.0)
    path = PathDetector(classes=4).fit(honest)
    found = {
        name: FamilyDetector(name, classes=4, sub_architectures=masks).fit(honest).score(shown)
        for name in (*PARTS, "path-likelihood+gate-mahalanobis")
    }
    np.testing.assert_allclose(found["path-likelihood+gate-mahalanobis"], path.score(shown), rtol=1e-5)
    np.testing.assert_allclose(found["path-likelihood"], path.components(shown)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found["gate-mahalanobis"], path.components(shown)[:, 1], rtol=1e-5)
    by_prototypes = ClassDisagreement.of_prototypes(honest, 4).score(shown)
    np.testing.assert_array_equal(found["disagreement"], by_prototypes.astype(np.float32))
    by_masks = ClassDisagreement.of_sub_architectures(masks, honest).score(shown)
    np.testing.assert_array_equal(found["sub-architecture"], by_masks.astype(np.float32))


def test_wrong_names_and_too_little_are_refused(features: Draw) -> None:
    with pytest.raises(InvalidArgumentError, match="no detector 'entropy'; there are path-likelihood"):
        FamilyDetector("entropy", classes=4)
    with pytest.raises(InvalidArgumentError, match="at least 50"):
        FamilyDetector("minimum:disagreement", classes=4).fit(features(49, seed=0))
    with pytest.raises(InvalidArgumentError, match="before the colon is one of minimum"):
        FamilyDetector("sum:disagreement", classes=4)
    with pytest.raises(InvalidArgumentError, match="name the run of `penstock disentangle`"):
        FamilyDetector("sub-architecture", classes=4).fit(features(50, seed=0))
