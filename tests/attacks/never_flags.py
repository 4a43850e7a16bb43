"""No detector at all: an adaptive attack that cannot beat this one does not work."""

from __future__ import annotations

from torch import Tensor, nn

from penstock.nn.path_network import GatedOutput


class NeverFlags(nn.Module):
    """Looks at nothing."""

    def forward(self, output: GatedOutput) -> Tensor:
        """``[N]`` zeros."""
        return output.logits[:, 0] * 0

    def seen(self, output: GatedOutput) -> Tensor:
        """``[N, 1]`` zeros."""
        return output.logits[:, :1] * 0
