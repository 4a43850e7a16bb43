"""The default detector as a module, so that it is captured into the graph together with the network.

It does, in single precision, what `penstock.detect.combined` does in double; the names are those of its tables.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from penstock.detect.combined import SHAPES, CombinedScore


class DetectorHead(nn.Module):
    """Scores paths.

    Args:
        state: arrays of a fitted `penstock.detect.PathDetector`.
    """

    usual: Tensor
    surprise: Tensor
    mean: Tensor
    scale: Tensor
    directions: Tensor
    direction_weight: Tensor
    residual_weight: Tensor
    location: Tensor
    spread: Tensor

    def __init__(self, state: Mapping[str, npt.NDArray[np.float32]]) -> None:
        super().__init__()
        CombinedScore.from_arrays(state)  # refuses tables that do not fit together
        for name in SHAPES:
            self.register_buffer(name, torch.from_numpy(np.array(state[name])))

    def forward(self, logits: Tensor, bits: Tensor, gate_logits: Tensor) -> Tensor:
        """Anomaly score ``[N, 1]`` of logits ``[N, classes]``, bits and gate logits ``[N, P]``."""
        own = logits.argmax(dim=1)
        raw = torch.cat([self._surprise(own, bits), self._distance(own, gate_logits)], dim=1)
        return ((raw - self.location[own]) / self.spread[own]).mean(dim=1, keepdim=True)

    def likelihood(self, logits: Tensor, bits: Tensor) -> Tensor:
        """The score of the bits alone, ``[N, 1]``, in standard deviations of the predicted class."""
        own = logits.argmax(dim=1)
        return (self._surprise(own, bits) - self.location[own, :1]) / self.spread[own, :1]

    def distance(self, logits: Tensor, gate_logits: Tensor) -> Tensor:
        """The score of the gate logits alone, ``[N, 1]``."""
        own = logits.argmax(dim=1)
        return (self._distance(own, gate_logits) - self.location[own, 1:]) / self.spread[own, 1:]

    def _surprise(self, own: Tensor, bits: Tensor) -> Tensor:
        return ((bits - self.usual[own]).abs() * self.surprise[own]).sum(dim=1, keepdim=True)

    def _distance(self, own: Tensor, gate_logits: Tensor) -> Tensor:
        x = (gate_logits - self.mean[own]) / self.scale
        along = x @ self.directions
        beyond = x - along @ self.directions.T
        return torch.sqrt(
            1
            + (along * along) @ self.direction_weight[:, None]
            + (beyond * beyond).sum(dim=1, keepdim=True) * self.residual_weight
        )
