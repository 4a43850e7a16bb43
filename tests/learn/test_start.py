import os
from pathlib import Path

import pytest
import torch

from penstock.data import load
from penstock.errors import InvalidArgumentError
from penstock.learn.config import NormalizeConfig, read_config
from penstock.learn.start import load_network
from penstock.nn.backbones import BACKBONES, build_backbone
from penstock.nn.surgery import attach_gates

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DATA = Path(os.environ.get("PENSTOCK_DATA", "nowhere"))
OTHER = NormalizeConfig(mean=(0.25,), std=(0.5,))


def test_constants_of_a_configuration_take_the_place_of_the_backbones() -> None:
    torch.manual_seed(0)
    network = load_network("digits-cnn", None, 10, normalize=OTHER).eval()
    torch.manual_seed(0)
    plain = build_backbone("digits-cnn", 10).eval()
    x = torch.rand(3, 1, 8, 8)
    same = (x - 0.25) / 0.5 * 0.376 + 0.305  # which the backbone's own constants make the same input of
    torch.testing.assert_close(network(x), plain(same), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(network(x), plain(x), rtol=1e-2)


def test_constants_travel_with_the_weights_and_into_the_gated_network(tmp_path: Path) -> None:
    network = load_network("digits-cnn", None, 10, normalize=OTHER)
    torch.save(network.state_dict(), tmp_path / "weights.th")
    again = load_network("digits-cnn", str(tmp_path / "weights.th"), 10)
    assert again.state_dict()["normalize.mean"].item() == 0.25
    gated = attach_gates(again.eval(), torch.zeros(1, 1, 8, 8), read_config(CONFIGS / "digits.toml").gate)
    (name,) = (name for name in gated.state_dict() if name.endswith("normalize.std"))
    assert gated.state_dict()[name].item() == 0.5


def test_constants_for_other_channels_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="1 channels; resnet20 takes images with 3"):
        load_network("resnet20", None, 10, normalize=OTHER)


def test_a_network_that_does_not_normalise_takes_no_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "bare", lambda classes: torch.nn.Linear(3, classes))
    with pytest.raises(InvalidArgumentError, match="bare has no normalisation"):
        load_network("bare", None, 10, normalize=OTHER)


@pytest.mark.parametrize(
    ("config", "accuracy"),
    [
        ("resnet20-cifar10-paper", 0.9200),
        pytest.param("resnet56-cifar10-paper", 0.9322, marks=pytest.mark.slow),
    ],
)
def test_the_releases_starting_weights_are_as_good_as_they_were(config: str, accuracy: float) -> None:
    paper = read_config(CONFIGS / f"{config}.toml")
    assert paper.start is not None
    if not (DATA / paper.start).is_file():
        pytest.skip(f"needs {paper.start} in the folder that PENSTOCK_DATA names")
    images = load("cifar10").held_out
    network = load_network(paper.backbone, paper.start, 10, normalize=paper.normalize).eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(images), 500):
            logits = network(torch.from_numpy(images.images[start : start + 500]).float() / 255)
            right += int((logits.argmax(1).numpy() == images.labels[start : start + 500]).sum())
    assert right / len(images) == pytest.approx(accuracy, abs=5e-5)
