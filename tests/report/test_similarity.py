import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penstock.paths import PathLayout
from penstock.report.similarity import between_classes, extreme_pairs, jaccard, layer_similarities


def test_of_masks_it_is_shared_over_either() -> None:
    masks = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=np.float64)
    expected = [[1, 1 / 3, 0, 0], [1 / 3, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert jaccard(masks) == pytest.approx(np.array(expected))


def test_of_rates_it_weighs_how_often() -> None:
    assert jaccard(np.array([[1.0, 0.5], [0.5, 1.0]]))[0, 1] == pytest.approx((0.5 + 0.5) / (1 + 1))


@given(arrays(np.float64, (3, 5), elements=st.floats(0, 1)))
def test_it_is_symmetric_one_on_the_diagonal_and_a_share(
    rates: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> None:
    found = jaccard(rates)
    assert np.array_equal(found, found.T)
    assert np.diag(found) == pytest.approx(1.0)
    assert ((found >= 0) & (found <= 1)).all()


def test_a_class_without_images_is_left_out(layout: PathLayout) -> None:
    rates = np.array([[1, 0, 1, 0, 0], [np.nan] * 5, [1, 1, 1, 0, 0]])
    similarities = layer_similarities(layout, rates)
    assert similarities.shape == (2, 3, 3)
    assert between_classes(similarities).tolist() == [[0.5], [1.0]]
    assert extreme_pairs(similarities[0], ["a", "b", "c"]) == ("a and c (0.50)", "a and c (0.50)")


def test_extremes_are_named() -> None:
    similarity = np.array([[1, 0.2, 0.9], [0.2, 1, 0.4], [0.9, 0.4, 1]])
    assert extreme_pairs(similarity, ["cat", "ship", "dog"]) == ("cat and dog (0.90)", "cat and ship (0.20)")
