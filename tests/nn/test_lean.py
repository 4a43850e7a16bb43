"""A lean network against the one that it stands for: the same answers and gradients, with less work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from penstock.nn.cascade import Cascade, confidence
from penstock.nn.gates import GateConfig
from penstock.nn.lean import lean
from penstock.nn.observers import ObserverConfig, attach_observers
from penstock.nn.path_network import GatedOutput, PathNetwork
from penstock.nn.prototypes import PrototypeConfig, attach_prototypes, set_prototypes
from penstock.nn.surgery import attach_gates


def member(residual: nn.Module, density: float) -> PathNetwork:
    """One static path, observed."""
    torch.manual_seed(round(10 * density))
    routed = attach_prototypes(
        attach_gates(residual, torch.zeros(1, 3, 16, 16)), PrototypeConfig(count=1, stages=(2, 2))
    )
    set_prototypes(routed, [torch.bernoulli(density + 0 * each.prototypes) for each in routed.routers])
    watched = attach_observers(routed, ObserverConfig(stages=2, bits=4)).train()
    watched(torch.rand(32, 3, 16, 16))  # batch norms that a fold has something to do with
    return watched.eval()


@pytest.fixture
def cascade(residual: nn.Module) -> Cascade:
    first, second = member(residual, 0.5), member(residual, 1.0)
    torch.manual_seed(3)
    with torch.no_grad():
        sure = confidence(first(torch.rand(8, 3, 16, 16)).logits).sort().values
    return Cascade(first, second, sure[3:5].mean().item(), blend=0.25).eval()


def gradient(network: PathNetwork, images: Tensor) -> tuple[GatedOutput, Tensor]:
    """What it answers, and how everything that attackers look at changes with the images."""
    x = images.clone().requires_grad_()
    output = network(x)
    watched = torch.cat(output.gate_logits, dim=1)[:, network.layout.watched]
    whole = output.logits.square().sum() + watched.square().sum() + output.active_macs.sum()
    (found,) = torch.autograd.grad(whole, x)
    return output, found


def test_a_lean_cascade_has_the_answers_and_gradients_of_the_whole_one(cascade: Cascade) -> None:
    torch.manual_seed(3)
    images = torch.rand(8, 3, 16, 16)
    (output, found), (wanted, whole) = gradient(lean(cascade), images), gradient(cascade, images)
    ran = torch.cat(wanted.codes, dim=1)[:, cascade.first.layout.bits]
    assert 0 < ran.sum() < 8
    torch.testing.assert_close(output.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    gate_logits = (torch.cat(each.gate_logits, dim=1) for each in (output, wanted))
    torch.testing.assert_close(*gate_logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.cat(output.codes, 1), torch.cat(wanted.codes, 1))
    assert torch.equal(output.active_macs, wanted.active_macs)
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4 * whole.abs().max().item())


def test_it_has_the_open_filters_alone_and_no_batch_norm_behind_them(cascade: Cascade) -> None:
    slim = lean(cascade)
    assert isinstance(slim, Cascade)
    sizes = [sum(each.numel() for each in network.first.parameters()) for network in (slim, cascade)]
    assert sizes[0] < 0.5 * sizes[1]
    counts = [
        sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) for network in (slim, cascade)
    ]
    assert counts[0] < 0.5 * counts[1]


def test_what_is_lean_stays_as_it_is(cascade: Cascade) -> None:
    images = torch.rand(3, 3, 16, 16)
    slim = lean(cascade)
    with torch.no_grad():
        assert torch.equal(lean(slim)(images).logits, slim(images).logits)


def test_gates_and_choices_are_left_alone(residual: nn.Module) -> None:
    gated = attach_gates(residual, torch.zeros(1, 3, 16, 16), GateConfig()).eval()
    routed = attach_prototypes(gated, PrototypeConfig(count=2, stages=(2, 2)))
    assert lean(gated) is gated
    assert lean(routed) is routed
