"""Our Square against the toolbox's, and what makes it cheap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from penstock.attacks import square
from penstock.attacks.classifier import Images, Labels, seeded, toolbox_classifier
from penstock.attacks.square import Square

EPS, QUERIES = 0.05, 150


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Small convolutions that answer surely enough to stand some squares."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(72, 5)
    )
    return layers.eval()


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(0).random((60, 3, 12, 12), dtype=np.float32)


def said(network: nn.Module, images: Images) -> Labels:
    with torch.no_grad():
        labels: Labels = network(torch.from_numpy(images)).argmax(1).numpy()
    return labels


def test_it_turns_as_many_as_the_toolbox_within_the_bound(network: nn.Module, images: Images) -> None:
    from art.attacks.evasion import SquareAttack

    labels = said(network, images)
    attacked = Square(eps=EPS, queries=QUERIES)(network, images, labels)
    assert attacked.dtype == np.float32
    assert np.abs(attacked - images).max() <= EPS + 1e-6
    assert 0 <= attacked.min() <= attacked.max() <= 1
    with seeded(0):
        toolbox = SquareAttack(
            toolbox_classifier(network, images), norm=np.inf, eps=EPS, max_iter=QUERIES, verbose=False
        )
        theirs = toolbox.generate(images, labels)
    turned = [(said(network, each) != labels).mean() for each in (attacked, theirs)]
    assert 0.1 < turned[1] < 0.95
    assert turned[0] >= turned[1] - 0.05


def test_each_image_is_asked_once_a_query_and_not_once_it_is_turned(
    network: nn.Module, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(square, "BATCH", 16)
    labels = said(network, images)
    sizes: list[int] = []
    handle = network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    attacked = Square(eps=EPS, queries=QUERIES)(network, images, labels)
    handle.remove()
    held = int((said(network, attacked) == labels).sum())
    assert held * QUERIES <= sum(sizes) < (held + 0.7 * (60 - held)) * QUERIES
    # Full batches while somebody waits: 44 of the 60 had to wait for a place.
    full = sum(size == 16 for size in sizes)
    assert full * 16 > 0.5 * sum(sizes)


def test_squares_are_of_the_size_that_the_schedule_says(images: Images) -> None:
    attack = Square(eps=EPS, queries=1000)
    x = torch.full((4, 3, 12, 12), 0.5)
    moved = attack._moved(x, torch.tensor([0, 1, 30, 999]), torch.Generator().manual_seed(0)) - x
    assert [int(one.ne(0).any(0).sum()) for one in moved] == [144, 121, 16, 1]
    np.testing.assert_allclose(moved[0].abs(), EPS, atol=1e-6)
    np.testing.assert_allclose(moved[2][moved[2] != 0].abs(), 2 * EPS, atol=1e-6)
