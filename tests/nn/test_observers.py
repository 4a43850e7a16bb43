"""Observers against the networks that they are put on."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
import torch
import torchvision.models as models
from torch import nn

from penstock.errors import InvalidArgumentError
from penstock.nn.assembly import Member, assemble
from penstock.nn.backbones import build_backbone
from penstock.nn.cascade import Cascade
from penstock.nn.gates import GateConfig
from penstock.nn.observers import (
    ObserverConfig,
    attach_observers,
    observers_of,
    stage_ends,
    unruled,
)
from penstock.nn.operators import shape_of
from penstock.nn.prototypes import PrototypeConfig, attach_prototypes, set_prototypes
from penstock.nn.surgery import GatedNetwork, attach_gates

IMAGE = torch.zeros(1, 3, 16, 16)
CONFIG = ObserverConfig(stages=2, bits=5)


@pytest.fixture(scope="module")
def gated(residual: nn.Module) -> GatedNetwork:
    torch.manual_seed(0)
    return attach_gates(residual, IMAGE, GateConfig(initial_logit=0.0)).eval()


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: build_backbone("resnet20", 10), 32),
        (lambda: build_backbone("vgg16", 10), 32),
        (lambda: build_backbone("densenet40", 10), 32),
        (lambda: build_backbone("mnasnet", 10), 32),
        (lambda: build_backbone("squeezenet1_1", 25), 64),
        (lambda: models.resnet18(), 64),
        (lambda: models.googlenet(init_weights=False, aux_logits=False), 64),
    ],
)
def test_a_dense_network_answers_the_same_to_the_bit(build: Callable[[], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    dense = build().eval()
    images = torch.rand(2, 3, size, size)
    observed = attach_observers(unruled(dense, images[:1]), ObserverConfig(stages=9))
    with torch.no_grad():
        output = observed(images)
        assert torch.equal(output.logits, dense(images))
    sizes = [shape_of(node)[2] for node in stage_ends(unruled(dense, images[:1]))]
    assert len(output.codes) == len(sizes) >= 3
    assert sizes == sorted(sizes, reverse=True)
    assert not observed.layout.rules.any()


def test_gated_networks_and_prototypes_keep_their_answers_and_their_paths(gated: GatedNetwork) -> None:
    prototypes = attach_prototypes(gated, PrototypeConfig(count=3, stages=(2, 2))).eval()
    set_prototypes(prototypes, [torch.rand_like(router.prototypes).round() for router in prototypes.routers])
    images = torch.rand(6, 3, 16, 16)
    for network in (gated, prototypes):
        observed = attach_observers(network, CONFIG)
        assert type(observed) is type(network)
        assert observed.gated_layers or network is prototypes
        with torch.no_grad():
            before, after = network(images), observed(images)
        assert torch.equal(before.logits, after.logits)
        count = len(before.codes)
        assert all(torch.equal(a, b) for a, b in zip(before.codes, after.codes[:count], strict=True))
        assert [code.shape for code in after.codes[count:]] == [(6, 5), (6, 5)]
        assert torch.equal(after.codes[-1], (after.gate_logits[-1] > 0).float())


def test_what_they_cost_is_counted(gated: GatedNetwork) -> None:
    observed = attach_observers(gated, CONFIG)
    pooled = sum(prod(shape_of(node)) for node in stage_ends(gated)[-2:])
    gates = sum(observer.gate.macs for observer in observers_of(observed))
    assert observed.layout.fixed_macs - gated.layout.fixed_macs == pooled + gates
    assert observed.layout.layers[: len(gated.layout.layers)] == gated.layout.layers


def test_a_cascade_has_them_on_its_first_member(gated: GatedNetwork) -> None:
    cascade = Cascade(attach_observers(gated, CONFIG), gated, threshold=2.0).eval()
    plain = Cascade(gated, gated, threshold=2.0).eval()
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(cascade(images).logits, plain(images).logits)
    watched = cascade.layout.watched
    assert watched.stop - watched.start == 10
    assert not cascade.layout.rules[watched].any()
    assert cascade.layout.rules.sum() == plain.layout.bits


def test_they_are_put_together_again_from_a_checkpoints_members(residual: nn.Module) -> None:
    for gate in (None, GateConfig()):
        member = Member(gate=gate, observers=CONFIG)
        network, again = (assemble(residual, IMAGE, [member]).eval() for _ in range(2))
        again.load_state_dict(network.state_dict())
        images = torch.rand(3, 3, 16, 16)
        with torch.no_grad():
            assert torch.equal(network(images).gate_logits[-1], again(images).gate_logits[-1])


def test_what_has_observers_gets_neither_more_of_them_nor_prototypes(gated: GatedNetwork) -> None:
    observed = attach_observers(gated, CONFIG)
    with pytest.raises(InvalidArgumentError, match="has a module named 'observers' already"):
        attach_observers(observed, CONFIG)
    with pytest.raises(InvalidArgumentError, match="has observers: give prototypes"):
        attach_prototypes(observed, PrototypeConfig(count=2, stages=(2, 2)))
    with pytest.raises(InvalidArgumentError, match=r"ObserverConfig\.bits is 0"):
        ObserverConfig(bits=0)
