from pathlib import Path

import pytest
import torch

from penstock.errors import AlreadyExistsError, InvalidArgumentError
from penstock.nn import backbones
from penstock.nn.backbones import BACKBONES, ENTRY_POINTS, DigitsCNN, build_backbone, register_backbone
from penstock.nn.normalize import Normalize


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes back what a test registers."""
    monkeypatch.setattr(backbones, "_registered", {})


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


def test_a_program_can_register_its_own(registered: None) -> None:
    register_backbone("flat", lambda classes: torch.nn.Linear(3, classes))
    assert build_backbone("flat", 4)(torch.zeros(1, 3)).shape == (1, 4)


@pytest.mark.parametrize("name", ["resnet20", "torchvision:mine"])
def test_names_of_penstock_cannot_be_registered(name: str) -> None:
    with pytest.raises(AlreadyExistsError, match="choose another name"):
        register_backbone(name, DigitsCNN)


def test_a_builder_that_returns_no_network_is_refused(registered: None) -> None:
    register_backbone("broken", lambda classes: classes)  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidArgumentError, match=r"'broken' was built as a int; its builder must return"):
        build_backbone("broken", 10)


def test_of_installed_packages_only_the_named_one_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "nets-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: nets\nVersion: 1.0\n")
    names = "good = good_net:build\nlost = lost_net:build\nother = other_net:build"
    (about / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{names}\n")
    (tmp_path / "good_net.py").write_text(
        "import torch\nbuild = lambda classes: torch.nn.Linear(3, classes)\n"
    )
    (tmp_path / "other_net.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert build_backbone("good", 4)(torch.zeros(1, 3)).shape == (1, 4)
    with pytest.raises(InvalidArgumentError, match="registered as lost_net:build, which cannot be imported"):
        build_backbone("lost", 4)
    with pytest.raises(InvalidArgumentError, match=r"there are .*good, lost, mnasnet, other.* entry point"):
        build_backbone("other_net:build", 4)
