from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.data import load
from penstock.detect import PathDetector, PathFeatures
from penstock.errors import InvalidArgumentError
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.detector_head import DetectorHead
from penstock.nn.inference import answer


def score(head: DetectorHead, features: PathFeatures, classes: int) -> npt.NDArray[np.float32]:
    logits = torch.nn.functional.one_hot(torch.from_numpy(features.predicted), classes).float()
    bits, gate_logits = torch.from_numpy(features.bits).float(), torch.from_numpy(features.gate_logits)
    result: npt.NDArray[np.float32] = head(logits, bits, gate_logits).numpy()
    assert result.shape == (len(features), 1)
    return result[:, 0]


def drawn(count: int, seed: int, scale: float) -> PathFeatures:
    draw = np.random.default_rng(seed)
    predicted = draw.integers(0, 6, count)
    logits = (np.sin(np.outer(predicted + 1, range(50))) + scale * draw.normal(size=(count, 50))) * scale
    return PathFeatures((logits > 0).astype(np.uint8), logits.astype(np.float32), predicted)


@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    shift=st.floats(-20, 20),
    rank=st.sampled_from([8, 25, 30, 50]),  # from 25 on, half of the filters, distances are one product
)
def test_the_head_scores_as_the_detector_does(seed: int, scale: float, shift: float, rank: int) -> None:
    detector = PathDetector(classes=6, rank=rank).fit(drawn(120, seed, scale))
    suspects = drawn(40, seed + 1, scale)
    moved = suspects.gate_logits + np.float32(shift * scale)
    suspects = PathFeatures((moved > 0).astype(np.uint8), moved, suspects.predicted)
    wanted = detector.score(suspects)
    got = score(DetectorHead(detector.state()), suspects, classes=6)
    assert (np.abs(got - wanted) <= 1e-4 * np.maximum(1, np.abs(wanted))).all()


def test_the_head_scores_real_paths_as_the_detector_does(tiny: Checkpoint) -> None:
    answers = answer(tiny.network, load("digits").held_out.images)
    features = PathFeatures(answers.bits, answers.gate_logits, answers.predicted)
    wanted = PathDetector.from_state(tiny.detector).score(features)
    got = score(DetectorHead(tiny.detector), features, classes=10)
    assert (np.abs(got - wanted) <= 1e-4 * np.maximum(1, np.abs(wanted))).all()


def test_the_class_is_the_predicted_one(tiny: Checkpoint) -> None:
    answers = answer(tiny.network, load("digits").test.images[:50])
    head = DetectorHead(tiny.detector)
    bits, gate_logits = torch.from_numpy(answers.bits).float(), torch.from_numpy(answers.gate_logits)
    by_class = [
        head(torch.nn.functional.one_hot(torch.full((50,), label), 10).float(), bits, gate_logits)[:, 0]
        for label in range(10)
    ]
    got = head(torch.from_numpy(answers.logits), bits, gate_logits)[:, 0]
    wanted = torch.stack(by_class)[torch.from_numpy(answers.predicted), torch.arange(50)]
    assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("usual"), "no 'usual'"),
        (lambda state: state.update(scale=state["scale"][:-1]), "'scale' has shape"),
        (lambda state: state.update(spread=0 * state["spread"]), "'spread' holds 0"),
        (lambda state: state.update(mean=state["mean"].astype(np.float64)), "float64"),
        (lambda state: state.update(residual_weight=-np.ones(1, np.float32)), "'residual_weight' holds -1"),
    ],
    ids=["missing", "short", "zero", "double", "negative"],
)
def test_tables_that_do_not_fit_together_are_refused(
    change: Callable[[dict[str, Any]], object], message: str, tiny: Checkpoint
) -> None:
    state = dict(tiny.detector)
    change(state)
    with pytest.raises(InvalidArgumentError, match=message):
        DetectorHead(state)
