"""Carlini and Wagner's attack finds the least change where that is known, and no larger one than the toolbox's form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from penstock.attacks import classifier as module
from penstock.attacks.carlini import CarliniL2, _Search
from penstock.attacks.classifier import MaskedGradientsWarning, seeded, toolbox_classifier
from penstock.nn import gates
from penstock.nn.gates import GateConfig
from penstock.nn.surgery import attach_gates


@pytest.fixture
def images() -> module.Images:
    """Far from black and white, so that the least change is not cut off there."""
    drawn = np.random.default_rng(0).random((40, 3, 8, 8), dtype=np.float32)
    return (drawn + np.float32(1)) / np.float32(3)


@pytest.fixture
def linear() -> nn.Sequential:
    torch.manual_seed(0)
    layer = nn.Linear(192, 5)
    with torch.no_grad():
        layer.weight.mul_(10)
    return nn.Sequential(nn.Flatten(), layer)


def said(network: nn.Module, images: module.Images) -> torch.Tensor:
    with torch.no_grad():
        answer = network(torch.from_numpy(images))
    logits: torch.Tensor = answer if isinstance(answer, torch.Tensor) else answer.logits
    return logits


def lengths(changed: module.Images, images: module.Images) -> module.Images:
    moved: module.Images = np.sqrt(((changed - images) ** 2).sum(axis=(1, 2, 3)))
    return moved


def least(linear: nn.Sequential, images: module.Images) -> module.Images:
    """The distance of the nearest boundary between the class that is said and another."""
    layer, logits = linear[1], said(linear, images).double()
    own = logits.argmax(1)
    assert isinstance(layer, nn.Linear)
    normals = (layer.weight.double()[None] - layer.weight.double()[own][:, None]).norm(dim=2)
    distances = (logits.gather(1, own[:, None]) - logits) / normals  # 0 / 0 for the class itself
    found: module.Images = distances.nan_to_num(nan=torch.inf).amin(dim=1).detach().float().numpy()
    return found


def test_on_a_linear_network_the_change_is_the_least_there_is(
    linear: nn.Sequential, images: module.Images
) -> None:
    labels = said(linear, images).argmax(1).numpy()
    attacked = CarliniL2(searches=8, steps=200)(linear, images, labels)
    assert (said(linear, attacked).argmax(1).numpy() != labels).all()
    moved, needed = lengths(attacked, images), least(linear, images)
    assert (moved > 0.999 * needed).all()
    assert np.median(moved / needed) < 1.05
    # Adam's first step moves every value by its rate, whatever the need: about 0.01 / 2 in each of 192.
    assert (moved < 1.1 * needed + 0.1).all()
    np.testing.assert_array_equal(attacked, CarliniL2(searches=8, steps=200)(linear, images, labels))


def test_a_weight_that_does_not_keep_an_image_misread_is_raised(
    linear: nn.Sequential, images: module.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[torch.Tensor] = []
    descend = _Search._descend

    def watched(search: _Search, weight: torch.Tensor) -> torch.Tensor:
        weights.append(weight)
        return descend(search, weight)

    monkeypatch.setattr(_Search, "_descend", watched)
    images = images[least(linear, images) > 0.1]
    labels = said(linear, images).argmax(1).numpy()
    CarliniL2(searches=8, steps=100)(linear, images, labels)
    tried = torch.stack(weights)
    # The first weight suffices, so halving goes on until a search from a success ends on the right side.
    assert (tried[1] == tried[0] / 2).all()
    assert ((tried[1:] > tried[:-1]).any(dim=0)).all()


def test_confidence_is_a_lead_of_the_wrong_class(linear: nn.Sequential, images: module.Images) -> None:
    labels = said(linear, images).argmax(1).numpy()
    attacked = CarliniL2(confidence=2.0, steps=200)(linear, images, labels)
    logits = said(linear, attacked).numpy()
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    assert (others.max(axis=1) - logits[rows, labels] >= 2.0).all()


def test_changes_are_no_larger_than_those_of_the_toolbox(
    linear: nn.Sequential, images: module.Images
) -> None:
    images = images[least(linear, images) > 0.1][:4]
    labels = said(linear, images).argmax(1).numpy()
    from art.attacks.evasion import CarliniL2Method

    with seeded(0):
        theirs = CarliniL2Method(
            toolbox_classifier(linear, images), max_iter=20, binary_search_steps=4, verbose=False
        ).generate(images, labels)
    assert (said(linear, theirs).argmax(1).numpy() != labels).all()
    ours = CarliniL2(searches=4, steps=100)(linear, images, labels)
    assert (said(linear, ours).argmax(1).numpy() != labels).all()
    assert lengths(ours, images).mean() <= 1.02 * lengths(theirs, images).mean()


def test_gates_that_stop_gradients_are_warned_of(
    chain: nn.Module, images: module.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = attach_gates(chain, torch.zeros(1, 3, 8, 8), GateConfig(normalize=True)).eval()
    monkeypatch.setattr(gates, "binarize", lambda logits: (logits > 0).to(logits.dtype))
    labels = said(network, images).argmax(1).numpy()
    with pytest.warns(MaskedGradientsWarning, match="worthless"):
        CarliniL2(searches=1, steps=1)(network, images, labels)
