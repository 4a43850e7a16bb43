import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penstock.learn.similarity import jaccard


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


@given(arrays(np.uint8, (4, 6), elements=st.integers(0, 1)))
def test_bits_are_rates_of_zero_and_one(bits: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    assert np.array_equal(jaccard(bits), jaccard(bits.astype(np.float64)))


def test_many_filters_are_counted_beyond_what_their_type_holds() -> None:
    bits = np.ones((2, 1000), dtype=np.uint8)
    bits[1, :400] = 0
    assert jaccard(bits).tolist() == [[1.0, 0.6], [0.6, 1.0]]


def test_beside_a_class_without_images_nothing_is_known() -> None:
    found = jaccard(np.array([[1.0, 0.0], [np.nan, np.nan]]))
    assert np.array_equal(np.isnan(found), [[False, True], [True, True]])
