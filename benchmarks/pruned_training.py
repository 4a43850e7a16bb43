"""Fine-tune a pruned network on the training images of its data set, with the loop that trains everything here.

The dense network that it was pruned from teaches it, as it teaches networks with paths. The best epoch on the
validation images counts; test images play no part. Results are kept in the user's cache folder under a name that
follows from everything that was asked for: a second call finds them, and one after a kill goes on where that stopped.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from penstock.data import Splits, load
from penstock.data.cache import cache_folder
from penstock.files import write_atomic
from penstock.learn import runs
from penstock.learn.batches import Batches
from penstock.learn.config import Schedule
from penstock.learn.decoupling import DenseTraining
from penstock.learn.teacher import Teacher
from penstock.learn.training import Distillation, fit

WEIGHTS = "weights.safetensors"
VIEWS = 16  # different augmentations of each image
TEACHING, TEMPERATURE = 1.0, 3.0  # weight and softness of what the dense network says


@dataclass(frozen=True)
class FineTuning:
    """What is fine-tuned, and how long and fast.

    Attributes:
        data: name of the data set.
        source: hash of the checkpoint whose dense network was pruned.
        macs: share of the MACs that is left.
        epochs: passes over the training images.
        learning_rate: its peak.
        batch_size: images per step.
        clip: largest norm of the gradients; networks without batch norms need one.
        precision: of the loop; that by which the networks with paths were trained.
        seed: of everything random.
    """

    data: str
    source: str
    macs: float
    epochs: int = 20
    learning_rate: float = 0.02
    batch_size: int = 128
    clip: float = 1.0
    precision: str = "bf16-mixed"
    seed: int = 0

    @property
    def schedule(self) -> Schedule:
        """The same, as the loop wants it."""
        return Schedule(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            clip=self.clip,
        )

    @property
    def folder(self) -> Path:
        """Where checkpoints, logs and the result are kept."""
        name = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:24]
        return cache_folder() / "pruned" / name


def fine_tuned(network: nn.Module, dense: nn.Module, asked: FineTuning) -> None:
    """Train a pruned network, or fetch what training it gave before, in place.

    Raises:
        NotFoundError: the data set is not there.
    """
    kept = asked.folder / WEIGHTS
    if not kept.is_file():
        _train(network, dense, load(asked.data), asked)
        tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        write_atomic(kept, save(tensors))
    network.load_state_dict(load_file(kept))
    network.eval()


def _train(network: nn.Module, dense: nn.Module, splits: Splits, asked: FineTuning) -> None:
    batches = runs.training_batches(splits, asked.data, size=asked.batch_size, seed=asked.seed, views=VIEWS)
    taught = Distillation(Teacher(dense, batches), TEACHING, TEMPERATURE)
    torch.manual_seed(asked.seed)
    training = DenseTraining(network, asked.schedule, batches, len(splits.class_names), asked.seed, taught)
    validation = Batches(splits.validation, 500)
    fit(training, validation, asked.folder / "train", precision=asked.precision, progress=False)
