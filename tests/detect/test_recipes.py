"""Names of detectors say what they do, and what they have learnt survives a file and can be cut up."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from penstock.detect import FamilyDetector, PathFeatures, Recipe, explain
from penstock.detect.recipe import COMBINED, PARTS
from penstock.detect.tables import tables_from_bytes, tables_to_bytes
from penstock.errors import InvalidArgumentError
from penstock.paths import PathSet

Draw = Callable[..., PathFeatures]
NAMES = [*PARTS, "path-likelihood+gate-mahalanobis", *(f"{how}:{'+'.join(PARTS)}" for how in COMBINED)]


@pytest.fixture(scope="module")
def shown(features: Draw) -> PathFeatures:
    """Some usual inputs and some strange ones."""
    usual, strange = features(60, seed=5), features(60, seed=6, spread=3.0)
    return PathFeatures(
        *(np.concatenate([getattr(each, name) for each in (usual, strange)]) for name in vars(usual))
    )


@pytest.mark.parametrize("name", NAMES)
def test_scores_survive_a_file_and_are_cut_up_without_remainder(
    name: str, features: Draw, shown: PathFeatures, masks: PathSet
) -> None:
    fitted = FamilyDetector(name, classes=4, sub_architectures=masks).fit(features(800, seed=1)).fitted
    score = tables_from_bytes(name, tables_to_bytes(fitted))
    scores = fitted.score(shown)
    np.testing.assert_allclose(score.score(shown), scores, rtol=1e-5, atol=1e-5)
    found = explain(score, shown)
    assert found.parts.shape == (len(shown), len(score.recipe.parts))
    np.testing.assert_allclose(found.parts.sum(axis=1), scores, rtol=1e-4, atol=1e-4)
    whole = found.baseline + found.answer + found.bits.sum(axis=1) + found.gates.sum(axis=1)
    np.testing.assert_allclose(whole, scores, rtol=1e-4, atol=1e-4)
    if score.recipe.by_surprisal:  # nothing is shared out that is taken away elsewhere
        assert all((part >= 0).all() for part in (found.baseline, found.answer, found.bits, found.gates))


def test_what_is_no_file_of_tables_is_refused(features: Draw) -> None:
    name = "path-likelihood+gate-mahalanobis"
    single, packed = io.BytesIO(), io.BytesIO()
    np.save(single, np.zeros(3))
    np.savez_compressed(packed, a=np.zeros(1000))
    damaged = bytearray(packed.getvalue())
    damaged[60:70] = bytes(10)
    for content in (b"", b"no archive", single.getvalue(), bytes(damaged)):
        with pytest.raises(InvalidArgumentError, match="not a file of a detector's tables"):
            tables_from_bytes(name, content)


def test_the_minimum_is_the_score_of_the_strangest_part(features: Draw, shown: PathFeatures) -> None:
    score = FamilyDetector("minimum:gate-mahalanobis+doubt", classes=4).fit(features(800, seed=1)).fitted
    found = explain(score, shown)
    assert ((found.parts > 0).sum(axis=1) <= 1).all()
    doubted = found.parts[:, 1] > 0
    assert 0 < doubted.sum() < len(shown)
    np.testing.assert_allclose(found.answer[doubted], found.parts[doubted, 1])
    assert (found.gates[doubted] == 0).all()


def test_names_are_read_and_written() -> None:
    for name in NAMES:
        assert str(Recipe.parse(name)) == name
    assert str(Recipe.parse("mean:doubt+disagreement")) == "disagreement+doubt"
    for wrong, message in {
        "": "no detector ''; there are path-likelihood",
        "doubt+entropy": "no detector 'entropy'",
        "doubt+doubt": "names a part twice",
        "maximum:doubt": "before the colon is one of minimum",
        ":doubt": "before the colon is one of minimum",
    }.items():
        with pytest.raises(InvalidArgumentError, match=message):
            Recipe.parse(wrong)


def test_those_that_rank_leave_half_for_the_threshold() -> None:
    assert not Recipe.parse("path-likelihood+gate-mahalanobis").ranking(10).any()
    assert Recipe.parse("minimum:gate-mahalanobis").ranking(10).sum() == 5
    assert Recipe.parse("doubt").ranking(3).tolist() == [False, True, False]


def test_tables_that_do_not_fit_are_refused(features: Draw) -> None:
    score = FamilyDetector("minimum:disagreement+doubt", classes=4).fit(features(200, seed=1)).fitted
    arrays = score.arrays()
    wrongs: tuple[tuple[dict[str, npt.NDArray[Any]], str], ...] = (
        ({"disagreement.slope": arrays["disagreement.slope"][:2]}, "'disagreement.slope' has shape"),
        ({"doubt.spread": np.array(np.nan, np.float32)}, "'doubt.spread' must be finite"),
        ({"doubt.spread": np.array("much")}, "'doubt.spread' must be finite float32; it is <U4"),
        ({"doubt.spread": np.array(0, np.float32)}, r"'doubt.spread' holds 0\.0; it must be above 0"),
        ({"surprisal1.bends": arrays["surprisal1.bends"][:-1]}, "'surprisal1.bends' has shape"),
    )
    for wrong, message in wrongs:
        with pytest.raises(InvalidArgumentError, match=message):
            type(score).from_arrays(str(score.recipe), arrays | wrong)
    del arrays["surprisal0.start"]
    with pytest.raises(InvalidArgumentError, match=r"no 'surprisal0\.start'"):
        type(score).from_arrays(str(score.recipe), arrays)


def test_doubts_must_be_known_where_they_are_asked_for(features: Draw) -> None:
    score = FamilyDetector("doubt", classes=4).fit(features(200, seed=1)).fitted
    with pytest.raises(InvalidArgumentError, match="how unsure the network is"):
        score.score(replace(features(10, seed=2), doubt=None))
