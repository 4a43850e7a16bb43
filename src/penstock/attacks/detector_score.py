"""The detector's score in PyTorch, differentiable, for attackers who know the detector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penstock.detect import FamilyScore
from penstock.nn.family_head import FamilyHead
from penstock.nn.path_network import GatedOutput
from penstock.paths import PathLayout


class DetectorScore(nn.Module):
    """What exported graphs compute; the predicted class is looked up, not differentiated.

    Args:
        score: fitted.
        layout: of the network's paths.
    """

    def __init__(self, score: FamilyScore, layout: PathLayout) -> None:
        super().__init__()
        self.watched = layout.watched
        self.head = FamilyHead(score)

    def forward(self, output: GatedOutput) -> Tensor:
        """``[N]`` scores of what a network answered."""
        bits, gate_logits = (
            torch.cat(parts, dim=1)[:, self.watched] for parts in (output.codes, output.gate_logits)
        )
        score: Tensor = self.head(output.logits, bits, gate_logits)[:, 0]
        return score

    def seen(self, output: GatedOutput) -> Tensor:
        """``[N, F]``: the gate logits that the detector looks at, each in units of its spread."""
        watched = torch.cat(output.gate_logits, dim=1)[:, self.watched]
        scale: Tensor = self.head.both.scale
        return watched / scale
