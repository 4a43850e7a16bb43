"""The default detector as a module, so that it is captured into the graph together with the network.

It does, in single precision, what `penstock.detect.combined` does in double; the names are those of its tables. Of
distances it computes

    sum_j (x W)_j^2,    W = U diag(direction_weight)^1/2 U^T + (I - U U^T) residual_weight^1/2,    U = directions

where that takes fewer multiplications than the two thin products: paths of few bits, as observers have.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from penstock.detect.combined import SHAPES, CombinedScore
from penstock.nn.rows import rows


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
    whitening: Tensor | None

    def __init__(self, state: Mapping[str, npt.NDArray[np.float32]]) -> None:
        super().__init__()
        CombinedScore.from_arrays(state)  # refuses tables that do not fit together
        for name in SHAPES:
            self.register_buffer(name, torch.from_numpy(np.array(state[name])))
        filters, rank = self.directions.shape
        whitening = self._whitening() if filters <= 2 * rank else None
        self.register_buffer("whitening", whitening, persistent=False)

    def forward(self, logits: Tensor, bits: Tensor, gate_logits: Tensor) -> Tensor:
        """Anomaly score ``[N, 1]`` of logits ``[N, classes]``, bits and gate logits ``[N, P]``."""
        own = logits.argmax(dim=1)
        raw = torch.cat([self._surprise(own, bits), self._distance(own, gate_logits)], dim=1)
        return self._standard(own, raw, slice(None)).mean(dim=1, keepdim=True)

    def likelihood(self, logits: Tensor, bits: Tensor) -> Tensor:
        """The score of the bits alone, ``[N, 1]``, in standard deviations of the predicted class."""
        own = logits.argmax(dim=1)
        return self._standard(own, self._surprise(own, bits), slice(0, 1))

    def distance(self, logits: Tensor, gate_logits: Tensor) -> Tensor:
        """The score of the gate logits alone, ``[N, 1]``."""
        own = logits.argmax(dim=1)
        return self._standard(own, self._distance(own, gate_logits), slice(1, 2))

    def _standard(self, own: Tensor, raw: Tensor, which: slice) -> Tensor:
        location, spread = (rows(table[:, which], own) for table in (self.location, self.spread))
        return (raw - location) / spread

    def _surprise(self, own: Tensor, bits: Tensor) -> Tensor:
        return ((bits - rows(self.usual, own)).abs() * rows(self.surprise, own)).sum(dim=1, keepdim=True)

    def _distance(self, own: Tensor, gate_logits: Tensor) -> Tensor:
        x = (gate_logits - rows(self.mean, own)) / self.scale
        if self.whitening is not None:
            white = x @ self.whitening
            return torch.sqrt(1 + (white * white).sum(dim=1, keepdim=True))
        along = x @ self.directions
        beyond = x - along @ self.directions.T
        return torch.sqrt(
            1
            + (along * along) @ self.direction_weight[:, None]
            + (beyond * beyond).sum(dim=1, keepdim=True) * self.residual_weight
        )

    def _whitening(self) -> Tensor:
        """W, ``[P, P]``, in single precision."""
        directions = self.directions.double()
        along = directions * self.direction_weight.double().sqrt()
        beyond = torch.eye(len(directions), dtype=torch.float64) - directions @ directions.T
        return (along @ directions.T + beyond * self.residual_weight.double().sqrt()).float()
