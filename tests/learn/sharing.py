"""A script for the tests of training on several devices: its processes import it anew, so it must be a file.

sharing.py fit FOLDER DEVICES [STOP]     a short decoupling of noise; with STOP, all processes die at that epoch's start
sharing.py run CONFIG FOLDER DEVICES     a whole decoupling run
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from penstock.data import ImageSet
from penstock.learn.batches import Batch, Batches
from penstock.learn.config import DecoupleConfig, Schedule, read_config
from penstock.learn.decouple import decouple
from penstock.learn.decoupling import DecoupleTraining
from penstock.learn.teacher import Teacher
from penstock.learn.training import Distillation, fit
from penstock.nn.backbones import build_backbone
from penstock.nn.surgery import attach_gates

CONFIG = DecoupleConfig(
    data="digits",
    backbone="digits-cnn",
    budget=0.6,
    views=2,
    decouple=Schedule(epochs=3, batch_size=10, learning_rate=0.05, average=0.8),
)


def images(count: int) -> ImageSet:
    """Noise with labels."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    return ImageSet(pixels, draw.integers(0, 10, count), tuple("0123456789"), np.arange(count))


# The last of three batches has one image: with two devices the second one has none.
VALIDATION = Batches(images(21), 10)


class Watched(DecoupleTraining):
    """Writes down which images each process trained on, and dies where it is told to."""

    folder: Path
    stop: int | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """As always, and a line for the test."""
        with (self.folder / f"seen-{self.global_rank}.txt").open("a") as file:
            print(self.current_epoch, *batch.which.tolist(), file=file)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_start(self) -> None:
        """As always, unless this is where it ends."""
        if self.current_epoch == self.stop:
            os._exit(1)
        super().on_train_epoch_start()


def build(folder: Path) -> Watched:
    """The training, always the same."""
    torch.manual_seed(0)
    dense = build_backbone("digits-cnn", 10)
    network = attach_gates(dense, torch.zeros(1, 1, 8, 8), CONFIG.gate)
    batches = Batches(images(40), 10, training=True, padding=1, flip=True, views=2)
    training = Watched(network, CONFIG, batches, 10, Distillation(Teacher(dense, batches), 1.0, 3.0))
    training.folder = folder
    return training


def fit_noise(folder: Path, devices: int, stop: int | None) -> None:
    """Train, and write what one process says of the weights that were kept."""
    training = build(folder)
    training.stop = stop
    fit(training, VALIDATION, folder, precision="32-true", progress=False, devices=devices)
    training.eval()
    training.on_validation_epoch_start()
    with torch.no_grad():
        for batch in VALIDATION:
            training.validation_step(batch, 0)
    figures = {
        "accuracy": training.accuracy.compute().item(),
        "loss": training.loss.compute().item(),
        "active_macs": training.active.compute().item(),
    }
    (folder / "alone.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "fit":
        fit_noise(Path(rest[0]), int(rest[1]), int(rest[2]) if len(rest) > 2 else None)
    else:
        decouple(read_config(Path(rest[0])), Path(rest[1]), devices=int(rest[2]), progress=False)
