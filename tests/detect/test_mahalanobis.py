import sys
from collections.abc import Callable

import numpy as np
import pytest

from penstock.detect import GateMahalanobis, PathFeatures
from penstock.errors import UnsupportedError

Draw = Callable[..., PathFeatures]


@pytest.mark.parametrize(("inputs", "rank"), [(500, 24), (12, 11)])
def test_full_rank_equals_the_textbook_distance_under_the_shrunk_covariance(
    inputs: int, rank: int, features: Draw
) -> None:
    """With few inputs all directions but a few are alike, so that nothing is lost either."""
    covariance = pytest.importorskip("sklearn.covariance")
    train, test = features(inputs, seed=1), features(40, seed=2)
    fitted = GateMahalanobis.fit(train, 4, rank=1000)
    assert fitted.directions.shape == (24, rank)
    assert (fitted.residual_weight == 0) == (rank == 24)
    x = (train.gate_logits - fitted.mean[train.predicted]) / fitted.scale
    precision = covariance.LedoitWolf(assume_centered=True).fit(x.astype(np.float64)).precision_
    new = (test.gate_logits - fitted.mean[test.predicted]) / fitted.scale
    expected = np.sqrt(1 + np.einsum("ni,ij,nj->n", new, precision, new))
    assert fitted.score(test) == pytest.approx(expected, rel=1e-3)


def test_low_rank_stays_near_the_full_distance(features: Draw) -> None:
    train, test = features(500, seed=1), features(200, seed=2)
    full = GateMahalanobis.fit(train, 4, rank=24).score(test)
    low = GateMahalanobis.fit(train, 4, rank=5).score(test)  # the five directions that filters share
    assert np.corrcoef(full, low)[0, 1] > 0.95


def test_no_more_directions_than_inputs_allow(features: Draw) -> None:
    assert GateMahalanobis.fit(features(6, seed=1), 4, rank=32).directions.shape == (24, 5)


def test_filters_that_never_move_stay_finite(features: Draw, from_logits: Draw) -> None:
    train = features(50, seed=1)
    logits = train.gate_logits.copy()
    logits[:, 0] = 3
    fitted = GateMahalanobis.fit(from_logits(logits, train.predicted), 4, rank=8)
    logits[:, 0] = -3
    strange = fitted.score(from_logits(logits, train.predicted))
    assert np.isfinite(strange).all()
    assert strange.min() > fitted.score(train).max()


def test_without_scikit_learn_fitting_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, features: Draw
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.covariance", None)
    with pytest.raises(UnsupportedError, match=r"penstock\[train\]"):
        GateMahalanobis.fit(features(50, seed=1), 4, rank=8)
