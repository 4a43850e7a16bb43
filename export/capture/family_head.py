"""The detectors of `penstock.detect.family` as modules, so that they can be captured with a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penstock.detect.doubt import DoubtScore
from penstock.detect.family import DEFAULT, DISAGREEMENT, DOUBT, PARTS, ROUTER_GATE, FamilyDetector
from penstock.detect.router_gate import GateDisagreement
from penstock.detect.surprisal import Surprisal
from penstock.export.capture.disagreement_head import DisagreementHead
from penstock.export.capture.head import DetectorHead


class SurprisalHead(nn.Module):
    """`penstock.detect.surprisal.Surprisal` of one score."""

    knots: Tensor
    bends: Tensor
    start: Tensor

    def __init__(self, tables: Surprisal) -> None:
        super().__init__()
        self.register_buffer("knots", torch.from_numpy(tables.knots.copy()))
        self.register_buffer("bends", torch.from_numpy(tables.bends[:, None].copy()))
        self.register_buffer("start", torch.tensor([tables.start], dtype=torch.float32))

    def forward(self, score: Tensor) -> Tensor:
        """Surprisals ``[N, 1]`` of scores ``[N, 1]``."""
        return torch.relu(score - self.knots) @ self.bends + self.start


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
        below = logits - logits.amax(dim=1, keepdim=True)
        unsure = torch.log(torch.exp(below).sum(dim=1, keepdim=True))
        return (unsure - self.location) / self.spread


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
        strange = ((apart - self.usual[own]).abs() * self.surprise[own]).sum(dim=1, keepdim=True)
        return (strange - self.location[own]) / self.spread[own]


class FamilyHead(nn.Module):
    """Scores paths as a fitted detector of the family does.

    Args:
        detector: fitted.
    """

    def __init__(self, detector: FamilyDetector) -> None:
        super().__init__()
        self.name = detector.name
        self.combination = detector.combination
        self.both = DetectorHead(detector.combined.arrays())
        self.disagreement = DisagreementHead(detector.disagreement)
        self.doubt = None if detector.doubt is None else DoubtHead(detector.doubt)
        self.router_gate = RouterGateHead(detector.router_gate)
        self.surprisals = nn.ModuleList(SurprisalHead(tables) for tables in detector.surprisals)

    def forward(self, logits: Tensor, bits: Tensor, gate_logits: Tensor) -> Tensor:
        """Anomaly score ``[N, 1]`` of logits ``[N, classes]``, bits and gate logits ``[N, P]``."""
        if self.name == DEFAULT:
            return self.both(logits, bits, gate_logits)  # type: ignore[no-any-return]
        if self.name == DISAGREEMENT:
            return self.disagreement(logits, bits, gate_logits)  # type: ignore[no-any-return]
        if self.name == ROUTER_GATE:
            return self.router_gate(logits, bits, gate_logits)  # type: ignore[no-any-return]
        if self.name == DOUBT:
            assert self.doubt is not None
            return self.doubt(logits)  # type: ignore[no-any-return]
        both = self.both.components(logits, bits, gate_logits)
        if self.combination is None:
            place = PARTS.index(self.name)
            return both[:, place : place + 1]
        assert self.doubt is not None
        disagreement = self.disagreement(logits, bits, gate_logits)
        parts = (*torch.split(both, 1, dim=1), disagreement, self.doubt(logits))
        found = torch.cat([one(part) for one, part in zip(self.surprisals, parts, strict=True)], dim=1)
        return self._combined(found)

    def _combined(self, found: Tensor) -> Tensor:
        """``[N, 1]`` of surprisals ``[N, 4]``."""
        if self.combination == "fisher":
            return 2 * found.sum(dim=1, keepdim=True)
        top = found.amax(dim=1, keepdim=True)
        if self.combination == "minimum":
            return top
        return top + torch.log(torch.exp(found - top).mean(dim=1, keepdim=True))
