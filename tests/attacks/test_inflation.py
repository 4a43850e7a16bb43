"""Compute inflation opens what can be opened, and no network costs more than the bound says."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from penstock.attacks.classifier import Images
from penstock.attacks.inflation import Inflation, bound
from penstock.data import load
from penstock.nn.cascade import Cascade, confidence
from penstock.nn.checkpoint import load_source
from penstock.nn.gates import GateConfig
from penstock.nn.inference import answer
from penstock.nn.observers import ObserverConfig, attach_observers
from penstock.nn.path_network import PathNetwork
from penstock.nn.prototypes import ConsolidatedNetwork, PrototypeConfig, attach_prototypes, set_prototypes
from penstock.nn.surgery import attach_gates

Static = Callable[[float], ConsolidatedNetwork]


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(0).random((40, 3, 8, 8), dtype=np.float32)


@pytest.fixture
def static(chain: nn.Module) -> Static:
    """Makes a network of one prototype, with so large a share of its filters."""

    def make(share: float) -> ConsolidatedNetwork:
        gated = attach_gates(chain, torch.zeros(1, 3, 8, 8), GateConfig()).eval()
        network = attach_prototypes(
            gated, PrototypeConfig(count=1, stages=(len(gated.layout.layers),))
        ).eval()
        bits = sum(network.routers[0].filters)
        set_prototypes(network, [(torch.arange(bits) % 10 < 10 * share).float()[None]])
        return network

    return make


@pytest.fixture
def cascade(static: Static, images: Images) -> Cascade:
    """Two static networks, the first with an observer; nine images of ten do with the first."""
    torch.manual_seed(0)
    first = attach_observers(static(0.4), ObserverConfig(stages=1, bits=4)).eval()
    assert isinstance(first, PathNetwork)
    with torch.no_grad():
        sure = confidence(first(torch.from_numpy(images)).logits)
    return Cascade(first, static(0.7), sure.quantile(0.1).item()).eval()


def cost(network: PathNetwork, images: Images) -> np.ndarray:
    found: np.ndarray = answer(network, images * 255).active_macs
    return found


def test_inflation_costs_more_and_never_more_than_the_bound() -> None:
    if not os.environ.get("PENSTOCK_DATA"):
        pytest.skip("PENSTOCK_DATA is not set: no CIFAR-10 images to attack")
    network = load_source("zoo:resnet20-cifar10")[0].network
    images = load("cifar10").test.take(np.arange(12)).floats()
    after = cost(network, Inflation(steps=10)(network, images))
    assert after.mean() > cost(network, images).mean() + 0.01
    assert after.max() <= bound(network)


def test_it_makes_a_cascade_unsure(cascade: Cascade, images: Images) -> None:
    before = cost(cascade, images)
    assert before.max() > before.min()
    after = cost(cascade, Inflation(steps=20)(cascade, images))
    assert (after >= before).all()
    assert (after > before).mean() > 0.5


def test_of_a_cascade_both_members_are_the_bound(cascade: Cascade, images: Images) -> None:
    assert cost(cascade, images).max() == pytest.approx(bound(cascade))
    everything = cascade.layout.active_macs(np.ones((1, cascade.layout.bits)))[0]
    assert bound(cascade) < 0.8 * everything


def test_what_is_at_the_bound_is_left_alone(static: Static, images: Images) -> None:
    network = static(0.5)
    np.testing.assert_array_equal(Inflation(steps=3)(network, images), images)


def test_images_are_attacked_alike_in_any_batch(
    cascade: Cascade, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Inflation(steps=5)(cascade, images)
    monkeypatch.setattr("penstock.attacks.inflation.BATCH", 7)
    np.testing.assert_allclose(Inflation(steps=5)(cascade, images), whole, atol=1e-6)


def test_the_bound_of_prototypes_is_that_of_the_costliest(chain: nn.Module) -> None:
    gated = attach_gates(chain, torch.zeros(1, 3, 8, 8), GateConfig()).eval()
    network = attach_prototypes(gated, PrototypeConfig(count=2, stages=(len(gated.gated_layers),)))
    everything = bound(network)
    for router in network.routers:
        router.prototypes[:, ::2] = 0
    assert bound(network) < everything
