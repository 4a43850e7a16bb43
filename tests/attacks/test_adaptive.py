"""The attacker's detector is the detector, and the adaptive attacks break what is known to be undefended."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penstock.attacks import adaptive
from penstock.attacks.adaptive import METHODS, Adaptive, _Guides, _Victim
from penstock.attacks.classifier import Images, Labels, lead
from penstock.attacks.detector_score import DetectorScore
from penstock.data import load
from penstock.detect import FamilyDetector, FamilyScore, PathDetector, PathFeatures
from penstock.detect.recipe import DEFAULT
from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.nn.checkpoint import Checkpoint, load_source
from penstock.nn.detecting import features_of
from penstock.nn.inference import answer
from penstock.nn.observers import ObserverConfig, attach_observers
from penstock.nn.path_network import GatedOutput
from penstock.nn.surgery import attach_gates
from tests.attacks.never_flags import NeverFlags


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
    right, rows = torch.from_numpy(labels), torch.arange(len(labels))
    guides = _Guides.of(checkpoint.network, score, images, images, right)
    with torch.no_grad():
        own = score.seen(checkpoint.network(torch.from_numpy(images)))
    seen, classes = guides.imitated(rows)
    assert (classes != right).all()
    for image in range(len(labels)):
        others = own[guides.classes != right[image]]
        assert (seen[image] - own[image]).norm() == pytest.approx(
            (others - own[image]).norm(dim=1).min().item()
        )
    guides.draw(rows, torch.Generator().manual_seed(0))
    again, classes = guides.imitated(rows)
    assert (classes != right).all()
    assert (again != seen).any()
    with pytest.raises(InvalidArgumentError, match="one class"):
        _Guides.of(checkpoint.network, score, images[:1], images, right)


class Doubts(NeverFlags):
    """Grows as the lead of the right class shrinks: whoever frees one gradient of the other has nothing left."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.labels = torch.from_numpy(labels)

    def forward(self, output: GatedOutput) -> Tensor:
        """``[N]``: minus the lead."""
        return -lead(output.logits, self.labels)


def test_orthogonal_goes_the_way_of_the_gradients_themselves_in_its_second_start(
    checkpoint: Checkpoint, victims: tuple[Images, Labels]
) -> None:
    images, labels = victims[0][:1], victims[1][:1]
    turned = []
    for restarts in (1, 2):
        attack = Adaptive(method="orthogonal", steps=25, restarts=restarts, eps=4 / 255)
        attacked = attack(checkpoint.network, Doubts(labels), 1e6, images, labels)
        turned.append(answer(checkpoint.network, attacked * 255).predicted[0] != labels[0])
    assert turned == [False, True]


class NeverSure(NeverFlags):
    """Flags everything, whatever it sees."""

    def forward(self, output: GatedOutput) -> Tensor:
        """``[N]`` ones."""
        return output.logits[:, 0] * 0 + 1


def test_each_start_weighs_the_detector_by_how_the_one_before_ended(
    checkpoint: Checkpoint, victims: tuple[Images, Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = victims
    weights: list[list[float]] = []
    joint = Adaptive._joint

    def watched(self: Adaptive, victim: _Victim, *args: Any) -> Tensor:
        weights.append(victim.weight.tolist())
        return joint(self, victim, *args)

    monkeypatch.setattr(Adaptive, "_joint", watched)
    for score, eps, wanted in ((NeverSure(), 8 / 255, 10.0), (NeverFlags(), 1e-6, 0.1)):
        weights.clear()
        Adaptive(steps=20, restarts=2, eps=eps)(checkpoint.network, score, 0.5, images[:3], labels[:3])
        assert weights[0] == [1.0] * 3
        assert weights[-1] == pytest.approx([wanted] * 3)


def test_of_a_network_with_observers_only_these_are_imitated(chain: nn.Module) -> None:
    network = attach_observers(attach_gates(chain, torch.zeros(1, 3, 8, 8)), ObserverConfig(stages=1, bits=4))
    images = np.random.default_rng(0).random((60, 3, 8, 8), dtype=np.float32)
    honest = features_of(network.eval(), images * 255)
    fitted = FamilyDetector(DEFAULT, classes=5).fit(honest).fitted
    with torch.no_grad():
        seen = DetectorScore(fitted, network.layout).seen(network(torch.from_numpy(images)))
    np.testing.assert_allclose(seen, honest.gate_logits / fitted.combined.mahalanobis.scale, rtol=1e-4)
    assert seen.shape == (60, 4)
