"""The two trainings: a dense network, and the decoupling of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from penstock.learn.batches import Batch, Batches
from penstock.learn.config import DecoupleConfig, Schedule
from penstock.learn.training import Distillation, Training
from penstock.nn import losses
from penstock.nn.surgery import GatedNetwork, GatedOutput

TOLERANCE = 0.005  # share of the MACs by which a budget may be exceeded


class DenseTraining(Training):
    """Plain classification, with a teacher if there is one.

    Args:
        network: what is trained.
        schedule: how long and how fast.
        train: batches to train on.
        classes: number of classes.
        seed: of everything random.
        distillation: who teaches, if anybody does.
        label_smoothing: share of a label that goes to all classes alike.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        train: Batches,
        classes: int,
        seed: int,
        distillation: Distillation | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(network, schedule, train, classes, seed, distillation)
        self.label_smoothing = label_smoothing

    def on_fit_start(self) -> None:
        """Take the layout that convolutions are fastest in, up to twice; with masks it is no faster."""
        self.network.to(memory_format=torch.channels_last)

    def on_fit_end(self) -> None:
        """Leave the network in the usual layout."""
        self.network.to(memory_format=torch.contiguous_format)

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy and distillation."""
        logits = self.network(batch.images).float()
        task = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        return {"task": task} | self.distilled(logits, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Judge the answers."""
        self.judge(self.network(batch.images), batch.labels)


class BudgetTraining(Training):
    """Common part of all trainings of a network with paths: counts MACs, and holds the budget against epochs.

    Args:
        network: the network with paths; trained.
        schedule: how long and how fast.
        train: batches to train on.
        classes: number of classes.
        seed: of everything random.
        budget: share of the dense MACs that validation images may cost on average; ``None`` promises nothing.
        distillation: who teaches, and how much it counts.
    """

    def __init__(
        self,
        network: GatedNetwork,
        schedule: Schedule,
        train: Batches,
        classes: int,
        seed: int,
        budget: float | None,
        distillation: Distillation | None,
    ) -> None:
        super().__init__(network, schedule, train, classes, seed, distillation)
        self.budget = budget
        self.active = MeanMetric()

    @property
    def gated(self) -> GatedNetwork:
        """The network, by its own type."""
        return cast(GatedNetwork, self.network)

    def active_share(self, output: GatedOutput) -> Tensor:
        """Share of the MACs that each path asks for, ``[N, 1]``, in full precision whatever the network runs in.

        In bfloat16 a sum over hundreds of bits is off by a thousandth, as much as a budget is worth keeping to.
        """
        path = torch.cat(output.codes, dim=1)
        with torch.autocast(path.device.type, enabled=False):
            share: Tensor = self.gated.active_macs(path.float())
        return share

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Judge the answers and count MACs."""
        output = self.gated(batch.images)
        self.judge(output.logits, batch.labels)
        self.active.update(self.active_share(output))

    def penalty(self) -> Tensor:
        """An epoch over budget and `TOLERANCE` loses five points of accuracy for each point of MACs above both."""
        active = self.active.compute()
        self.log("val/active_macs", active, prog_bar=True, sync_dist=True)
        if self.budget is None:
            return torch.zeros_like(active)
        return 5.0 * (active - self.budget - TOLERANCE).clamp(min=0.0)


class DecoupleTraining(BudgetTraining):
    """Learn gates and fine-tune the network under a budget of MACs.

    Args:
        network: the network with gates; trained.
        config: weights of the losses, budget and schedule.
        train: batches to train on.
        classes: number of classes.
        distillation: who teaches, and how much it counts.
    """

    def __init__(
        self,
        network: GatedNetwork,
        config: DecoupleConfig,
        train: Batches,
        classes: int,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__(network, config.decouple, train, classes, config.seed, config.promised, distillation)
        self.config = config
        # What no loss reaches must not be there: devices that train together wait for every parameter's gradient.
        read = network.layout.layers if config.mutual_information else ()
        # Under this name their weights stand in the state of every training that is under way.
        self.readers = losses.LinearProbes([layer.filters for layer in read], classes)

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """All terms of `penstock.nn.losses`, weighted."""
        config = self.config
        output = self.gated(batch.images)
        logits = output.logits.float()
        terms = {"task": F.cross_entropy(logits, batch.labels)}
        risen = min(1.0, self.progress / config.ramp) if config.ramp else 1.0
        if config.mutual_information:
            weight = risen * config.mutual_information
            terms["mutual_information"] = weight * self.readers(output.codes, batch.labels)
        if config.alignment:
            terms["alignment"] = risen * config.alignment * losses.alignment(output.codes, output.responses)
        if config.sparsity:
            terms["sparsity"] = risen * config.sparsity * losses.sparsity(output.codes, config.density)
        if config.budget_weight:
            terms["budget"] = config.budget_weight * losses.budget(self.active_share(output), self.target())
        return terms | self.distilled(logits, batch)

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
