from collections.abc import Callable

import numpy as np
import pytest

from penstock.detect import (
    COMBINATIONS,
    DisagreementDetector,
    PathDetector,
    PathFeatures,
    PValueDetector,
    false_positive_interval,
)
from penstock.detect.pvalues import Member
from penstock.errors import InvalidArgumentError, NotCalibratedError, NotFittedError

Draw = Callable[..., PathFeatures]


def combined(combination: str = "minimum") -> PValueDetector:
    members: list[Member] = [PathDetector(classes=4, rank=6), DisagreementDetector(classes=4)]
    return PValueDetector(members, classes=4, combination=combination)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_two_kinds_of_strangeness_are_found_and_the_promise_is_kept(combination: str, features: Draw) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    detector = combined(combination).fit(features(1500, seed=1)).calibrate(features(499, seed=2), 0.05)
    honest, moved = features(2000, seed=3), features(400, seed=4, offset=1.0)
    taken = features(400, seed=5)
    taken = PathFeatures(taken.bits, taken.gate_logits, (taken.predicted + 1) % 4)
    for strange, least in ((moved, 0.8), (taken, 0.95)):
        scores = np.concatenate([detector.score(honest), detector.score(strange)])
        assert metrics.roc_auc_score(np.repeat([0, 1], [2000, 400]), scores) > least
    _, high = false_positive_interval(2000, 499, 0.05)
    assert detector.predict(honest).mean() <= high


def test_pvalues_of_honest_inputs_are_uniform(features: Draw) -> None:
    found = combined().fit(features(5000, seed=1)).pvalues(features(5000, seed=2))
    assert found.shape == (5000, 2)
    assert found.min() >= 1 / 2001
    assert found.max() <= 1
    for share in (0.05, 0.2, 0.5, 0.8):  # 2,000 rank, 5,000 are ranked: standard errors below 0.014
        assert (found <= share).mean(axis=0) == pytest.approx([share, share], abs=0.045)


def test_combinations_are_what_their_names_say() -> None:
    found = np.array([[0.5, 0.5], [0.01, 1.0], [0.1, 0.1]])
    fisher, harmonic, minimum = (
        COMBINATIONS[name](found).tolist() for name in ("fisher", "harmonic", "minimum")
    )
    assert fisher == pytest.approx([-4 * np.log(0.5), -2 * np.log(0.01), -4 * np.log(0.1)])
    assert np.exp(harmonic) == pytest.approx([2, 50.5, 10])
    assert np.exp(minimum) == pytest.approx([2, 100, 10])


def test_calls_out_of_order_name_the_missing_call(features: Draw) -> None:
    new = combined()
    for call in (new.score, new.pvalues, new.predict, lambda _: new.threshold):
        with pytest.raises(NotFittedError, match=r"call fit\(\)"):
            call(features(5, seed=1))
    with pytest.raises(NotCalibratedError, match=r"call calibrate\(\)"):
        new.fit(features(100, seed=1)).predict(features(5, seed=1))


def test_what_cannot_be_combined_is_refused(features: Draw) -> None:
    with pytest.raises(InvalidArgumentError, match="1 members; at least 2"):
        PValueDetector([PathDetector(classes=4)], classes=4)
    with pytest.raises(InvalidArgumentError, match="no combination 'sum'; there are minimum"):
        combined("sum")
    with pytest.raises(InvalidArgumentError, match="9 inputs to fit"):
        combined().fit(features(9, seed=1))
