"""What a path costs, differentiably: the form of `PathLayout.active_macs` that training and export use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penstock.paths import PathLayout


class ActiveMacs(nn.Module):
    """Differentiable form of `PathLayout.active_macs`, in a handful of operators however deep the network.

    With ``d`` the layers' densities, a 1 appended for each follower, the share is ``fixed + (d * (d W + b)) macs``,
    where ``d W + b`` is the share of input channels that are there.

    Args:
        layout: what a path's bits cost.
    """

    membership: Tensor
    reads: Tensor
    always: Tensor
    macs: Tensor

    def __init__(self, layout: PathLayout) -> None:
        super().__init__()
        membership = torch.zeros(layout.bits, len(layout.layers))
        for index, (part, layer) in enumerate(zip(layout.slices, layout.layers, strict=True)):
            membership[part, index] = 1 / layer.filters
        # Observers rule nothing; behind all other layers, where they usually stand, nobody has to look at them.
        ruling = [
            part.stop for part, layer in zip(layout.slices, layout.layers, strict=True) if not layer.observes
        ]
        self.counted = max(ruling, default=layout.bits)
        reads, always = (torch.from_numpy(array).float() for array in layout.input_shares())
        share = [[macs / layout.dense_macs] for macs in layout.reader_macs]
        self.fixed = layout.fixed_macs / layout.dense_macs
        self.followers = len(layout.followers)
        # Derived from the layout, so they have no place in a checkpoint.
        self.register_buffer("membership", membership[: self.counted], persistent=False)
        self.register_buffer("reads", reads, persistent=False)
        self.register_buffer("always", always, persistent=False)
        self.register_buffer("macs", torch.tensor(share), persistent=False)

    def forward(self, path: Tensor) -> Tensor:
        """Share of the dense MACs, ``[N, 1]``, of codes ``[N, P]``, hard or soft, in network order."""
        density = path[:, : self.counted] @ self.membership
        entering = density @ self.reads + self.always
        if self.followers:
            density = torch.nn.functional.pad(density, (0, self.followers), value=1.0)
        share: Tensor = (density * entering) @ self.macs + self.fixed
        return share
