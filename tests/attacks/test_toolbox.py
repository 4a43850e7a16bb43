"""Attacks keep their bounds, gates pass gradients to them, and gates that do not are noticed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from penstock.attacks import classifier as module
from penstock.attacks.classifier import MaskedGradientsWarning, live_bits
from penstock.attacks.pgd import PGD
from penstock.attacks.square import Square
from penstock.attacks.toolbox import FGSM, AdaptivePGD, Attack, AutoAttack, DeepFool, Transfer
from penstock.nn import gates
from penstock.nn.gates import GateConfig
from penstock.nn.path_network import PathNetwork
from penstock.nn.surgery import attach_gates

EPS = 0.1


@pytest.fixture
def network(chain: nn.Module) -> PathNetwork:
    torch.manual_seed(0)
    return attach_gates(chain, torch.zeros(1, 3, 8, 8), GateConfig(normalize=True)).eval()


@pytest.fixture
def images() -> module.Images:
    return np.random.default_rng(0).random((6, 3, 8, 8), dtype=np.float32)


def said(network: nn.Module, images: module.Images) -> module.Labels:
    with torch.no_grad():
        classes: module.Labels = network(torch.from_numpy(images)).logits.argmax(1).numpy()
    return classes


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(eps=EPS),
        Square(eps=EPS, queries=50),
        PGD(eps=EPS, step=0.02, steps=10),
    ],
)
def test_bounded_attacks_keep_their_bound_and_repeat_themselves(
    network: PathNetwork, images: module.Images, attack: Attack
) -> None:
    labels = said(network, images)
    attacked = attack(network, images, labels)
    assert attacked.dtype == np.float32
    assert 0 < np.abs(attacked - images).max() <= EPS + 1e-6
    assert 0 <= attacked.min() <= attacked.max() <= 1
    np.testing.assert_array_equal(attacked, attack(network, images, labels))


@pytest.mark.parametrize(
    "attack",
    [
        AutoAttack(eps=EPS, steps=10, restarts=1, queries=20),
        DeepFool(),
    ],
)
def test_attacks_that_go_on_until_they_succeed_turn_answers_of_a_linear_network(
    images: module.Images, attack: Attack
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(192, 5)
    linear = nn.Sequential(nn.Flatten(), layer)
    with torch.no_grad():
        layer.weight.mul_(30)  # answers as sure as those of a trained network
    labels: module.Labels = linear(torch.from_numpy(images)).argmax(1).numpy()
    attacked = attack(linear, images, labels)
    assert (linear(torch.from_numpy(attacked)).argmax(1).numpy() != labels).mean() > 0.8
    np.testing.assert_array_equal(attacked, attack(linear, images, labels))


@pytest.mark.parametrize("attack", [FGSM(eps=EPS), PGD(eps=EPS, steps=2), DeepFool(steps=2)])
def test_attacks_ask_for_no_gradients_of_parameters_and_leave_these_as_they_were(
    network: PathNetwork, images: module.Images, attack: Attack
) -> None:
    fixed = next(network.parameters()).requires_grad_(False)
    attack(network, images, said(network, images))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [each for each in network.parameters() if not each.requires_grad] == [fixed]


def test_adaptive_steps_ask_once_for_a_loss_and_its_gradient_and_come_to_the_same(
    network: PathNetwork, images: module.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, labels = AdaptivePGD(eps=EPS, steps=10, restarts=1), said(network, images)
    asked: list[int] = []
    handle = network.register_forward_hook(lambda *_: asked.append(1))
    attacked = attack(network, images, labels)
    once = len(asked)
    monkeypatch.setattr(module.LogitsOnly, "asked", asked_again)
    asked.clear()
    np.testing.assert_array_equal(attack(network, images, labels), attacked)
    handle.remove()
    assert (attacked != images).any()
    assert once <= len(asked) - 8  # of 20, beside the first and last answers


def asked_again(self: module.LogitsOnly, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        return leaf, self.answer(leaf)


def test_autoattack_leaves_alone_what_is_turned_already_and_what_it_cannot_turn_within_the_bound(
    network: PathNetwork, images: module.Images
) -> None:
    wrong = (said(network, images) + 1) % 5
    attack = AutoAttack(eps=1e-7, steps=2, restarts=1, queries=2)
    np.testing.assert_array_equal(attack(network, images, wrong), images)
    np.testing.assert_array_equal(attack(network, images, said(network, images)), images)


def test_of_two_classes_three_of_the_four_attacks_are_left() -> None:
    """The ratio of differences of logits compares three of them; the toolbox ends with an IndexError on two."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).eval()
    images = np.random.default_rng(0).random((6, 3, 8, 8), dtype=np.float32)
    with torch.no_grad():
        labels = linear(torch.from_numpy(images)).argmax(1).numpy()
    attack = AutoAttack(
        eps=1e-6, steps=5, restarts=1, queries=5
    )  # turns none, so that each attack has its turn
    attacked = attack(linear, images, labels)
    np.testing.assert_array_equal(attacked, images)


def test_a_transfer_is_made_on_the_other_network(
    network: PathNetwork, chain: nn.Module, images: module.Images
) -> None:
    labels = said(network, images)
    attack = FGSM(eps=EPS)
    transferred = Transfer(attack=attack, other=chain)(network, images, labels)
    np.testing.assert_array_equal(transferred, attack(chain, images, labels))
    assert (transferred != attack(network, images, labels)).any()


def test_gates_that_stop_gradients_are_warned_of(
    network: PathNetwork, images: module.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert min(live_bits(network, images).values()) > 0
    monkeypatch.setattr(gates, "binarize", lambda logits: (logits > 0).to(logits.dtype))
    assert set(live_bits(network, images).values()) == {0.0}
    with pytest.warns(MaskedGradientsWarning, match="worthless"):
        FGSM(eps=EPS)(network, images, said(network, images))
