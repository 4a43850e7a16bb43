"""The detector's score in PyTorch, differentiable, for attackers who know the detector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penstock.detect import PathDetector
from penstock.nn.path_network import GatedOutput
from penstock.paths import PathLayout


class DetectorScore(nn.Module):
    """The formula of `penstock.detect.combined`; the predicted class is looked up, not differentiated.

    Args:
        detector: fitted.
        layout: of the network's paths.
    """

    def __init__(self, detector: PathDetector, layout: PathLayout) -> None:
        super().__init__()
        self.watched = layout.watched
        for name, table in detector.state().items():
            self.register_buffer(name, torch.from_numpy(table))

    def forward(self, output: GatedOutput) -> Tensor:
        """``[N]`` scores of what a network answered."""
        tables: dict[str, Tensor] = dict(self.named_buffers())
        own = output.logits.argmax(1)
        bits, logits = (
            torch.cat(parts, dim=1)[:, self.watched] for parts in (output.codes, output.gate_logits)
        )
        surprise = ((bits - tables["usual"][own]).abs() * tables["surprise"][own]).sum(1)
        x = (logits - tables["mean"][own]) / tables["scale"]
        along = x @ tables["directions"]
        beyond = x - along @ tables["directions"].T
        squares = along**2 @ tables["direction_weight"] + (beyond**2).sum(1) * tables["residual_weight"]
        raw = torch.stack([surprise, torch.sqrt(1 + squares)], dim=1)
        score: Tensor = ((raw - tables["location"][own]) / tables["spread"][own]).mean(1)
        return score


class NeverFlags(nn.Module):
    """No detector at all: an adaptive attack that cannot beat this one does not work."""

    def forward(self, output: GatedOutput) -> Tensor:
        """``[N]`` zeros."""
        return output.logits[:, 0] * 0
