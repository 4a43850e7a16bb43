"""The attacker's detector is the detector, and the adaptive attacks break what is known to be undefended."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.attacks.adaptive import METHODS, Adaptive
from penstock.attacks.classifier import Images, Labels
from penstock.attacks.detector_score import DetectorScore, NeverFlags
from penstock.data import load
from penstock.detect import FamilyScore, PathDetector, PathFeatures
from penstock.nn.checkpoint import Checkpoint, load_source
from penstock.nn.inference import answer


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_source("zoo:resnet20-cifar10")[0]


@pytest.fixture(scope="module")
def victims(checkpoint: Checkpoint) -> tuple[Images, Labels]:
    test = load("cifar10").test.take(np.arange(20))
    right = answer(checkpoint.network, test.images).predicted == test.labels
    kept = test.take(right)
    return kept.floats()[:12], kept.labels[:12]


def test_the_score_in_torch_is_that_in_numpy(checkpoint: Checkpoint, victims: tuple[Images, Labels]) -> None:
    detector = PathDetector.from_state(checkpoint.detector)
    seen = answer(checkpoint.network, victims[0] * 255)
    wanted = detector.score(PathFeatures(seen.bits, seen.gate_logits, seen.predicted))
    with torch.no_grad():
        score = DetectorScore(FamilyScore.of_default(checkpoint.detector), checkpoint.network.layout)
        got = score(checkpoint.network(torch.from_numpy(victims[0]))).numpy()
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_adaptive_attack_breaks_a_network_without_a_detector(
    checkpoint: Checkpoint, victims: tuple[Images, Labels], method: str
) -> None:
    images, labels = victims
    guides = images[[int(np.flatnonzero(labels != label)[0]) for label in labels]]
    attack = Adaptive(method=method, steps=25, restarts=1)
    attacked = attack(checkpoint.network, NeverFlags(), 1.0, images, labels, guides)
    assert np.abs(attacked - images).max() <= 8 / 255 + 1e-6
    assert (answer(checkpoint.network, attacked * 255).predicted != labels).mean() >= 0.9
