"""The stand-in for an observer while its network is captured: ordinary operators, its normalisation folded in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penstock.nn.observers import Observer


class CapturedObserver(nn.Module):
    """Stands for an `Observer`: the same decision in operators that export well.

    Args:
        observer: what it stands for.
    """

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        weights = observer.gate.folded()
        self.tensors = nn.ParameterList(nn.Parameter(tensor, requires_grad=False) for tensor in weights)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The results of `Observer.forward`."""
        reduce, before, expand, behind = self.tensors
        hidden = torch.relu(nn.functional.linear(x.mean(dim=(2, 3)), reduce, before))
        logits = nn.functional.linear(hidden, expand, behind)
        code = (logits > 0).to(logits.dtype)
        return code, logits, code
