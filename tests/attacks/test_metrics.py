"""Figures on scores whose answer is known."""

from __future__ import annotations

import numpy as np

from penstock.attacks.metrics import auroc, auroc_estimate, flags_at, rate_estimate


def test_auroc_counts_pairs_and_halves_ties() -> None:
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1
    assert auroc(np.array([0.0, 2.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5


def test_the_bootstrap_interval_holds_the_value_and_is_as_wide_as_theory_says() -> None:
    draw = np.random.default_rng(0)
    found = auroc_estimate(draw.normal(0, 1, 400), draw.normal(1, 1, 200))
    assert found.low < found.value < found.high
    # Hanley and McNeil, 1982: the standard error is about 0.02 here.
    assert 0.06 < found.high - found.low < 0.10
    assert abs(found.value - 0.76) < 0.06


def test_thresholds_come_from_calibration_alone() -> None:
    calibration = np.arange(99.0)
    np.testing.assert_array_equal(
        flags_at(calibration, np.array([94.0, 95.0, np.nan]), 0.05), [False, True, True]
    )
    rate = rate_estimate(np.array([True] * 30 + [False] * 70))
    assert (rate.value, round(rate.high - rate.low, 1)) == (0.3, 0.2)
