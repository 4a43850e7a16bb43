"""Images to time: few that cost what all do, however few, and whatever the order in which they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from penstock.export.autotune.representative import representative

COSTS = arrays.arrays(
    np.float64, st.integers(1, 300), elements=st.floats(0, 1, allow_subnormal=False), fill=st.nothing()
)


@given(COSTS)
def test_every_beginning_costs_what_all_do_within_two_images(costs: np.ndarray) -> None:
    order = representative(costs, len(costs))
    assert sorted(order) == list(range(len(costs)))
    so_far = costs[order].cumsum()
    expected = costs.mean() * np.arange(1, len(costs) + 1)
    assert np.abs(so_far - expected).max() <= 2 * np.ptp(costs) + 1e-9


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("share", [0.05, 0.195, 0.5])
def test_a_cascade_asks_its_second_member_as_often_as_in_all_images(share: float, batch: int) -> None:
    second = np.random.default_rng(0).permutation(np.arange(1000) < 1000 * share)
    for count in (16, 32, 64):
        asked = second[representative(second.astype(np.float32), count, batch=batch)].sum()
        assert abs(asked - share * count) <= 1.5


def test_some_batches_need_the_second_member_for_no_image_as_on_average() -> None:
    second = np.random.default_rng(0).permutation(np.arange(1000) < 200)
    taken = representative(second.astype(np.float32), 512, batch=8)
    with_some = second[taken].reshape(-1, 8).any(axis=1).mean()
    assert with_some == pytest.approx(1 - 0.8**8, abs=0.08)


def test_of_paths_that_cost_alike_all_images_are_as_good() -> None:
    taken = representative(np.ones(100), 50)
    assert len(set(taken)) == 50
    assert taken.min() < 10
    assert taken.max() >= 90
