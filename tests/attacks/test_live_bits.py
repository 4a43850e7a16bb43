"""Which deciders pass gradients: none that is masked goes unnoticed, and none saturates."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from penstock.attacks.classifier import (
    Images,
    MaskedGradientsWarning,
    live_bits,
    warn_of_masked_gradients,
)
from penstock.nn import cascade as cascades
from penstock.nn import gates
from penstock.nn.cascade import RAN, Cascade
from penstock.nn.gates import GateConfig, saturating_slope, sigmoid_slope, straight_through
from penstock.nn.observers import ObserverConfig, attach_observers
from penstock.nn.prototypes import PrototypeConfig, attach_prototypes
from penstock.nn.surgery import GatedNetwork, attach_gates

IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def gated(chain: nn.Module) -> GatedNetwork:
    torch.manual_seed(0)
    return attach_gates(chain, IMAGE, GateConfig(normalize=True)).eval()


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(0).random((6, 3, 8, 8), dtype=np.float32)


@pytest.fixture
def cascade(gated: GatedNetwork) -> Cascade:
    """A static network with an observer, sure of every image, before one with gates."""
    static = attach_prototypes(gated, PrototypeConfig(count=1, stages=(len(gated.layout.layers),)))
    return Cascade(attach_observers(static, ObserverConfig(stages=1, bits=4)), gated, 0.01).eval()


def test_of_a_cascade_the_choice_of_member_and_the_seconds_gates_decide(
    cascade: Cascade, images: Images
) -> None:
    shares = live_bits(cascade, images)
    assert list(shares) == [RAN, *(f"second.{name}" for name in cascade.second.layout.names)]
    assert min(shares.values()) > 0  # of the second's too, though it answers none of these images


def test_a_masked_choice_is_noticed_beside_observers_that_pass(
    cascade: Cascade, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_masked_gradients(cascade, images)
    monkeypatch.setattr(cascades, "straight_through", lambda hard, _: hard)
    with pytest.warns(MaskedGradientsWarning, match=r"1 of \d+ layers that decide \(second\)"):
        warn_of_masked_gradients(cascade, images)


def test_answers_follow_the_choice_of_member_where_the_second_ran(
    cascade: Cascade, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.from_numpy(images).requires_grad_()
    with torch.no_grad():
        sure = cascades.confidence(cascade.first(x).logits)
    cascade.threshold.fill_(
        sure.median()
    )  # of six, the lower of the two in the middle: two images are unsure
    unsure = sure < cascade.threshold
    assert 0 < unsure.sum() < len(unsure)
    cascade.blend.fill_(1.0)  # the two members are alike: by itself the second would change nothing

    def asked() -> tuple[torch.Tensor, torch.Tensor]:
        logits = cascade(x).logits
        return logits.detach(), torch.autograd.grad(logits[:, 0].sum(), x)[0].flatten(1)

    logits, through = asked()
    with monkeypatch.context() as patch:
        patch.setattr(cascades, "straight_through", lambda hard, _: hard)
        masked_logits, masked = asked()
    assert torch.equal(logits, masked_logits)
    assert ((through != masked).any(1) == unsure).all()


def test_one_masked_layer_is_noticed_among_others(
    gated: GatedNetwork, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = gated.gated_layers[0].gate

    def forward(x: torch.Tensor) -> gates.GateCode:
        code, logits = gates.Gate.forward(masked, x)
        return gates.GateCode(code.detach(), logits)

    monkeypatch.setattr(masked, "forward", forward)
    with pytest.warns(MaskedGradientsWarning, match=rf"\({gated.layout.names[0]}\)"):
        warn_of_masked_gradients(gated, images)


def test_a_gate_that_says_the_same_of_all_images_is_not_masked(gated: GatedNetwork, images: Images) -> None:
    nn.init.zeros_(gated.gated_layers[0].gate.reduce.weight)
    assert list(live_bits(gated, images)) == list(gated.layout.names[1:])


def test_gates_far_from_their_threshold_are_alive(gated: GatedNetwork, images: Images) -> None:
    before = live_bits(gated, images)
    for layer in gated.gated_layers:
        nn.init.constant_(layer.gate.expand.bias, 20.0)
    assert live_bits(gated, images) == before


def test_the_choice_of_a_sure_network_has_a_gradient() -> None:
    logits = torch.tensor([[60.0, 0.0, 1.0]], requires_grad=True)
    assert cascades.confidence(logits).item() == 1
    (gradient,) = torch.autograd.grad(cascades.log_odds(logits).sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -0.26894142, -0.73105858]]))


@pytest.mark.parametrize("slope", [sigmoid_slope, saturating_slope])
def test_what_is_decided_is_exact_and_its_slope_the_one_asked_for(slope: gates.Slope) -> None:
    logits = torch.tensor([-30.0, -2.0, 0.5, 30.0], requires_grad=True)
    hard = torch.tensor([1.0, 0.0, 1.0, 0.0])
    decided = straight_through(hard, logits, slope)
    assert torch.equal(decided, hard)
    (gradient,) = torch.autograd.grad(decided.sum(), logits)
    torch.testing.assert_close(gradient, slope(logits.detach()))
    assert (gradient != 0).all() == (slope is sigmoid_slope)


def test_routers_that_choose_pass_gradients_until_they_are_far_too_sure(
    gated: GatedNetwork, images: Images
) -> None:
    config = PrototypeConfig(count=2, stages=(len(gated.layout.layers),))
    network = attach_prototypes(gated, config).eval()
    (router,) = network.routers
    torch.manual_seed(0)
    router.prototypes.copy_(torch.rand_like(router.prototypes).round())
    assert min(live_bits(network, images).values()) > 0
    with torch.no_grad():
        router.expand.weight.mul_(1e5)
        router.expand.bias.mul_(1e5)
    with pytest.warns(MaskedGradientsWarning):
        warn_of_masked_gradients(network, images)
