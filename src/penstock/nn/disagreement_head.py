"""The disagreement between predicted class and path as a module, so that it can be captured with a network.

It does, in single precision, what `penstock.detect.disagreement` does in double; the names are those of its tables.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from penstock.detect.disagreement import ClassDisagreement
from penstock.nn.rows import rows

FAR = float(np.finfo(np.float32).max) / 4  # farther than any class, and what is added to it stays a number


class DisagreementHead(nn.Module):
    """Scores paths by how much nearer they are to another class.

    Args:
        tables: fitted ones.
    """

    usual: Tensor
    slope: Tensor
    constant: Tensor
    location: Tensor
    spread: Tensor
    unlike: Tensor

    def __init__(self, tables: ClassDisagreement) -> None:
        super().__init__()
        for name, table in vars(tables).items():
            self.register_buffer(name, torch.from_numpy(np.array(table)))
        self.register_buffer("unlike", torch.eye(len(tables.slope)) * FAR)

    def forward(self, logits: Tensor, bits: Tensor, gate_logits: Tensor) -> Tensor:
        """Anomaly score ``[N, 1]`` of logits ``[N, classes]`` and bits ``[N, P]``; gate logits play no part."""
        own = logits.argmax(dim=1)
        distance = self.constant + (bits - self.usual) @ self.slope.T
        nearest = (distance + rows(self.unlike, own)).amin(dim=1, keepdim=True)
        nearer = distance.gather(1, own[:, None]) - nearest
        return (nearer - rows(self.location, own)) / rows(self.spread, own)
