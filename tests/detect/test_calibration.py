import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.detect import (
    class_thresholds,
    conformal_threshold,
    false_positive_interval,
    resplit_rates,
)
from penstock.detect.calibration import conformal_rank
from penstock.errors import InvalidArgumentError


@given(
    scores=st.lists(st.floats(-1e6, 1e6, width=32), min_size=20, max_size=200),
    fpr=st.floats(0.05, 0.95),
)
def test_threshold_flags_at_most_its_rate_of_the_calibration_set(scores: list[float], fpr: float) -> None:
    array = np.array(scores, dtype=np.float32)
    threshold = conformal_threshold(array, fpr)
    flagged = int((array > np.float32(threshold)).sum())
    assert threshold in scores
    assert flagged <= len(scores) - conformal_rank(len(scores), fpr) <= fpr * (len(scores) + 1)


@pytest.mark.parametrize(
    ("count", "fpr", "rank"),
    [(499, 0.05, 475), (499, 0.01, 495), (19, 0.05, 19), (9, 0.7, 3), (99, 0.1, 90), (1997, 0.05, 1899)],
)
def test_rank_takes_the_rate_as_the_decimal_that_was_written(count: int, fpr: float, rank: int) -> None:
    assert conformal_rank(count, fpr) == rank
    assert conformal_rank(count, float(np.float64(fpr))) == rank


@given(fpr=st.integers(1, 999))
def test_too_few_scores_say_how_many_are_needed(fpr: int) -> None:
    rate = fpr / 1000
    needed = math.ceil(1000 / fpr) - 1
    assert conformal_rank(needed, rate) <= needed
    with pytest.raises(InvalidArgumentError, match=f": {needed} are needed"):
        conformal_threshold(np.zeros(needed - 1), rate)


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, math.nan, math.inf])
def test_rates_outside_of_0_and_1_are_refused(fpr: float) -> None:
    with pytest.raises(InvalidArgumentError, match="above 0 and below 1"):
        conformal_threshold(np.zeros(100), fpr)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InvalidArgumentError, match="1 of 100 scores are not finite"):
        conformal_threshold(np.array([bad] + [0.0] * 99), 0.05)


def test_a_table_of_scores_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(100, 1\)"):
        conformal_threshold(np.zeros((100, 1)), 0.05)


def test_ties_only_lower_the_rate() -> None:
    scores = np.repeat(np.arange(10.0), 100)
    assert np.mean(scores > conformal_threshold(scores, 0.05)) == 0


def test_measured_rates_lie_in_their_interval() -> None:
    """Of 2,000 experiments with normal scores, 1 % may fall outside of the 99 % interval."""
    draw = np.random.default_rng(20)
    low, high = false_positive_interval(n_test=498, n_calibration=499, fpr=0.05)
    thresholds = [conformal_threshold(draw.normal(size=499), 0.05) for _ in range(2000)]
    rates = np.array([np.mean(draw.normal(size=498) > threshold) for threshold in thresholds])
    assert np.mean((rates < low) | (rates > high)) <= 0.015
    # n + 1 is a multiple of 20, so the rate is met, not only kept. Standard error of the mean: 0.0003.
    assert rates.mean() == pytest.approx(0.05, abs=0.001)


def test_interval_narrows_with_more_inputs_and_holds_the_rate() -> None:
    small = false_positive_interval(100, 99, 0.05)
    large = false_positive_interval(10_000, 9_999, 0.05)
    assert small[0] <= large[0] < 0.05 < large[1] < small[1]


def test_interval_refuses_what_makes_no_sense() -> None:
    for n_test, confidence in ((0, 0.99), (100, 1.0), (100, 0.0)):
        with pytest.raises(InvalidArgumentError, match="n_test"):
            false_positive_interval(n_test, 499, 0.05, confidence)
    with pytest.raises(InvalidArgumentError, match="19 are needed"):
        false_positive_interval(100, 18, 0.05)


def test_resplitting_gives_the_rate_in_the_mean() -> None:
    scores = np.random.default_rng(3).exponential(size=998)
    rates = resplit_rates(scores, 499, 0.05, rounds=400, seed=1)
    assert rates.shape == (400,)
    assert rates.mean() == pytest.approx(0.05, abs=0.003)
    assert np.array_equal(rates, resplit_rates(scores, 499, 0.05, rounds=400, seed=1))


def test_few_calibration_scores_of_many_still_give_the_rate_in_the_mean() -> None:
    """The means of 100 independent splits scatter by 0.05 to 0.07 points here."""
    draw = np.random.default_rng(4)
    for scores, calibration in ((7984, 999), (8982, 1997)):
        rates = [
            resplit_rates(draw.random(scores), calibration, 0.05, rounds=100, seed=seed) for seed in range(30)
        ]
        means = np.mean(rates, axis=1)
        promised = 1 - conformal_rank(calibration, 0.05) / (calibration + 1)
        assert np.std(means) < 0.0003
        assert np.mean(means) == pytest.approx(promised, abs=0.0002)


def test_resplitting_must_leave_something_to_test() -> None:
    with pytest.raises(InvalidArgumentError, match="none to test"):
        resplit_rates(np.zeros(100), 100, 0.05, rounds=1, seed=0)


def test_each_class_gets_the_threshold_of_its_own_scores() -> None:
    draw = np.random.default_rng(5)
    predicted = draw.integers(0, 3, 600)
    scores = draw.normal(size=600) + 10 * predicted
    found = class_thresholds(scores, predicted, ("ant", "bee", "cat"), 0.05)
    assert found.tolist() == [conformal_threshold(scores[predicted == label], 0.05) for label in range(3)]


def test_a_class_with_too_few_images_is_named_and_never_gets_an_infinite_threshold() -> None:
    predicted = np.repeat([0, 1], [99, 98])
    with pytest.raises(InvalidArgumentError, match=r"needs 99 .* there for bee 98, cat 0: add images"):
        class_thresholds(np.zeros(197), predicted, ("ant", "bee", "cat"), 0.01)
    enough = class_thresholds(np.zeros(198), np.repeat([0, 1], 99), ("ant", "bee"), 0.01)
    assert np.isfinite(enough).all()


def test_measured_rates_hold_in_every_class() -> None:
    """Exact at n + 1 a multiple of 20; the mean over 400 draws has a standard error of 0.0015."""
    draw = np.random.default_rng(6)
    predicted = np.repeat([0, 1], [199, 99])
    widths = np.array([1.0, 5.0])
    rates = []
    for _ in range(400):
        found = class_thresholds(draw.normal(size=298) * widths[predicted], predicted, ("a", "b"), 0.05)
        rates.append(np.mean(draw.normal(size=(2, 500)) * widths[:, None] > found[:, None], axis=1))
    assert np.mean(rates, axis=0) == pytest.approx([0.05, 0.05], abs=0.005)
