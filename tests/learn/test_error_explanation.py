import numpy as np
import pytest

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
