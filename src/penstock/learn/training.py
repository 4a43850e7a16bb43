"""The loop that both the dense and the decoupled network are trained in.

Lightning's ``Trainer`` drives it. A run folder keeps ``last.ckpt`` after every epoch and ``best.ckpt`` after every
epoch that did better on the validation images. Everything random in an epoch is seeded by the run's seed and the
epoch's number, so a run that was killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from penstock.errors import ConfigurationError
from penstock.files import write_atomic
from penstock.learn.averaging import moving_average
from penstock.learn.batches import Batch, Batches
from penstock.learn.config import Schedule
from penstock.learn.process import check_devices, deterministic, quiet, strategy
from penstock.learn.teacher import Teacher
from penstock.nn import losses

OBJECTIVE = "val/objective"
WARM_UP = 0.05  # share of the steps over which the learning rate rises


@dataclass(frozen=True)
class Distillation:
    """Who teaches a training, and how much its softened answers count.

    Attributes:
        teacher: answers the same views of the same images.
        weight: of the term in the loss.
        temperature: divides the logits of both.
    """

    teacher: Teacher
    weight: float
    temperature: float


class Training(L.LightningModule):
    """Common part: optimiser, schedule, seeding, teacher, validation accuracy. Subclasses give the loss.

    Args:
        network: what is trained.
        schedule: how long and how fast.
        train: batches to train on.
        classes: number of classes.
        seed: of everything random.
        distillation: who teaches, if anybody does.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        train: Batches,
        classes: int,
        seed: int,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.train_batches = train
        self.seed = seed
        self.distillation = distillation
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self.loss = MeanMetric(nan_strategy=math.inf)  # a loss that is no number is to be seen

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Weighted terms of the loss, by name; their sum is minimised."""
        raise NotImplementedError

    def distilled(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The term that the teacher gives, weighted; nothing without a teacher."""
        if self.distillation is None:
            return {}
        wanted = self.distillation.teacher.answers(self.train_batches.view, batch.which)
        loss = losses.distillation(logits, wanted, self.distillation.temperature)
        return {"distillation": self.distillation.weight * loss}

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return self.global_step / max(1, self.schedule.epochs * len(self.train_batches))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of Lightning's loop."""
        terms = self.losses(batch)
        logged = {f"train/{name}": term.detach() for name, term in terms.items()}
        self.log_dict(logged, on_epoch=True, on_step=False, sync_dist=True)
        return torch.stack([term.float() for term in terms.values()]).sum()

    def on_train_epoch_start(self) -> None:
        """Make the epoch a function of seed and number alone."""
        self.train_batches.epoch = self.current_epoch
        torch.manual_seed((self.seed * 1_000_003 + self.current_epoch) * 1_009 + self.global_rank)
        if self.distillation is not None:
            self.distillation.teacher.prepare(self.train_batches.view, self.device)

    def on_validation_epoch_start(self) -> None:
        """Count from nothing, and in memory of this process's own: counters travel to new processes as shared ones."""
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def on_validation_epoch_end(self) -> None:
        """Report the accuracy and what the best epoch is chosen by."""
        accuracy, loss = self.accuracy.compute(), self.loss.compute()
        if not torch.isfinite(loss):
            raise ConfigurationError(
                f"learning_rate is {self.schedule.learning_rate} and clip {self.schedule.clip}; after epoch "
                f"{self.current_epoch + 1} the loss is {loss.item()}: take a lower rate, or clip gradients"
            )
        # On few validation images many epochs are equally right; the loss tells them apart.
        objective = accuracy - 0.01 * loss - self.penalty()
        figures = {"val/accuracy": accuracy, "val/loss": loss, OBJECTIVE: objective}
        self.log_dict(figures, prog_bar=True, sync_dist=True)

    def judge(self, logits: Tensor, labels: Tensor) -> None:
        """Take a batch of answers into the validation figures; a device's share of the last one may be empty."""
        if not len(labels):
            return
        self.accuracy.update(logits, labels)
        self.loss.update(torch.nn.functional.cross_entropy(logits.float(), labels), len(labels))

    def penalty(self) -> Tensor:
        """What a broken promise costs an epoch in the choice of the best; none here."""
        return torch.zeros(())

    def configure_optimizers(self) -> Any:
        """SGD with Nesterov momentum under the schedule's decay."""
        decayed = [p for p in self.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.schedule.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(groups, lr=self.schedule.learning_rate, momentum=0.9, nesterov=True)
        scheduler = _decay(optimizer, self.schedule, self.schedule.epochs * len(self.train_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _decay(
    optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if schedule.decay == "steps":
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4], gamma=0.1)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=schedule.learning_rate,
        total_steps=steps,
        # A rise over one step or less would be a division by zero.
        pct_start=WARM_UP if WARM_UP * steps > 1 else 0.0,
        cycle_momentum=False,
        div_factor=10,
    )


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint so that a kill leaves the old one or the new one.

    Lightning's own way is a temporary file in the system's folder for them, which is often on another disk: moving it
    is a copy then, and a run that is killed meanwhile has half a checkpoint to go on from.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write in one step."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomic(Path(path), content.getvalue())


def fit(
    training: Training, validation: Batches, folder: Path, *, precision: str, progress: bool, devices: int = 1
) -> None:
    """Train, or go on where a killed run stopped, and leave ``training`` with the best epoch's weights.

    Args:
        training: what to train.
        validation: images that choose the best epoch.
        folder: where checkpoints and logs go.
        precision: Lightning's name.
        progress: show a progress bar.
        devices: how many GPUs, or processes where there is none, share every batch.

    Raises:
        InvalidArgumentError: there are not so many devices, or a batch is too small for them.
    """
    check_devices(devices, training.train_batches.batch_size)
    best = ModelCheckpoint(
        folder, filename="best", monitor=OBJECTIVE, mode="max", enable_version_counter=False
    )
    last = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    callbacks: list[L.Callback] = [best, last]
    if training.schedule.average:
        callbacks.append(moving_average(training.schedule.average))
    if progress:
        callbacks.append(RichProgressBar(leave=False, console_kwargs={"stderr": True}))
    training.network.train()  # Lightning keeps whatever mode it finds
    resume = folder / "last.ckpt"
    with quiet(), deterministic():
        _trainer(training, folder, callbacks, precision, progress, devices).fit(
            training,
            train_dataloaders=training.train_batches,
            val_dataloaders=validation,
            ckpt_path=str(resume) if resume.exists() else None,
        )
    state = torch.load(folder / "best.ckpt", map_location="cpu", weights_only=True)
    training.load_state_dict(state["state_dict"])


def _trainer(
    training: Training,
    folder: Path,
    callbacks: list[L.Callback],
    precision: str,
    progress: bool,
    devices: int,
) -> L.Trainer:
    return L.Trainer(
        max_epochs=training.schedule.epochs,
        devices=devices,
        strategy=strategy(devices),
        precision=cast(Any, precision),
        logger=[CSVLogger(folder, name="logs"), TensorBoardLogger(folder, name="tensorboard")],
        callbacks=callbacks,
        plugins=[WholeFiles()],
        gradient_clip_val=training.schedule.clip or None,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic=True,
        log_every_n_steps=len(training.train_batches),  # epochs are what we log
    )
