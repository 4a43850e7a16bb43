from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penstock.detect import PathDetector, PathFeatures, false_positive_interval
from penstock.errors import InvalidArgumentError, NotCalibratedError, NotFittedError, UnsupportedError

Draw = Callable[..., PathFeatures]
State = dict[str, npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def detector(features: Draw) -> PathDetector:
    return PathDetector(classes=4, rank=6).fit(features(500, seed=1)).calibrate(features(499, seed=2), 0.05)


def formula(state: State, given: PathFeatures) -> npt.NDArray[np.float32]:
    """The docstring of `penstock.detect.combined`, line by line, in single precision as a graph does it."""
    c, z, y = given.predicted, given.bits.astype(np.float32), given.gate_logits
    a = (np.abs(z - state["usual"][c]) * state["surprise"][c]).sum(axis=1)
    x = (y - state["mean"][c]) / state["scale"]
    p = x @ state["directions"]
    e = x - p @ state["directions"].T
    squares = (p**2 * state["direction_weight"]).sum(axis=1) + (e**2 * state["residual_weight"]).sum(axis=1)
    d = np.sqrt(1 + squares)
    both = (np.stack([a, d], axis=1) - state["location"][c]) / state["spread"][c]
    score: npt.NDArray[np.float32] = both.sum(axis=1) / np.float32(2)
    assert score.dtype == np.float32
    return score


def test_calls_out_of_order_name_the_missing_call(features: Draw) -> None:
    new = PathDetector(classes=4)
    for call in (new.score, new.predict, new.components, lambda _: new.threshold, lambda _: new.state()):
        with pytest.raises(NotFittedError, match=r"call fit\(\)"):
            call(features(1, seed=1))
    with pytest.raises(NotFittedError, match=r"call fit\(\)"):
        new.calibrate(features(100, seed=1), 0.05)
    new.fit(features(100, seed=1))
    with pytest.raises(NotCalibratedError, match=r"call calibrate\(\)"):
        new.predict(features(1, seed=1))
    new.calibrate(features(100, seed=2), 0.05).fit(features(100, seed=1))
    with pytest.raises(NotCalibratedError):
        new.predict(features(1, seed=1))


def test_honest_inputs_are_flagged_at_the_promised_rate(detector: PathDetector, features: Draw) -> None:
    low, high = false_positive_interval(2000, 499, 0.05)
    assert low <= detector.predict(features(2000, seed=3)).mean() <= high


def test_strange_inputs_score_higher(detector: PathDetector, features: Draw) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    honest = detector.score(features(500, seed=3))
    for strange in (features(500, seed=4, spread=2.0), features(500, seed=4, offset=1.0)):
        scores = np.concatenate([honest, detector.score(strange)])
        assert metrics.roc_auc_score(np.repeat([0, 1], 500), scores) > 0.8
    assert abs(honest.mean()) < 0.3
    assert 0.5 < honest.std() < 1.5


def test_a_batch_scores_as_its_inputs_one_by_one(detector: PathDetector, features: Draw) -> None:
    batch = features(1500, seed=5)  # more than are scored at once
    single = np.concatenate([detector.score(one) for one in batch.batches(1)])
    assert detector.score(batch) == pytest.approx(single, abs=1e-6)


@pytest.mark.parametrize("calibrated", [True, False])
def test_state_round_trip_gives_the_very_same_scores(
    detector: PathDetector, calibrated: bool, features: Draw
) -> None:
    state = {name: table for name, table in detector.state().items() if calibrated or name != "threshold"}
    assert {table.dtype for table in state.values()} == {np.dtype(np.float32)}
    again = PathDetector.from_state(state)
    test = features(300, seed=6)
    assert np.array_equal(again.score(test), detector.score(test))
    if calibrated:
        assert again.threshold == detector.threshold
        assert np.array_equal(again.predict(test), detector.predict(test))
    else:
        with pytest.raises(NotCalibratedError):
            again.predict(test)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"usual": None}, "no 'usual'"),
        ({"mean": np.zeros((4, 23), np.float32)}, r"'mean' has shape \(4, 23\); \(4, 24\)"),
        ({"scale": np.ones((1, 24), np.float32)}, "'scale' has shape"),
        ({"scale": np.zeros(24, np.float32)}, "'scale' holds 0.0"),
        ({"directions": np.zeros((24, 6))}, "'directions' must be finite float32; it is float64"),
        ({"spread": np.full((4, 2), np.nan, np.float32)}, "'spread' must be finite"),
    ],
    ids=str,
)
def test_a_state_that_cannot_be_is_refused(
    detector: PathDetector, change: dict[str, Any], message: str
) -> None:
    state = {name: table for name, table in (detector.state() | change).items() if table is not None}
    with pytest.raises(InvalidArgumentError, match=message):
        PathDetector.from_state(state)


STRANGE: list[dict[str, float]] = [{}, {"spread": 3}, {"spread": 100}, {"offset": 5}, {"offset": -1000}]


@pytest.mark.parametrize("filters", [1, 24, 600])
def test_single_precision_agrees_with_double(filters: int, features: Draw) -> None:
    fitted = PathDetector(classes=4).fit(features(300, seed=1, filters=filters))
    for strange in STRANGE:
        test = features(200, seed=7, filters=filters, **strange)
        double = fitted.components(test).mean(axis=1)
        error = np.abs(formula(fitted.state(), test) - double)
        assert (error / np.maximum(1, np.abs(double))).max() < 1e-4, strange


@settings(max_examples=60, deadline=None)
@given(data=st.data(), filters=st.integers(1, 6), count=st.integers(2, 30))
def test_whatever_it_is_fitted_to_scores_stay_finite_and_precise(
    data: st.DataObject, filters: int, count: int, from_logits: Draw
) -> None:
    """Constant filters, absent classes, all gates open, one filter, many ties: drawn from few values."""
    values = st.sampled_from([-4.0, -0.5, -1e-3, 0.0, 1e-7, 0.5, 1.0, 4.0, 30.0])
    logits = data.draw(arrays(np.float32, (count, filters), elements=values))
    predicted = data.draw(arrays(np.int64, count, elements=st.integers(0, 2)))
    fitted = PathDetector(classes=4, rank=3).fit(from_logits(logits, predicted))
    new = data.draw(arrays(np.float32, (5, filters), elements=values))
    test = from_logits(new, np.array([0, 1, 2, 3, 3]))
    double = fitted.components(test).mean(axis=1)
    single = formula(fitted.state(), test)
    assert np.isfinite(single).all()
    assert (np.abs(single - double) / np.maximum(1, np.abs(double))).max() < 1e-4


def test_arguments_that_cannot_be_are_refused(detector: PathDetector, features: Draw) -> None:
    with pytest.raises(InvalidArgumentError, match="rank 0"):
        PathDetector(classes=4, rank=0)
    with pytest.raises(InvalidArgumentError, match="at least 2"):
        PathDetector(classes=4).fit(features(1, seed=1))
    with pytest.raises(InvalidArgumentError, match="there are 3"):
        PathDetector(classes=3).fit(features(50, seed=1))
    with pytest.raises(InvalidArgumentError, match="there are 4"):
        detector.score(features(50, seed=1, classes=5))
    with pytest.raises(InvalidArgumentError, match="23 bits; the detector has 24"):
        detector.score(features(50, seed=1, filters=23))


def test_nothing_scores_as_nothing(detector: PathDetector, features: Draw) -> None:
    assert detector.score(features(0, seed=1)).shape == (0,)


def test_thresholds_per_class_keep_the_promise_in_each(features: Draw) -> None:
    fitted = PathDetector(classes=4, rank=6).fit(features(500, seed=1))
    fitted.calibrate(features(2000, seed=2), 0.1, per_class=True)
    assert fitted.thresholds.shape == (4,)
    assert len(set(fitted.thresholds.tolist())) == 4
    test = features(4000, seed=3)
    flags = fitted.predict(test)
    for label in range(4):
        own = test.predicted == label
        low, high = false_positive_interval(int(own.sum()), 450, 0.1, confidence=0.999)
        assert low <= flags[own].mean() <= high
    again = PathDetector.from_state(fitted.state())
    assert np.array_equal(again.predict(test), flags)
    with pytest.raises(UnsupportedError, match="ask for `thresholds`"):
        _ = again.threshold
    with pytest.raises(InvalidArgumentError, match=r"'threshold' has shape \(3,\); \(1,\) or \(4,\)"):
        PathDetector.from_state(fitted.state() | {"threshold": np.zeros(3, np.float32)})
    with pytest.raises(InvalidArgumentError, match="for class 0 "):
        fitted.calibrate(features(40, seed=2), 0.1, per_class=True).calibrate(
            features(30, seed=2), 0.1, per_class=True
        )
