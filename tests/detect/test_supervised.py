from collections.abc import Callable

import numpy as np
import pytest

from penstock.detect import CLASSIFIERS, PathFeatures, SupervisedDetector, false_positive_interval
from penstock.errors import InvalidArgumentError, NotCalibratedError, NotFittedError

pytest.importorskip("sklearn")

Draw = Callable[..., PathFeatures]


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_attacked_inputs_score_higher_and_honest_ones_keep_the_promise(
    classifier: str, features: Draw
) -> None:
    from sklearn.metrics import roc_auc_score

    honest, attacked = features(300, seed=1), features(300, seed=2, offset=1.5)
    areas = {}
    for per_class in (1, 10):
        detector = SupervisedDetector(classifier, classes=4, seed=0)
        detector.fit(honest, attacked, per_class=per_class).calibrate(features(499, seed=3), 0.05)
        test = [detector.score(features(400, seed=4)), detector.score(features(400, seed=5, offset=1.5))]
        areas[per_class] = roc_auc_score(np.repeat([0, 1], 400), np.concatenate(test))
        # Scores of trees are often tied, and ties only lower the rate.
        _, high = false_positive_interval(1000, 499, 0.05)
        assert detector.predict(features(1000, seed=6)).mean() <= high
    assert areas[10] > 0.85
    assert areas[10] > areas[1] > 0.5


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_as_onnx_a_classifier_gives_the_same_scores(classifier: str, features: Draw) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("skl2onnx")
    detector = SupervisedDetector(classifier, classes=4)
    with pytest.raises(NotFittedError):
        detector.to_onnx()
    detector.fit(features(200, seed=1), features(200, seed=2, offset=1))
    test = features(300, seed=3, offset=0.5)
    session = onnxruntime.InferenceSession(detector.to_onnx(), providers=["CPUExecutionProvider"])
    (got,) = session.run(["probabilities"], {"path": test.bits.astype(np.float32)})
    want = detector.score(test)
    assert want.std() > 0.01
    np.testing.assert_allclose(got[:, 1], want, atol=1e-4)


def test_the_seed_decides_which_inputs_are_learnt_from(features: Draw) -> None:
    honest, attacked, test = features(200, seed=1), features(200, seed=2, offset=1), features(100, seed=3)

    def scores(seed: int) -> np.ndarray:
        return (
            SupervisedDetector(CLASSIFIERS[0], classes=4, seed=seed)
            .fit(honest, attacked, per_class=3)
            .score(test)
        )

    assert np.array_equal(scores(0), scores(0))
    assert not np.array_equal(scores(0), scores(1))


def test_calls_out_of_order_name_the_missing_call(features: Draw) -> None:
    new = SupervisedDetector("adaboost", classes=4)
    for call in (new.score, new.predict, lambda _: new.thresholds):
        with pytest.raises(NotFittedError, match=r"call fit\(\) on honest and on attacked"):
            call(features(5, seed=1))
    new.fit(features(40, seed=1), features(40, seed=2, offset=1))
    with pytest.raises(NotCalibratedError, match=r"call calibrate\(\)"):
        new.predict(features(5, seed=1))
    assert new.score(features(0, seed=1)).shape == (0,)


def test_what_cannot_be_fitted_is_refused(features: Draw) -> None:
    new, some = SupervisedDetector("adaboost", classes=4), features(40, seed=1)
    with pytest.raises(InvalidArgumentError, match="no classifier 'svm'; there are random-forest"):
        SupervisedDetector("svm", classes=4)
    with pytest.raises(InvalidArgumentError, match="0 attacked inputs"):
        new.fit(some, features(0, seed=1))
    with pytest.raises(InvalidArgumentError, match="0 per class; at least 1"):
        new.fit(some, some, per_class=0)
    with pytest.raises(InvalidArgumentError, match="24 bits, attacked ones 23: they are of two"):
        new.fit(some, features(40, seed=1, filters=23))
    with pytest.raises(InvalidArgumentError, match="there are 4"):
        new.fit(features(40, seed=1, classes=6), some)
    with pytest.raises(InvalidArgumentError, match="23 bits; the detector has 24"):
        new.fit(some, features(40, seed=2, offset=1)).score(features(5, seed=1, filters=23))
    with pytest.raises(InvalidArgumentError, match="there are 4"):
        new.predict(features(40, seed=1, classes=6))
