import numpy as np
import pytest
import torch
from torch import nn

from penstock.nn.gates import GateConfig
from penstock.nn.inference import answer
from penstock.nn.surgery import GatedNetwork, attach_gates


@pytest.fixture
def network(residual: nn.Module) -> GatedNetwork:
    torch.manual_seed(0)
    return attach_gates(residual, torch.zeros(1, 3, 8, 8), GateConfig(initial_logit=0.0))


@pytest.mark.parametrize("batch", [1, 4, 7, 100])
def test_answers_are_those_of_the_network_however_they_are_batched(batch: int, network: GatedNetwork) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), dtype=np.uint8)
    answers = answer(network, images, batch)
    with torch.no_grad():
        output = network(torch.from_numpy(images).float() / 255)
    np.testing.assert_allclose(answers.logits, output.logits, atol=1e-5)
    np.testing.assert_array_equal(answers.bits, torch.cat(output.codes, dim=1))
    np.testing.assert_allclose(answers.gate_logits, torch.cat(output.gate_logits, dim=1), atol=1e-5)
    np.testing.assert_allclose(answers.active_macs, network.layout.active_macs(answers.bits), atol=1e-6)
    assert answers.bits.dtype == np.uint8
    assert answers.accuracy(answers.predicted) == 1.0


def test_gates_are_hard_and_the_mode_is_restored(network: GatedNetwork) -> None:
    images = np.zeros((3, 3, 8, 8), np.uint8)
    once = answer(network.train(), images)
    assert network.training
    assert np.array_equal(once.bits, answer(network.eval(), images).bits)
    assert not network.training
