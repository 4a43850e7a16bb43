"""Gates that no image moves are taken away, and nothing changes for the images that this was found with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.nn.backbones import build_backbone
from penstock.nn.gates import GateConfig
from penstock.nn.inference import answer
from penstock.nn.settling import settle
from penstock.nn.surgery import GatedNetwork, attach_gates

IMAGES = np.random.default_rng(0).integers(0, 256, size=(12, 1, 8, 8), dtype=np.uint8)


@pytest.fixture
def network() -> GatedNetwork:
    """Random gates, of which some are open for all images, some for none."""
    torch.manual_seed(1)
    gated = attach_gates(build_backbone("digits-cnn", 10), torch.zeros(1, 1, 8, 8), GateConfig()).eval()
    for layer in gated.gated_layers:
        torch.nn.init.normal_(layer.gate.expand.weight, std=4.0)
        torch.nn.init.normal_(layer.gate.expand.bias)
    return gated


def test_the_images_gone_by_get_the_same_answers(network: GatedNetwork) -> None:
    before = answer(network, IMAGES)
    settled = settle(network, before.bits)
    after = answer(settled.network, IMAGES)
    np.testing.assert_array_equal(after.bits, before.bits)
    np.testing.assert_array_equal(after.logits, before.logits)
    moving = (before.bits != before.bits[0]).any(axis=0)
    assert settled.asked == moving.sum() > 0
    assert settled.opened == before.bits.all(axis=0).sum() > 0
    assert settled.closed == (~before.bits.any(axis=0)).sum() > 0
    np.testing.assert_array_equal(after.gate_logits[:, moving], before.gate_logits[:, moving])


def test_other_images_cannot_move_a_settled_filter_and_the_original_stays(network: GatedNetwork) -> None:
    few = answer(network, IMAGES[:2]).bits
    settled = settle(network, few)
    still = few[0] == few[1]
    bits = answer(settled.network, IMAGES).bits
    assert (bits[:, still] == few[0, still]).all()
    assert (answer(network, IMAGES).bits[:, still] != few[0, still]).any()


def test_prototypes_and_no_images_are_refused(network: GatedNetwork) -> None:
    with pytest.raises(InvalidArgumentError, match="no images"):
        settle(network, np.zeros((0, network.layout.bits), np.uint8))
    with pytest.raises(UnsupportedError, match="prototype"):
        settle(torch.nn.Identity(), np.zeros((1, 1), np.uint8))  # type: ignore[arg-type]
