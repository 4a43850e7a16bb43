import numpy as np
import torch
from torch import nn

from penstock.attacks.pgd import PGD
from penstock.nn.gates import GateConfig
from penstock.nn.surgery import attach_gates


def test_an_attack_keeps_within_its_bounds_and_raises_the_loss_of_a_network_in_training(
    chain: nn.Module,
) -> None:
    torch.manual_seed(0)
    network = attach_gates(chain, torch.zeros(1, 3, 8, 8), GateConfig(normalize=True)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = np.random.default_rng(0).random((6, 3, 8, 8), dtype=np.float32)
    labels = np.arange(6) % 5
    attacked = PGD(eps=0.1, step=0.02, steps=10)(network, images, labels)

    assert attacked.dtype == np.float32
    assert attacked.shape == images.shape
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert np.abs(attacked - images).max() <= 0.1 + 1e-6
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    losses = [
        nn.functional.cross_entropy(network.eval()(torch.from_numpy(x)).logits, torch.from_numpy(labels))
        for x in (images, attacked)
    ]
    assert losses[1] > losses[0]


def test_an_attack_gives_the_same_again(chain: nn.Module) -> None:
    network = attach_gates(chain, torch.zeros(1, 3, 8, 8)).eval()
    images = np.random.default_rng(1).random((3, 3, 8, 8), dtype=np.float32)
    attack = PGD(steps=3)
    assert (attack(network, images, np.arange(3)) == attack(network, images, np.arange(3))).all()
