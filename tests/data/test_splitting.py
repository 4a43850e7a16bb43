import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.data.splitting import stratified
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
