"""torchvision's classifiers as backbones: its answers to normalised images, under its names."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torchvision.models as models

from penstock.errors import InvalidArgumentError
from penstock.learn.weights import load_weights
from penstock.nn.backbones import build_backbone
from penstock.nn.surgery import attach_gates

GATES = {
    "resnet18": 19,
    "resnet50": 52,
    "vgg16_bn": 12,
    "googlenet": 56,
    "densenet121": 119,
    "mobilenet_v2": 34,
    "squeezenet1_1": 24,
}
OF_IMAGENET = {"mean": torch.tensor([0.485, 0.456, 0.406]), "std": torch.tensor([0.229, 0.224, 0.225])}


def normalized(images: torch.Tensor) -> torch.Tensor:
    mean, std = (value[:, None, None] for value in OF_IMAGENET.values())
    return (images - mean) / std


@pytest.mark.parametrize("name", GATES)
def test_surgery_takes_it_with_its_normalisation_inside(name: str) -> None:
    with torch.device("meta"):  # sizes are enough, and VGG's weights are many
        network = build_backbone(f"torchvision:{name}", 7).eval()
        gated = attach_gates(network, torch.zeros(1, 3, 64, 64))
        logits = network(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, 7)
    assert len(gated.layout.layers) == GATES[name]


def test_weights_of_torchvision_load_and_answer_as_there(tmp_path: Path) -> None:
    original = models.resnet18(num_classes=5).eval()
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    network = build_backbone("torchvision:resnet18", 5).eval()
    load_weights(network, tmp_path / "resnet18.pth")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), original(normalized(images)))


def test_heads_that_only_help_in_training_are_left_in_the_file(tmp_path: Path) -> None:
    original = models.googlenet(num_classes=5, aux_logits=True, init_weights=False).eval()
    torch.save(original.state_dict(), tmp_path / "googlenet.pth")
    network = build_backbone("torchvision:googlenet", 5).eval()
    load_weights(network, tmp_path / "googlenet.pth")
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), original(normalized(images)))


def test_it_can_be_copied_and_sent_to_another_process() -> None:
    network, images = build_backbone("torchvision:squeezenet1_1", 5).eval(), torch.rand(1, 3, 64, 64)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert type(other) is type(network)
        assert torch.equal(other(images), network(images))


def test_what_torchvision_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"no classifier 'resnet19'; it has alexnet"):
        build_backbone("torchvision:resnet19", 10)
