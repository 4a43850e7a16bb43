import tracemalloc

import numpy as np
import pytest

from penstock.learn import error_explanation as module
from penstock.learn.error_explanation import explain_errors, percentiles


def ring(classes: int = 9) -> np.ndarray:
    """Classes on a line: the nearer, the more similar."""
    place = np.arange(classes)
    similar: np.ndarray = 1.0 / (1.0 + np.abs(place[:, None] - place))
    return similar


def test_percentiles_rank_the_other_classes() -> None:
    similar = np.array([[1.0, 0.9, 0.5, 0.1], [0.9, 1, 0.4, 0.4], [0.5, 0.4, 1, 0.2], [0.1, 0.4, 0.2, 1]])
    ranks = percentiles(similar)
    np.testing.assert_allclose(ranks[0, 1:], [1.0, 0.5, 0.0])
    np.testing.assert_allclose(ranks[1, [0, 2, 3]], [1.0, 0.25, 0.25])
    assert np.isnan(np.diag(ranks)).all()
    np.testing.assert_allclose(np.nanmean(ranks, axis=1), 0.5)  # chance, whatever the similarities


@pytest.mark.parametrize("values", [4, 1000], ids=["ties", "hardly a tie"])
def test_percentiles_are_those_of_the_formula(values: int) -> None:
    similar = np.random.default_rng(0).integers(0, values, (12, 12)) / values
    ranks = percentiles(similar)
    for right in range(12):
        for wrong in set(range(12)) - {right}:
            others = similar[right, [each for each in range(12) if each not in (right, wrong)]]
            own = similar[right, wrong]
            assert ranks[right, wrong] == np.mean((others < own) + (others == own) / 2)


def test_percentiles_of_many_classes_are_taken_once_and_in_little_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand classes, permuted 2,000 times, are to take seconds."""
    calls = 0

    def counted(similar: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        found: np.ndarray = percentiles(similar)
        return found

    monkeypatch.setattr(module, "percentiles", counted)
    classes = 300
    labels = np.arange(classes)
    tracemalloc.start()
    try:
        figures = explain_errors(ring(classes), labels, (labels + 1) % classes, resamples=5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert calls == 1
    assert peak < 40 * 8 * classes**2  # 27 million triples of classes would need ten times that
    assert figures.errors == classes


def test_a_permutation_relabels_the_classes() -> None:
    """The p value is that of percentiles taken anew from every permuted matrix."""
    draw = np.random.default_rng(3)
    similar = draw.integers(0, 6, (9, 9)) / 5
    labels, predicted = draw.integers(0, 9, (2, 40))
    figures = explain_errors(similar, labels, predicted, resamples=200, seed=7)
    wrong = labels != predicted
    same, errors = np.random.default_rng(7), int(wrong.sum())
    for _ in range(200):
        same.integers(0, errors, errors)
    reached = percentiles(similar)[labels[wrong], predicted[wrong]].mean()
    higher = 0
    for _ in range(200):
        order = same.permutation(9)
        permuted = percentiles(similar[np.ix_(order, order)])[labels[wrong], predicted[wrong]]
        higher += permuted.mean() >= reached
    assert figures.p_value == (higher + 1) / 201


def test_errors_between_neighbours_are_explained() -> None:
    labels = np.tile(np.arange(9), 30)
    predicted = labels.copy()
    wrong = np.arange(0, len(labels), 4)
    predicted[wrong] = np.where(labels[wrong] == 8, 7, labels[wrong] + 1)
    figures = explain_errors(ring(), labels, predicted, resamples=300)
    assert (figures.images, figures.errors) == (270, 68)
    assert figures.percentile is not None
    assert figures.percentile > 0.9
    assert figures.interval_95 is not None
    assert 0.5 < figures.interval_95[0] < figures.percentile < figures.interval_95[1]
    assert figures.p_value is not None
    assert figures.p_value < 0.02


def test_errors_anywhere_are_not_explained() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 9, 2000)
    predicted = (labels + draw.integers(1, 9, 2000)) % 9
    figures = explain_errors(ring(), labels, predicted, resamples=300)
    assert figures.percentile == pytest.approx(0.5, abs=0.03)
    assert figures.p_value is not None
    assert figures.p_value > 0.02


def test_no_errors_need_no_explanation() -> None:
    labels = np.arange(9)
    figures = explain_errors(ring(), labels, labels, resamples=10)
    assert figures.errors == 0
    found = (figures.percentile, figures.interval_95, figures.p_value, figures.nearest)
    assert found == (None,) * 4
