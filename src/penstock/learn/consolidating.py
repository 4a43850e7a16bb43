"""The training of a consolidated network: weights, batch norms and routers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.learn.batches import Batch, Batches
from penstock.learn.consolidate_config import ConsolidateConfig
from penstock.learn.decoupling import BudgetTraining
from penstock.learn.training import Distillation
from penstock.nn import losses
from penstock.nn.prototypes import ConsolidatedNetwork

UNGROUPED = -1  # an image that clustering did not see


class ConsolidateTraining(BudgetTraining):
    """Fine-tune a consolidated network under its budget.

    At first routers are guided to the groups that clustering found; the guidance fades, and from then on they choose
    what serves the task within the budget.

    Args:
        network: the network with routers and prototypes; trained.
        groups: ``[N, stages]`` int64, the group of each training image, or `UNGROUPED`.
        config: schedule and weights of the losses.
        budget: share of the dense MACs.
        train: batches to train on.
        classes: number of classes.
        distillation: who teaches, and how much it counts.
    """

    groups: Tensor

    def __init__(
        self,
        network: ConsolidatedNetwork,
        groups: Tensor,
        config: ConsolidateConfig,
        budget: float,
        train: Batches,
        classes: int,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__(network, config.tune, train, classes, config.seed, budget, distillation)
        self.config = config
        self.target = budget
        self.register_buffer("groups", groups, persistent=False)

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy, distillation, budget and guidance, weighted."""
        config = self.config
        output = self.consolidated(batch.images)
        logits = output.logits.float()
        terms = {"task": F.cross_entropy(logits, batch.labels)} | self.distilled(logits, batch)
        if config.count == 1:  # nothing to choose: the cost is what it is
            return terms
        if config.budget_weight:
            terms["budget"] = config.budget_weight * losses.budget(self.active_share(output), self.target)
        guidance = config.guidance * self.guided()
        if guidance:
            terms["guidance"] = guidance * self._guidance(output.router_logits, batch)
        return terms

    def guided(self) -> float:
        """How much the groups still count: falls linearly from 1 to 0."""
        return max(0.0, 1.0 - self.progress / self.config.fade) if self.config.fade else 0.0

    def on_train_epoch_start(self) -> None:
        """In the last epochs routers choose as they will in use: without noise."""
        super().on_train_epoch_start()
        settled = self.current_epoch >= (1 - self.config.settle) * self.schedule.epochs
        for router in self.consolidated.routers:
            router.noise = not settled

    @property
    def consolidated(self) -> ConsolidatedNetwork:
        """The network, by its own type."""
        return cast(ConsolidatedNetwork, self.network)

    def _guidance(self, router_logits: Sequence[Tensor], batch: Batch) -> Tensor:
        """Mean over the stages of the cross-entropy between a router's choice and the image's group."""
        wanted = self.groups[batch.which]
        known = wanted[:, 0] != UNGROUPED
        if not known.any():
            return torch.zeros((), device=wanted.device)
        terms = [
            F.cross_entropy(logits[known], wanted[known, stage]) for stage, logits in enumerate(router_logits)
        ]
        return torch.stack(terms).mean()
