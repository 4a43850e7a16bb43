"""The attacker's detector is the detector, and the adaptive attacks break what is known to be undefended."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from penstock.attacks import adaptive
from penstock.attacks.adaptive import METHODS, Adaptive, _Guides
from penstock.attacks.classifier import Images, Labels
from penstock.attacks.detector_score import DetectorScore, NeverFlags
from penstock.data import load
from penstock.detect import FamilyDetector, FamilyScore, PathDetector, PathFeatures
from penstock.detect.recipe import DEFAULT
from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.nn.checkpoint import Checkpoint, load_source
from penstock.nn.detecting import features_of
from penstock.nn.inference import answer
from penstock.nn.observers import ObserverConfig, attach_observers
from penstock.nn.surgery import attach_gates


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_source("zoo:resnet20-cifar10")[0]


@pytest.fixture(scope="module")
def victims(checkpoint: Checkpoint) -> tuple[Images, Labels]:
    try:
        test = load("cifar10").test.take(np.arange(20))
    except NotFoundError as error:
        pytest.skip(f"{error}")
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
    attack = Adaptive(method=method, steps=25, restarts=1)
    attacked = attack(checkpoint.network, NeverFlags(), 1.0, images, labels, images)
    assert np.abs(attacked - images).max() <= 8 / 255 + 1e-6
    assert (answer(checkpoint.network, attacked * 255).predicted != labels).mean() >= 0.9


def test_who_is_done_makes_room_for_who_waits(
    checkpoint: Checkpoint, victims: tuple[Images, Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptive, "BATCH", 4)
    images, labels = victims
    sizes: list[int] = []
    handle = checkpoint.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    attack = Adaptive(method="joint", steps=25, restarts=1)
    attacked = attack(checkpoint.network, NeverFlags(), 1.0, images, labels)
    steps = sizes[1:]  # the first look is at gradients
    assert (answer(checkpoint.network, attacked * 255).predicted != labels).mean() >= 0.9
    assert steps == sorted(steps, reverse=True)  # full until nobody waits
    assert steps.count(4) > 2
    # With two starts and a bound that nothing is won in, each image has all its steps twice, and one look more each.
    sizes.clear()
    Adaptive(method="joint", eps=1e-6, steps=3, restarts=2)(
        checkpoint.network, NeverFlags(), 1.0, images[:6], labels[:6]
    )
    handle.remove()
    assert sum(sizes[1:]) == 6 * 2 * 4


def test_matching_imitates_what_the_detector_sees_of_another_class_and_another_image_at_every_start(
    checkpoint: Checkpoint, victims: tuple[Images, Labels]
) -> None:
    images, labels = victims
    score = DetectorScore(FamilyScore.of_default(checkpoint.detector), checkpoint.network.layout)
    guides = _Guides.of(checkpoint.network, score, images)
    draws = torch.Generator().manual_seed(0)
    first, second = (guides.draw(torch.from_numpy(labels), draws) for _ in range(2))
    assert (first[1].numpy() != labels).all()
    assert (first[0] != second[0]).any()
    with pytest.raises(InvalidArgumentError, match="one class"):
        _Guides.of(checkpoint.network, score, images[:1])


def test_of_a_network_with_observers_only_these_are_imitated(chain: nn.Module) -> None:
    network = attach_observers(attach_gates(chain, torch.zeros(1, 3, 8, 8)), ObserverConfig(stages=1, bits=4))
    images = np.random.default_rng(0).random((60, 3, 8, 8), dtype=np.float32)
    honest = features_of(network.eval(), images * 255)
    fitted = FamilyDetector(DEFAULT, classes=5).fit(honest).fitted
    with torch.no_grad():
        seen = DetectorScore(fitted, network.layout).seen(network(torch.from_numpy(images)))
    np.testing.assert_allclose(seen, honest.gate_logits / fitted.combined.mahalanobis.scale, rtol=1e-4)
    assert seen.shape == (60, 4)
