import numpy as np
import pytest

from penstock.learn.concepts import NONE, concept_figures, concepts, effective_number
from penstock.paths import PathLayer, PathLayout, PathSet


def test_a_channels_concept_is_the_class_that_it_tells_best() -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    values = draw.normal(size=(120, 5))
    wanted = np.array([2, 0, 1, 2, 0])
    values[labels[:, None] == wanted] += 3.0
    values *= np.array([1.0, 1e-3, 1e3, 1.0, 7.0])  # units do not matter
    np.testing.assert_array_equal(concepts(values.astype(np.float32), labels), wanted)


def test_a_dead_channel_has_no_concept() -> None:
    """It would tie everywhere, and count for the first class."""
    values = np.zeros((4, 3), dtype=np.float32)
    values[2:, 1] = 1.0
    values[:, 2] = 0.7
    found = concepts(values, np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(found, [NONE, 1, NONE])
    layout = PathLayout(layers=(PathLayer(name="a", filters=3, macs=1),), fixed_macs=0, dense_macs=1)
    figures = concept_figures(found, PathSet(layout, np.ones((2, 3), dtype=np.uint8)), 4)
    assert figures.diversity == figures.whole_by_layer[0] == 1
    assert figures.own_share == pytest.approx((0 + 1 / 3) / 2)
    assert figures.whole_share == pytest.approx(1 / 3 / 2)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 0, 0], 1.0), ([4, 4, 4], 3.0), ([1, 1, 0], 2.0), ([0, 0, 0], 0.0), ([2, 1, 1], 2**1.5)],
)
def test_effective_number_of_concepts(counts: list[int], expected: float) -> None:
    assert effective_number(np.array(counts, dtype=float)) == pytest.approx(expected)


def test_figures_count_the_open_channels_only() -> None:
    layout = PathLayout(
        layers=(PathLayer(name="a", filters=4, macs=1), PathLayer(name="b", filters=2, macs=1)),
        fixed_macs=0,
        dense_macs=2,
    )
    concept = np.array([0, 0, 1, 1, 1, 0])
    bits = np.array([[1, 1, 0, 0, 1, 1], [1, 0, 1, 0, 1, 0]], dtype=np.uint8)
    figures = concept_figures(concept, PathSet(layout, bits), 10)
    assert figures.diversity_by_layer == pytest.approx(((1 + 2) / 2, (2 + 1) / 2))
    assert figures.whole_by_layer == pytest.approx((2.0, 2.0))
    assert figures.own_share_by_layer == pytest.approx(((1 + 0.5) / 2, (0.5 + 1) / 2))
    assert figures.diversity == pytest.approx(1.5)
    assert figures.whole_share == 0.5
