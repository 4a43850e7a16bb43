import pytest
import torch

from penstock.errors import InvalidArgumentError
from penstock.nn.backbones import BACKBONES, build_backbone
from penstock.nn.normalize import Normalize


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet20", 269_722), ("resnet32", 464_154), ("resnet56", 853_018)]
)
def test_cifar_resnets_have_as_many_parameters_as_published(name: str, parameters: int) -> None:
    network = build_backbone(name, 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_backbone_gives_one_logit_per_class(name: str) -> None:
    shape = (1, 8, 8) if name == "digits-cnn" else (3, 32, 32)
    network = build_backbone(name, 7).eval()
    assert network(torch.rand(2, *shape)).shape == (2, 7)


def test_an_unknown_backbone_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidArgumentError, match=r"'vgg99'; there are densenet40, digits-cnn"):
        build_backbone("vgg99", 10)


def test_normalisation_is_inside() -> None:
    normalize = Normalize((0.5, 0.2), (0.1, 2.0))
    images = torch.tensor([0.6, 4.2]).view(1, 2, 1, 1)
    torch.testing.assert_close(normalize(images).flatten(), torch.tensor([1.0, 2.0]))
