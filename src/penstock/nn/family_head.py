"""The detectors of `penstock.detect.family` as modules: captured with a network, or differentiated by attackers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.detect.doubt import DoubtScore
from penstock.detect.family_score import FamilyScore
from penstock.detect.recipe import (
    DEFAULT,
    DISAGREEMENT,
    DOUBT,
    LIKELIHOOD,
    MAHALANOBIS,
    ROUTER_GATE,
    SUB_ARCHITECTURE,
)
from penstock.detect.router_gate import GateDisagreement
from penstock.detect.surprisal import Surprisal
from penstock.nn.detector_head import DetectorHead
from penstock.nn.disagreement_head import DisagreementHead
from penstock.nn.rows import rows


class SurprisalHead(nn.Module):
    """`penstock.detect.surprisal.Surprisal` of several scores at once.

    Args:
        tables: of each score.
    """

    whose: Tensor
    knots: Tensor
    bends: Tensor
    start: Tensor

    def __init__(self, tables: Sequence[Surprisal]) -> None:
        super().__init__()
        counts = torch.tensor([len(one.knots) for one in tables])
        whose = torch.arange(len(tables)).repeat_interleave(counts)
        knots, bends = (np.concatenate([getattr(one, name) for one in tables]) for name in ("knots", "bends"))
        self.register_buffer("whose", whose)  # [knots of all], a place among the scores
        self.register_buffer("knots", torch.from_numpy(knots))
        self.register_buffer("bends", F.one_hot(whose, len(tables)).T * torch.from_numpy(bends))
        self.register_buffer("start", torch.tensor([one.start for one in tables], dtype=torch.float32))

    def forward(self, scores: Tensor) -> Tensor:
        """Surprisals ``[N, K]`` of scores ``[N, K]``."""
        beyond = torch.relu(scores.index_select(1, self.whose) - self.knots)
        return F.linear(beyond, self.bends, self.start)


class DoubtHead(nn.Module):
    """`penstock.detect.doubt` in single precision.

    Args:
        tables: fitted.
    """

    def __init__(self, tables: DoubtScore) -> None:
        super().__init__()
        self.location = tables.location
        self.spread = tables.spread

    def forward(self, logits: Tensor) -> Tensor:
        """Anomaly score ``[N, 1]`` of logits ``[N, classes]``."""
        sure = logits.log_softmax(dim=1).amax(dim=1, keepdim=True)
        return (sure + self.location) / -self.spread  # doubt is minus the log of the largest probability


class RouterGateHead(nn.Module):
    """`penstock.detect.router_gate` in single precision.

    Args:
        tables: fitted.
    """

    usual: Tensor
    surprise: Tensor
    location: Tensor
    spread: Tensor

    def __init__(self, tables: GateDisagreement) -> None:
        super().__init__()
        for name, table in vars(tables).items():
            self.register_buffer(name, torch.from_numpy(table.copy()))

    def forward(self, logits: Tensor, bits: Tensor, gate_logits: Tensor) -> Tensor:
        """Anomaly score ``[N, 1]`` of logits ``[N, classes]``, bits and gate logits ``[N, P]``."""
        own = logits.argmax(dim=1)
        apart = (bits - (gate_logits + 0.5).clamp(0, 1)).abs()
        strange = ((apart - rows(self.usual, own)).abs() * rows(self.surprise, own)).sum(dim=1, keepdim=True)
        return (strange - rows(self.location, own)) / rows(self.spread, own)


class FamilyHead(nn.Module):
    """Scores paths as a fitted detector of the family does.

    Args:
        score: what it has learnt.
    """

    def __init__(self, score: FamilyScore) -> None:
        super().__init__()
        self.recipe = score.recipe
        self.both = DetectorHead(score.combined.arrays())
        self.disagreement = None if score.disagreement is None else DisagreementHead(score.disagreement)
        self.doubt = None if score.doubt is None else DoubtHead(score.doubt)
        self.router_gate = None if score.router_gate is None else RouterGateHead(score.router_gate)
        masks = score.sub_architecture
        self.sub_architecture = None if masks is None else DisagreementHead(masks)
        self.surprisal = SurprisalHead(score.surprisals) if score.surprisals else None

    def forward(self, logits: Tensor, bits: Tensor, gate_logits: Tensor) -> Tensor:
        """Anomaly score ``[N, 1]`` of logits ``[N, classes]``, bits and gate logits ``[N, P]``."""
        if str(self.recipe) == DEFAULT:  # in one piece, for the sake of the graph
            return self.both(logits, bits, gate_logits)  # type: ignore[no-any-return]
        parts = self._parts(logits, bits, gate_logits)
        found = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return self._combined(found if self.surprisal is None else self.surprisal(found))

    def _parts(self, logits: Tensor, bits: Tensor, gate_logits: Tensor) -> list[Tensor]:
        """``[N, 1]`` each, in the recipe's order; what it does not ask for leaves no trace in a graph."""
        found: dict[str, Tensor] = {}
        if LIKELIHOOD in self.recipe.parts:
            found[LIKELIHOOD] = self.both.likelihood(logits, bits)
        if MAHALANOBIS in self.recipe.parts:
            found[MAHALANOBIS] = self.both.distance(logits, gate_logits)
        if self.disagreement is not None:
            found[DISAGREEMENT] = self.disagreement(logits, bits, gate_logits)
        if self.doubt is not None:
            found[DOUBT] = self.doubt(logits)
        if self.router_gate is not None:
            found[ROUTER_GATE] = self.router_gate(logits, bits, gate_logits)
        if self.sub_architecture is not None:
            found[SUB_ARCHITECTURE] = self.sub_architecture(logits, bits, gate_logits)
        return [found[name] for name in self.recipe.parts]

    def _combined(self, found: Tensor) -> Tensor:
        """``[N, 1]`` of scores or surprisals ``[N, K]``, as `penstock.detect.surprisal.combine` makes it."""
        how = self.recipe.how
        if how == "fisher":
            return 2 * found.sum(dim=1, keepdim=True)
        if not self.recipe.by_surprisal:
            return found.mean(dim=1, keepdim=True)
        top = found.amax(dim=1, keepdim=True)
        if how == "minimum":
            return top
        return top + torch.log(torch.exp(found - top).mean(dim=1, keepdim=True))
