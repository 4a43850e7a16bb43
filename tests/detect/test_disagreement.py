from collections.abc import Callable

import numpy as np
import pytest

from penstock.detect import ClassDisagreement, FamilyDetector, PathFeatures, false_positive_interval
from penstock.detect.recipe import DISAGREEMENT, SUB_ARCHITECTURE
from penstock.errors import InvalidArgumentError
from penstock.paths import PathLayer, PathLayout, PathSet

Draw = Callable[..., PathFeatures]
LAYOUT = PathLayout(
    layers=(PathLayer(name="a", filters=8, macs=1), PathLayer(name="b", filters=16, macs=1)),
    fixed_macs=0,
    dense_macs=2,
)


def taken_for_another(features: PathFeatures) -> PathFeatures:
    return PathFeatures(features.bits, features.gate_logits, (features.predicted + 1) % 4)


def masks(features: PathFeatures) -> PathSet:
    rates = [features.bits[features.predicted == label].mean(axis=0) for label in range(4)]
    return PathSet(LAYOUT, (np.array(rates) > 0.5).astype(np.uint8))


@pytest.mark.parametrize("part", [DISAGREEMENT, SUB_ARCHITECTURE])
def test_paths_of_another_class_score_higher_and_honest_ones_keep_the_promise(
    part: str, features: Draw
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    detector = FamilyDetector(part, classes=4, sub_architectures=masks(features(500, seed=9)))
    detector.fit(features(500, seed=1)).calibrate(features(499, seed=2), 0.05)
    honest, strange = features(2000, seed=3), taken_for_another(features(500, seed=4))
    scores = np.concatenate([detector.score(honest), detector.score(strange)])
    assert metrics.roc_auc_score(np.repeat([0, 1], [2000, 500]), scores) > 0.95
    _, high = false_positive_interval(2000, 499, 0.05)
    assert detector.predict(honest).mean() <= high
    assert abs(scores[:2000].mean()) < 0.3
    assert 0.5 < scores[:2000].std() < 1.5


def test_the_score_is_how_much_likelier_the_path_is_of_another_class(features: Draw) -> None:
    honest, test = features(400, seed=1), features(50, seed=2)
    tables = ClassDisagreement.of_prototypes(honest, 4)
    rates = np.array(
        [
            (honest.bits[honest.predicted == c].sum(axis=0) + 0.5) / ((honest.predicted == c).sum() + 1)
            for c in range(4)
        ]
    )
    surprise = -np.where(test.bits[:, None], np.log(rates), np.log1p(-rates)).sum(axis=2)  # [N, C]
    for row, own in enumerate(test.predicted):
        nearest = min(surprise[row, other] for other in range(4) if other != own)
        wanted = (surprise[row, own] - nearest - tables.location[own, 0]) / tables.spread[own, 0]
        assert tables.score(test)[row] == pytest.approx(wanted, abs=1e-4)


def test_sub_architectures_are_compared_layer_by_layer(features: Draw) -> None:
    honest, test = features(400, seed=1), features(50, seed=2)
    own = masks(honest)
    tables = ClassDisagreement.of_sub_architectures(own, honest)
    differs = test.bits[:, None] != own.bits
    share = (differs[..., :8].mean(axis=2) + differs[..., 8:].mean(axis=2)) / 2
    for row, label in enumerate(test.predicted):
        nearest = min(share[row, other] for other in range(4) if other != label)
        wanted = (share[row, label] - nearest - tables.location[label, 0]) / tables.spread[label, 0]
        assert tables.score(test)[row] == pytest.approx(wanted, abs=1e-4)


def test_what_cannot_be_is_refused(features: Draw) -> None:
    own = masks(features(100, seed=1))
    with pytest.raises(InvalidArgumentError, match="nothing to disagree about"):
        FamilyDetector(DISAGREEMENT, classes=1)
    with pytest.raises(InvalidArgumentError, match="4 sub-architectures for 5 classes"):
        FamilyDetector(SUB_ARCHITECTURE, classes=5, sub_architectures=own)
    with pytest.raises(InvalidArgumentError, match="24 bits, paths 23"):
        FamilyDetector(SUB_ARCHITECTURE, classes=4, sub_architectures=own).fit(
            features(50, seed=1, filters=23)
        )
    fitted = FamilyDetector(DISAGREEMENT, classes=4).fit(features(50, seed=1))
    with pytest.raises(InvalidArgumentError, match="23 bits; the detector has 24"):
        fitted.score(features(5, seed=1, filters=23))
