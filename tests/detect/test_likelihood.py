from collections.abc import Callable

import numpy as np
import pytest

from penstock.detect import BitLikelihood, PathFeatures

Draw = Callable[..., PathFeatures]


def test_score_is_the_negative_log_likelihood_up_to_a_constant_of_the_class(features: Draw) -> None:
    train, test = features(400, seed=1), features(50, seed=2)
    likelihood = BitLikelihood.fit(train, 4)
    for label in range(4):
        own, new = train.bits[train.predicted == label], test.bits[test.predicted == label]
        p = (own.sum(axis=0) + 0.5) / (len(own) + 1)
        expected = -(new * np.log(p) + (1 - new) * np.log(1 - p)).sum(axis=1)
        least = -np.log(np.maximum(p, 1 - p)).sum()
        found = likelihood.score(test)[test.predicted == label]
        assert found == pytest.approx(expected - least, rel=1e-5, abs=1e-5)


def test_the_usual_path_of_a_class_scores_0_and_any_other_more(features: Draw, from_logits: Draw) -> None:
    likelihood = BitLikelihood.fit(features(400, seed=1), 4)
    usual = from_logits(likelihood.usual[2:3] - 0.5, np.array([2]))
    assert likelihood.score(usual) == 0
    flipped = from_logits(0.5 - likelihood.usual[2:3], np.array([2]))
    assert likelihood.score(flipped) == pytest.approx(likelihood.surprise[2].sum())


def test_surprises_name_the_filters_that_are_not_as_usual(features: Draw) -> None:
    likelihood = BitLikelihood.fit(features(400, seed=1), 4)
    test = features(50, seed=2)
    surprises = likelihood.surprises(test)
    unusual = test.bits != likelihood.usual[test.predicted]
    assert not surprises[~unusual].any()
    assert surprises.sum(axis=1) == pytest.approx(likelihood.score(test))


def test_a_class_hardly_seen_takes_what_all_do(from_logits: Draw) -> None:
    logits = np.array([[1, -1], [1, -1], [1, 1], [-1, -1]])
    likelihood = BitLikelihood.fit(from_logits(logits, np.array([0, 0, 0, 1])), 3)
    pooled = np.abs(np.log(3.5 / 1.5))
    assert likelihood.surprise[1] == pytest.approx([pooled, pooled])  # one input
    assert likelihood.surprise[2] == pytest.approx([pooled, pooled])  # none
    assert likelihood.surprise[0] == pytest.approx([np.log(3.5 / 0.5), np.log(2.5 / 1.5)])
