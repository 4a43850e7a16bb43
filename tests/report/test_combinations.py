import math

import numpy as np
import pytest

from penstock.report.combinations import frequent_codes, telling_filters

LABELS = np.repeat(np.arange(4), 25)


def test_filters_are_picked_for_what_they_add() -> None:
    high, low = LABELS // 2, LABELS % 2
    noise = np.random.default_rng(0).integers(0, 2, 100)
    bits = np.stack([noise * 0, high, high, 1 - high, low, noise * 0 + 1], axis=1).astype(np.uint8)
    picked, told = telling_filters(bits, LABELS, 4, most=5)
    assert picked.tolist() == [1, 4]  # the copies of 1 add nothing, neither do the constants
    assert told == pytest.approx(math.log(4), abs=0.15)  # counts of 12 images are smoothed


def test_no_filter_is_picked_where_none_tells_anything() -> None:
    picked, told = telling_filters(np.ones((100, 3), dtype=np.uint8), LABELS, 4, most=2)
    assert len(picked) == 0
    assert told == 0.0


def test_no_more_filters_than_asked_for() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 2000)
    bits = ((labels[:, None] >> np.arange(8) % 2) & 1) ^ (draw.random((2000, 8)) < 0.3)
    picked, told = telling_filters(bits.astype(np.uint8), labels, 4, most=3)
    assert len(set(picked.tolist())) == 3
    _, more = telling_filters(bits.astype(np.uint8), labels, 4, most=5)
    assert 0 < told < more < math.log(4)


def test_filters_that_choose_at_random_tell_nothing_however_many_there_are() -> None:
    """Counted on the images that they are picked by, twelve such bits seem to tell nearly all."""
    draw = np.random.default_rng(0)
    for seed in range(5):
        labels = np.random.default_rng(seed).integers(0, 10, 1000)
        _, told = telling_filters(draw.integers(0, 2, (1000, 64), dtype=np.uint8), labels, 10, most=12)
        assert told < 0.03


def test_codes_are_counted_by_class() -> None:
    bits = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [1, 1], [0, 1]], dtype=np.uint8)
    labels = np.array([0, 0, 0, 1, 1, 3])
    found = frequent_codes(bits, labels, 4, most=2)
    first, second = found[0]
    assert (first.code.tolist(), first.of_class, first.precision) == ([1, 0], 2 / 3, 2 / 3)
    assert (first.own.tolist(), first.others.tolist()) == ([0, 1], [3])
    assert (second.code.tolist(), second.of_class, second.precision) == ([0, 1], 1 / 3, 1 / 2)
    assert [each.code.tolist() for each in found[1]] == [[1, 0], [1, 1]]
    assert found[2] == []
    assert len(found[3]) == 1
