"""What every network with paths is and answers, whatever decides on its paths: gates, routers or a cascade."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from penstock.nn.cost import ActiveMacs
from penstock.paths import PathLayout


class GatedOutput(NamedTuple):
    """What a gated network answers.

    Attributes:
        logits: the original network's output, as it gave it: a tensor, or for a network with several outputs the
            tuple, named tuple or dict that it returns.
        codes: z of each gated layer, ``[N, filters]``.
        gate_logits: y of each gated layer, ``[N, filters]``.
        responses: unmasked output of each gated layer averaged over space, ``[N, filters]``.
        active_macs: share of the dense network's MACs that the codes ask for, ``[N, 1]``.
    """

    logits: Tensor
    codes: tuple[Tensor, ...]
    gate_logits: tuple[Tensor, ...]
    responses: tuple[Tensor, ...]
    active_macs: Tensor


class PathNetwork(nn.Module):
    """A network that answers images ``[N, C, H, W]`` with a `GatedOutput`.

    Attributes:
        layout: order, size and cost of its gated layers.
        active_macs: counts what codes cost.
    """

    def __init__(self, layout: PathLayout) -> None:
        super().__init__()
        self.layout = layout
        self.active_macs = ActiveMacs(layout)

    @property
    def decides(self) -> tuple[bool, ...]:
        """For each layer of the path whether it decides something: observers do not, nor does what is fixed."""
        return tuple(not layer.observes for layer in self.layout.layers)
