"""Observation runs on real digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.cli import main
from penstock.data import load
from penstock.errors import ConfigurationError
from penstock.learn.cascade import cascade
from penstock.learn.observe import observe
from penstock.learn.observe_config import ObserveConfig, read_observe_config
from penstock.learn.observing import look
from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint
from penstock.nn.inference import answer
from penstock.nn.observers import ObserverConfig, observers_of
from penstock.nn.surgery import GatedNetwork
from penstock.paths import PathSet

CONFIG = ObserveConfig(steps=200)


@pytest.fixture(scope="module")
def observed(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense network of a run."""
    folder = tmp_path_factory.mktemp("runs") / "observed"
    observe(str(tiny_run), CONFIG, folder, dense=True)
    return folder


def test_a_dense_networks_answers_stay_what_they_are(observed: Path, tiny_run: Path) -> None:
    images = load("digits").test.images
    before, after = (load_checkpoint(run / CHECKPOINT_FILE) for run in (tiny_run, observed))
    with torch.no_grad():
        wanted = before.dense.eval()(torch.from_numpy(images).float() / 255).numpy()
    answers = answer(after.network, images, batch=len(images))
    np.testing.assert_array_equal(answers.logits, wanted)
    assert after.figures["density"] == 1
    assert after.figures["input_dependent"] == 0
    assert 1 < after.figures["mac_fraction"] < 1.01


def test_what_observers_say_tells_the_class(observed: Path) -> None:
    checkpoint = load_checkpoint(observed / CHECKPOINT_FILE)
    images = load("digits").test
    paths = PathSet(checkpoint.network.layout, answer(checkpoint.network, images.images).bits)
    rates = paths.by_class(images.labels, 10)
    last = checkpoint.network.layout.slices[-1]
    nearest = np.abs(paths.bits[:, None, last] - rates[None, :, last]).sum(axis=2).argmin(axis=1)
    assert (nearest == images.labels).mean() > 0.8  # by chance 0.1


def test_what_they_learn_from_is_what_they_see_in_the_network(observed: Path) -> None:
    network = load_checkpoint(observed / CHECKPOINT_FILE).network
    assert isinstance(network, GatedNetwork)
    images = load("digits").test.images[:20]
    seen = look(network, observers_of(network), images)
    answers = answer(network, images)
    for observer, means, part in zip(observers_of(network), seen, network.layout.slices, strict=True):
        with torch.no_grad():
            np.testing.assert_allclose(observer(means)[1], answers.gate_logits[:, part], atol=1e-5)


def test_a_static_cascade_gets_flags_that_say_something(
    consolidations: dict[int, Path], tmp_path: Path
) -> None:
    cascade(str(consolidations[1]), None, tmp_path / "cascade", budget=0.9)
    plain = load_checkpoint(tmp_path / "cascade" / CHECKPOINT_FILE)
    checkpoint = observe(str(tmp_path / "cascade"), CONFIG, tmp_path / "observed")
    images = load("digits").test.images
    before, after = answer(plain.network, images), answer(checkpoint.network, images)
    np.testing.assert_array_equal(before.logits, after.logits)
    watched = checkpoint.network.layout.watched
    np.testing.assert_array_equal(np.delete(after.bits, watched, axis=1), before.bits)
    assert checkpoint.figures["density"] == pytest.approx(plain.figures["density"])


def test_the_command_leaves_a_run_that_it_does_not_make_twice(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["observe", str(tiny_run), "--set", "observers.bits=4", "--set", "steps=20", "--out", str(out)]
    assert main(command) == 0
    assert "the observers tell the class of" in capsys.readouterr().err
    written = (out / CHECKPOINT_FILE).read_bytes()
    assert main(command) == 0
    assert "finished already" in capsys.readouterr().err
    assert (out / CHECKPOINT_FILE).read_bytes() == written
    assert main([*command, "--dense"]) == 1
    assert "another configuration" in capsys.readouterr().err


def test_observers_are_put_on_once(observed: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has observers already"):
        observe(str(observed), CONFIG, tmp_path)


def test_the_same_seed_gives_the_same_observers(tiny_run: Path, tmp_path: Path) -> None:
    config = ObserveConfig(steps=20, observers=ObserverConfig(bits=4))
    first, second = (observe(str(tiny_run), config, tmp_path / name) for name in ("a", "b"))
    for one, other in zip(
        first.network.state_dict().values(), second.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps=0", "steps is 0"),
        ("learning_rate=-1", "learning_rate is -1"),
        ("observers.stages=0", r"ObserverConfig\.stages is 0"),
        ("colour=1", "unknown key 'colour'"),
    ],
)
def test_settings_without_meaning_are_refused(change: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_observe_config(None, [change])
