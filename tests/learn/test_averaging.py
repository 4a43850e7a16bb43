import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from penstock.data import ImageSet
from penstock.learn.batches import Batch, Batches
from penstock.learn.config import DecoupleConfig, Schedule
from penstock.learn.decoupling import DecoupleTraining, DenseTraining
from penstock.learn.training import fit
from penstock.nn.backbones import build_backbone
from penstock.nn.surgery import attach_gates

DECAY = 0.9


def images(count: int) -> ImageSet:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    return ImageSet(pixels, draw.integers(0, 10, count), tuple("0123456789"), np.arange(count))


class Watched(DenseTraining):
    """Remembers the trained weights after every step, and those that validation judged."""

    def __init__(self, decay: float, epochs: int = 2) -> None:
        torch.manual_seed(0)
        schedule = Schedule(epochs=epochs, learning_rate=0.05, average=decay)
        network = build_backbone("digits-cnn", 10)
        super().__init__(network, schedule, Batches(images(64), 16, training=True, seed=1), 10, seed=3)
        self.trained: list[dict[str, Tensor]] = []
        self.judged: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        self.trained.append(copy.deepcopy(self.network.state_dict()))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.judged.append(copy.deepcopy(self.network.state_dict()))
        super().validation_step(batch, batch_idx)


def fitted(training: Watched, folder: Path) -> Watched:
    fit(training, Batches(images(20), 20), folder, precision="32-true", progress=False)
    return training


def averages(steps: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """After every step, by the formula in double precision; whole numbers are the last ones."""
    average = {name: value.double() for name, value in steps[0].items()}
    result = [average]
    for step in steps[1:]:
        average = {
            name: DECAY * average[name] + (1 - DECAY) * value.double()
            if value.is_floating_point()
            else value.double()
            for name, value in step.items()
        }
        result.append(average)
    return result


def assert_same(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert state.keys() == wanted.keys()
    for name, value in state.items():
        torch.testing.assert_close(value.double(), wanted[name].double(), rtol=1e-4, atol=1e-6, msg=name)


def test_the_average_is_judged_and_kept_and_the_weights_themselves_are_trained(tmp_path: Path) -> None:
    plain, averaged = fitted(Watched(0.0), tmp_path / "plain"), fitted(Watched(DECAY), tmp_path / "averaged")
    for step, same in zip(averaged.trained, plain.trained, strict=True):
        assert_same(step, same)  # averaging changes nothing of the training
    wanted = averages(averaged.trained)
    last_of_epoch = [wanted[3], wanted[7]]
    for judged, expected in zip(averaged.judged, last_of_epoch, strict=True):
        assert_same(judged, expected)
    best = torch.load(tmp_path / "averaged" / "best.ckpt", weights_only=True)
    assert_same(averaged.network.state_dict(), last_of_epoch[best["epoch"]])
    kept = {name.removeprefix("network."): value for name, value in best["state_dict"].items()}
    assert_same(kept, last_of_epoch[best["epoch"]])
    moved = [name for name in kept if "running" in name]
    assert moved  # batch-norm statistics are averaged with the weights that they belong to
    assert not any(torch.allclose(kept[name], averaged.trained[-1][name]) for name in moved)


def test_constants_stay_what_they_are_to_the_bit(
    short: Callable[..., DecoupleConfig], tmp_path: Path
) -> None:
    config = short(decouple=Schedule(epochs=6, batch_size=16, learning_rate=0.05, average=0.999))
    torch.manual_seed(0)
    network = attach_gates(build_backbone("digits-cnn", 10), torch.zeros(1, 1, 8, 8), config.gate)
    learned = {name for name, _ in network.named_parameters()}
    before = {
        name: value.clone()
        for name, value in network.named_buffers()
        if name not in learned and "running" not in name and "num_batches" not in name
    }
    assert len(before) >= 2
    training = DecoupleTraining(network, config, Batches(images(128), 16, training=True), 10)
    fit(training, Batches(images(20), 20), tmp_path, precision="32-true", progress=False)
    after = dict(training.gated.named_buffers())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_average_does_not_hold_the_images_twice() -> None:
    batches = Batches(images(8), 4, training=True)
    again = copy.deepcopy(batches)
    assert again.images.data_ptr() == batches.images.data_ptr()
    again.epoch = 5
    assert batches.epoch == 0
