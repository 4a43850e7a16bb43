import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.errors import InvalidArgumentError
from penstock.learn.similarity import between_classes, layer_similarities
from penstock.learn.subarchitectures import (
    agreement,
    confusion,
    expected_similarity,
    rank_correlation,
    top_agreement,
)
from penstock.paths import PathLayer, PathLayout, PathSet

LAYOUT = PathLayout(
    layers=(PathLayer(name="a", filters=4, macs=10), PathLayer(name="b", filters=6, macs=10)),
    fixed_macs=0,
    dense_macs=20,
)
BITS = hnp.arrays(np.uint8, st.tuples(st.integers(2, 6), st.just(10)), elements=st.integers(0, 1))


@given(BITS)
def test_similarity_is_a_jaccard_index(bits: np.ndarray) -> None:
    similar = layer_similarities(LAYOUT, bits)
    assert similar.shape == (2, len(bits), len(bits))
    np.testing.assert_array_equal(similar, similar.transpose(0, 2, 1))
    assert (similar >= 0).all()
    assert (similar <= 1).all()
    np.testing.assert_array_equal(similar[:, np.arange(len(bits)), np.arange(len(bits))], 1)
    # 1 - Jaccard is a metric: the triangle inequality holds.
    far = 1 - similar
    assert (far[:, :, None, :] <= far[:, :, :, None] + far[:, None, :, :] + 1e-12).all()
    for layer, part in enumerate(LAYOUT.slices):
        first, second = (set(np.flatnonzero(bits[row, part])) for row in (0, 1))
        expected = len(first & second) / len(first | second) if first | second else 1.0
        assert similar[layer, 0, 1] == pytest.approx(expected)


@given(BITS, st.permutations(range(4)))
def test_similarity_does_not_know_the_order_of_channels(bits: np.ndarray, order: list[int]) -> None:
    moved = bits.copy()
    moved[:, :4] = bits[:, order]
    np.testing.assert_array_equal(layer_similarities(LAYOUT, bits), layer_similarities(LAYOUT, moved))


def test_independent_paths_are_as_similar_as_expected() -> None:
    layout = PathLayout(
        layers=(PathLayer(name="wide", filters=20_000, macs=10),), fixed_macs=0, dense_macs=10
    )
    draw = np.random.default_rng(0)
    bits = (draw.random((3, 20_000)) < np.array([[0.2], [0.5], [0.9]])).astype(np.uint8)
    paths = PathSet(layout, bits)
    np.testing.assert_allclose(
        between_classes(layer_similarities(layout, bits)),
        between_classes(expected_similarity(paths)),
        atol=0.02,
    )


def test_confusion_is_the_mean_answer_of_each_class() -> None:
    answers = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    np.testing.assert_allclose(confusion(answers, np.array([0, 0, 1])), [[0.7, 0.3], [0.1, 0.9]])


def test_agreement_finds_what_was_put_in() -> None:
    draw = np.random.default_rng(0)
    confused = draw.random((8, 8))
    confused = confused + confused.T
    same = agreement(np.stack([confused, -confused]) + np.array([[[2.0]], [[0.0]]]) * confused, confused, 100)
    assert same.spearman == pytest.approx(1.0)
    assert same.spearman_by_layer == pytest.approx((1.0, -1.0))
    assert same.p_value < 0.01
    assert (same.top_k_agreement, same.top_k) == (1.0, 3)
    assert same.top_k_chance == pytest.approx(3 / 7)
    other = draw.random((1, 8, 8))
    assert agreement(other + other.transpose(0, 2, 1), confused, 100).p_value > 0.01


def test_agreement_needs_three_classes() -> None:
    with pytest.raises(InvalidArgumentError, match="2 classes; at least 3"):
        agreement(np.ones((1, 2, 2)), np.ones((2, 2)), 10)


def test_ranks_share_ties_and_a_constant_has_none() -> None:
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 8.0, 27.0])) == pytest.approx(1.0)
    assert rank_correlation(np.array([1.0, 2.0, 2.0]), np.array([1.0, 3.0, 3.0])) == pytest.approx(1.0)
    assert rank_correlation(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0])) == 0.0


def test_top_agreement_leaves_the_class_itself_out() -> None:
    similar = np.array([[9.0, 1, 2, 3], [1, 9, 3, 2], [2, 3, 9, 1], [3, 2, 1, 9]])
    assert top_agreement(similar, similar, 1) == 1.0
    assert top_agreement(similar, -similar, 1) == 0.0
