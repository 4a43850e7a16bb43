import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.data import ImageSet
from penstock.data.splitting import at_most, calibration_size, draw, hold_out, stratified
from penstock.errors import InvalidArgumentError


@given(
    labels=st.lists(st.integers(0, 4), min_size=10, max_size=120),
    cuts=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    seed=st.integers(0, 5),
)
def test_parts_are_disjoint_exact_and_hold_each_class_in_proportion(
    labels: list[int], cuts: tuple[float, float], seed: int
) -> None:
    array = np.array(labels, dtype=np.int64)
    sizes = tuple(int(len(labels) * cut) for cut in cuts)
    parts = stratified(array, sizes, seed)
    assert tuple(len(part) for part in parts) == sizes
    assert len(np.unique(np.concatenate(parts))) == sum(sizes)
    for part, size in zip(parts, sizes, strict=True):
        expected = np.bincount(array, minlength=5) * size / len(array)
        # Each class may be off by one at either end, and all classes share the ends.
        assert np.abs(np.bincount(array[part], minlength=5) - expected).max() <= 2


def test_the_seed_decides() -> None:
    labels = np.arange(100, dtype=np.int64) % 4
    first, again, other = (stratified(labels, (40,), seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_parts_larger_than_the_whole_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="from 3 items"):
        stratified(np.zeros(3, dtype=np.int64), (2, 2), 0)


def test_a_few_of_a_source_that_comes_class_after_class_are_of_all_classes() -> None:
    labels = np.repeat(np.arange(5, dtype=np.int64), 20)
    few = at_most(labels, 10, 3)
    assert np.bincount(labels[few]).tolist() == [2] * 5
    assert few.tolist() != at_most(labels, 10, 4).tolist()
    assert at_most(labels, 1000, 3).tolist() == list(range(100))


def images(count: int) -> ImageSet:
    numbers = np.arange(count, dtype=np.int64)
    return ImageSet(np.zeros((count, 1, 1, 1), np.uint8), numbers % 2, ("even", "odd"), numbers)


@given(count=st.integers(0, 60), seed=st.integers(0, 3))
def test_what_is_drawn_and_the_rest_are_the_whole(count: int, seed: int) -> None:
    drawn, rest = draw(images(60), count, seed)
    assert len(drawn) == count
    assert sorted([*drawn.index, *rest.index]) == list(range(60))


def test_only_validation_follows_the_seed_when_test_images_come_apart() -> None:
    first, other = (hold_out(images(100), images(60), seed) for seed in (0, 1))
    assert [len(part) for part in (first.train, first.validation, first.calibration, first.test)] == [
        90,
        10,
        19,
        41,
    ]
    assert first.validation.index.tolist() != other.validation.index.tolist()
    assert first.calibration.index.tolist() == other.calibration.index.tolist()
    assert not set(first.calibration.index.tolist()) & set(first.test.index.tolist())


@given(count=st.integers(2, 20_000))
def test_calibration_is_at_most_half_and_meets_the_rates_that_it_can(count: int) -> None:
    size = calibration_size(count)
    assert 1 <= size <= count // 2
    if count >= 198:
        assert (size + 1) % 100 == 0
        assert size >= count // 4
    elif count >= 38:
        assert (size + 1) % 20 == 0
