"""Baselines on networks of which a part runs for some images only."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from penstock.attacks.baselines import NAMES, Fitted, channel_weights, fit_baselines, log_spectrum, read
from penstock.attacks.classifier import Images
from penstock.nn.backbones import build_backbone
from penstock.nn.cascade import Cascade, confidence
from penstock.nn.gates import GateConfig
from penstock.nn.prototypes import PrototypeConfig, attach_prototypes, set_prototypes, stages_by_size
from penstock.nn.surgery import attach_gates


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    """Its second member runs for half of the images."""
    torch.manual_seed(0)
    example = torch.zeros(1, 1, 8, 8)
    first, second = (
        attach_gates(build_backbone("digits-cnn", 10), example, GateConfig()).eval() for _ in range(2)
    )
    with torch.no_grad():
        sure = confidence(first(torch.from_numpy(images(1))).logits).median().item()
    return Cascade(first, second, sure).eval()


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((60, 1, 8, 8), dtype=np.float32)


def test_features_are_those_of_the_member_that_sees_every_image(cascade: Cascade) -> None:
    seen = read(cascade, images(1))
    with torch.no_grad():
        output = cascade(torch.from_numpy(images(1)))
    np.testing.assert_array_equal(seen.logits, output.logits.numpy())
    assert 0 < output.codes[len(cascade.first.layout.layers)].mean() < 1
    np.testing.assert_array_equal(seen.features, read(cascade.first, images(1)).features)


@pytest.mark.parametrize("name", NAMES)
def test_each_scores_every_image(cascade: Cascade, name: str) -> None:
    kept: dict[str, Fitted] = {}

    def keep(name: str, make: Callable[[], Fitted]) -> Fitted:
        return kept.setdefault(name, kept[name] if name in kept else make())

    score = fit_baselines([name], cascade, lambda: images(2), keep)[name]
    seen = read(cascade, images(3))
    found = score(seen)
    assert found.shape == (60,)
    assert np.isfinite(found).all()
    assert np.ptp(found) > 0

    def never() -> np.ndarray:
        raise AssertionError("what is kept needs no images")

    again = fit_baselines([name], cascade, never, keep)[name]
    np.testing.assert_array_equal(again(seen), found)


def test_what_costs_too_much_is_fitted_on_images_spread_over_all(cascade: Cascade) -> None:
    seen = read(cascade, images(1))
    few = seen.spread(4)
    np.testing.assert_array_equal(few.images, seen.images[[0, 19, 39, 59]])
    np.testing.assert_array_equal(few.logits, seen.logits[[0, 19, 39, 59]])
    np.testing.assert_array_equal(seen.spread(1000).features, seen.features)


def test_channels_that_are_always_closed_have_no_weights(chain: nn.Module) -> None:
    sure = copy.deepcopy(chain)  # of its answers, so that weights matter
    with torch.no_grad():
        sure.get_parameter("linear.weight").mul_(30)
    gated = attach_gates(sure, torch.zeros(1, 3, 8, 8), GateConfig()).eval()
    network = attach_prototypes(gated, PrototypeConfig(count=1, stages=stages_by_size(gated))).eval()
    torch.manual_seed(0)
    set_prototypes(network, [torch.bernoulli(0 * each.prototypes + 0.5) for each in network.routers])
    wide = network.routers[0].prototypes[0].numpy() > 0
    shown = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
    masked = channel_weights(nn.Sequential(network), shown)  # a network that does not say what it is
    found = channel_weights(network, shown)
    np.testing.assert_allclose(found, masked[:, np.concatenate([np.ones(8, bool), wide])], atol=1e-4)
    assert np.ptp(found, axis=0).max() > 0.001


@pytest.mark.parametrize("own_norms", [True, False])
def test_channels_have_weights_where_prototypes_have_norms_of_their_own(
    chain: nn.Module, own_norms: bool
) -> None:
    gated = attach_gates(chain, torch.zeros(1, 3, 8, 8), GateConfig()).eval()
    config = PrototypeConfig(count=2, stages=stages_by_size(gated), own_norms=own_norms)
    network = attach_prototypes(gated, config).eval()
    shown = np.random.default_rng(0).random((6, 3, 8, 8), dtype=np.float32)
    # All prototypes are all ones, and their norms alike: so it is the network without any, but for the closed masks.
    np.testing.assert_allclose(
        channel_weights(network, shown), channel_weights(copy.deepcopy(chain), shown), atol=1e-4
    )


def test_where_there_are_no_norms_convolutions_have_weights() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)),
    ).eval()
    gated = attach_gates(copy.deepcopy(plain), torch.zeros(1, 1, 8, 8), GateConfig()).eval()
    assert channel_weights(plain, images(1)).shape == channel_weights(gated, images(1)).shape == (60, 10)


def test_bytes_are_read_as_floats_are(cascade: Cascade) -> None:
    shown = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    floats: Images = np.divide(shown, 255, dtype=np.float32)
    for of_bytes, of_floats in (
        (read(cascade, shown).logits, read(cascade, floats).logits),
        (log_spectrum(shown), log_spectrum(floats)),
    ):
        np.testing.assert_array_equal(of_bytes, of_floats)
