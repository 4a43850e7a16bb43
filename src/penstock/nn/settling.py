"""Settle gates that no image moves: a filter that images always open stays open, one that they never open is gone.

    z_j = 1 for all images      W2[j] = 0, b2[j] = +1
    z_j = 0 for all images      W2[j] = 0, b2[j] = -1

On the images that were looked at nothing changes. On others a filter may now be missing, or there, that its gate would
have decided on otherwise; and a detector that looks at gate logits sees nothing there any more.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.nn.path_network import PathNetwork
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.surgery import GatedNetwork
from penstock.paths import Bits


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A network with settled gates.

    Attributes:
        network: a copy; the original stays as it is.
        opened: number of filters that are open for good.
        closed: number of those that are closed for good.
        asked: number of those that gates still decide on.
    """

    network: GatedNetwork
    opened: int
    closed: int
    asked: int


def settle(network: PathNetwork, paths: Bits) -> Settled:
    """Settle the gates that take no part in telling some paths apart.

    Args:
        network: with gates.
        paths: ``[N, P]`` the paths of the images to go by, one at least.

    Raises:
        UnsupportedError: prototypes or a cascade rule the network, not gates.
        InvalidArgumentError: there are no paths.
    """
    if not isinstance(network, GatedNetwork) or isinstance(network, ConsolidatedNetwork):
        raise UnsupportedError("only gates can be settled; the filters of a prototype are so already")
    if not len(paths):
        raise InvalidArgumentError("no images to settle gates by")
    settled = copy.deepcopy(network)
    always, never = np.asarray(paths.all(axis=0)), np.asarray(~paths.any(axis=0))
    parts = (network.layout.split(rows) for rows in (always, never))
    for layer, opened, closed in zip(settled.gated_layers, *parts, strict=True):
        _fix(layer.gate.expand, opened, 1.0)
        _fix(layer.gate.expand, closed, -1.0)
    return Settled(
        network=settled,
        opened=int(always.sum()),
        closed=int(never.sum()),
        asked=int((~always & ~never).sum()),
    )


@torch.no_grad()
def _fix(expand: nn.Linear, rows: npt.NDArray[np.bool_], logit: float) -> None:
    chosen = torch.from_numpy(rows)
    expand.weight[chosen] = 0
    expand.bias[chosen] = logit
