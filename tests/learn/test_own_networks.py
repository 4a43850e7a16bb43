"""Every command on networks that are not Penstock's own: one of an installed package, and one of torchvision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from penstock.cli import main
from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint

CLASSES = ("bricks", "checks", "plain", "stripes")
PER_CLASS = 50
PACKAGE = """
from torch import nn

def small_net(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )
"""
Install = Callable[[], None]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of four textures, 32x32."""
    root, draw = tmp_path_factory.mktemp("textures"), np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32] // 4 % 2
    patterns = (rows & columns, rows ^ columns, 0 * rows, columns)
    for name, pattern in zip(CLASSES, patterns, strict=True):
        (root / name).mkdir()
        for index in range(PER_CLASS):
            noise = draw.integers(0, 90, (32, 32, 3))
            pixels = (noise + 120 * pattern[:, :, None]).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return f"folder:{root}?size=32"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package with a network of its own, as pip would leave it."""

    def install() -> None:
        site = tmp_path / "site-packages"
        about = site / "small_nets-1.0.dist-info"
        about.mkdir(parents=True)
        (site / "small_nets.py").write_text(PACKAGE)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: small-nets\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[penstock.backbones]\npacked-net = small_nets:small_net\n")
        monkeypatch.syspath_prepend(site)

    return install


def write_config(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def run(*words: str) -> None:
    assert main(list(words)) == 0


def learn_gates(backbone: str, images: str, folder: Path, schedule: str) -> None:
    """Train a network, and decouple what was trained."""
    head = f'data = "{images}"\nbackbone = "{backbone}"\n'
    start = f'start = "{folder / "dense" / "weights.safetensors"}"\n'
    train = write_config(folder, "train.toml", f"{head}[train]\n{schedule}")
    decouple = write_config(
        folder, "decouple.toml", f"{head}{start}fpr = 0.2\nbudget = 0.7\n[decouple]\n{schedule}"
    )
    run("train", "--config", train, "--out", str(folder / "dense"))
    run("decouple", "--config", decouple, "--out", str(folder / "gates"))
    masks = "steps = 2\nbatch_size = 4\n[measure]\nimages = 4\nmosaics = 4\n"
    write_config(folder, "masks.toml", f"{head}{start}{masks}")


def do_the_rest(folder: Path, schedule: str) -> None:
    """With a decoupled network, whatever can be done."""
    tune = write_config(folder, "tune.toml", f"fpr = 0.2\n[tune]\n{schedule}")
    out = {name: str(folder / name) for name in ("gates", "two", "one", "cascade", "classes")}
    for name, count in (("two", "2"), ("one", "1")):
        run("consolidate", out["gates"], "--prototypes", count, "--config", tune, "--out", out[name])
    run("cascade", out["one"], "--budget", "0.9", "--fpr", "0.2", "--out", out["cascade"])
    run("disentangle", "--config", str(folder / "masks.toml"), "--out", out["classes"])
    for name in ("gates", "two", "cascade"):
        run("evaluate", out[name])
    for name in ("two", "classes"):
        run("report", out[name], "--out", str(folder / f"{name}.html"))
    for name in ("two", "cascade"):
        models = ("--repository", str(folder / "models"), "--name", name)
        run("export", out[name], *models, "--lowering", "masked", "--fpr", "0.2")


def schedule(epochs: int) -> str:
    return f"epochs = {epochs}\nbatch_size = 20\nlearning_rate = 0.05\n"


def test_a_network_of_an_installed_package_goes_through_every_command(
    images: str, install: Install, tmp_path: Path
) -> None:
    install()
    learn_gates("packed-net", images, tmp_path, schedule(2))
    do_the_rest(tmp_path, schedule(2))
    assert load_checkpoint(tmp_path / "cascade" / CHECKPOINT_FILE).backbone == "packed-net"
    assert json.loads((tmp_path / "dense" / "figures.json").read_text())["dense_accuracy"] > 0.4
    assert "packed-net" in (tmp_path / "two.html").read_text()


def test_a_network_of_torchvision_is_trained_and_decoupled(images: str, tmp_path: Path) -> None:
    learn_gates("torchvision:squeezenet1_1", images, tmp_path, schedule(1))
    checkpoint = load_checkpoint(tmp_path / "gates" / CHECKPOINT_FILE)
    assert checkpoint.backbone == "torchvision:squeezenet1_1"
    assert len(checkpoint.network.layout.layers) == 24


@pytest.mark.slow
def test_a_network_of_torchvision_goes_through_every_command(images: str, tmp_path: Path) -> None:
    learn_gates("torchvision:squeezenet1_1", images, tmp_path, schedule(1))
    do_the_rest(tmp_path, schedule(1))
    assert load_checkpoint(tmp_path / "cascade" / CHECKPOINT_FILE).backbone == "torchvision:squeezenet1_1"
