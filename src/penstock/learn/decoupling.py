"""The two trainings: a dense network, and the decoupling of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from penstock.learn.batches import Batches
from penstock.learn.config import DecoupleConfig
from penstock.learn.training import Training
from penstock.nn import losses
from penstock.nn.surgery import GatedNetwork, GatedOutput


class DenseTraining(Training):
    """Plain classification."""

    def losses(self, images: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """Cross-entropy."""
        return {"task": F.cross_entropy(self.network(images).float(), labels)}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Judge the answers."""
        images, labels = batch
        self.judge(self.network(images), labels)


class DecoupleTraining(Training):
    """Learn gates and fine-tune the network under a budget of MACs.

    Args:
        network: the network with gates; trained.
        teacher: the dense network; frozen.
        config: weights of the losses, budget and schedule.
        train: batches to train on.
        classes: number of classes.
    """

    def __init__(
        self, network: GatedNetwork, teacher: nn.Module, config: DecoupleConfig, train: Batches, classes: int
    ) -> None:
        super().__init__(network, config.decouple, train, classes, config.seed)
        self.config = config
        self.readers = losses.ClassReaders([layer.filters for layer in network.layout.layers], classes)
        self.active = MeanMetric()
        # In a list, so that the frozen teacher is neither trained, nor switched to training, nor saved.
        self._teacher = [teacher.eval().requires_grad_(False)]

    @property
    def gated(self) -> GatedNetwork:
        """The network, by its own type."""
        return cast(GatedNetwork, self.network)

    def losses(self, images: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """All terms of `penstock.nn.losses`, weighted."""
        config = self.config
        output = self.gated(images)
        logits = output.logits.float()
        terms = {"task": F.cross_entropy(logits, labels)}
        if config.mutual_information:
            terms["mutual_information"] = config.mutual_information * self.readers(output.codes, labels)
        if config.alignment:
            terms["alignment"] = config.alignment * losses.alignment(output.codes, output.responses)
        terms["budget"] = config.budget_weight * losses.budget(self.active_share(output), self.target())
        if config.sparsity:
            terms["sparsity"] = config.sparsity * losses.sparsity(output.codes, config.density)
        if config.distillation:
            with torch.no_grad():
                teacher = self._teacher[0].to(images.device)(images).float()
            terms["distillation"] = config.distillation * losses.distillation(
                logits, teacher, config.temperature
            )
        return terms

    def active_share(self, output: GatedOutput) -> Tensor:
        """Share of the MACs that each path asks for, ``[N, 1]``, in full precision whatever the network runs in.

        In bfloat16 a sum over hundreds of bits is off by a thousandth, as much as a budget is worth keeping to.
        """
        path = torch.cat(output.codes, dim=1)
        with torch.autocast(path.device.type, enabled=False):
            share: Tensor = self.gated.active_macs(path.float())
        return share

    def target(self) -> float:
        """Share of MACs aimed at now: falls linearly to the budget, then stays."""
        config = self.config
        done = min(1.0, self.progress / config.approach) if config.approach else 1.0
        return 1.0 + (config.budget - 1.0) * done

    def on_train_epoch_start(self) -> None:
        """In the last epochs gates run as they will be used: no noise, always hard."""
        super().on_train_epoch_start()
        settled = self.current_epoch >= (1 - self.config.settle) * self.schedule.epochs
        for layer in self.gated.gated_layers:
            layer.gate.noise = 0.0 if settled else 1.0
            layer.gate.hard_share = 1.0 if settled else 0.5

    def on_fit_end(self) -> None:
        """Bring the teacher back from where the student was trained."""
        self._teacher[0].cpu()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Judge the answers and count MACs."""
        images, labels = batch
        output = self.gated(images)
        self.judge(output.logits, labels)
        self.active.update(self.active_share(output))

    def penalty(self) -> Tensor:
        """An epoch over budget loses five points of accuracy for each point of MACs above it."""
        active = self.active.compute()
        self.active.reset()
        self.log("val/active_macs", active, prog_bar=True)
        return 5.0 * (active - self.config.budget - 0.005).clamp(min=0.0)
