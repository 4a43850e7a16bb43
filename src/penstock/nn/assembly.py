"""How a network with paths is put together from a dense one: what a checkpoint must remember beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.cascade import Cascade
from penstock.nn.gates import GateConfig
from penstock.nn.observers import ObserverConfig, attach_observers, unruled
from penstock.nn.path_network import PathNetwork
from penstock.nn.prototypes import PrototypeConfig, attach_prototypes
from penstock.nn.surgery import GatedNetwork, attach_gates


@dataclass(frozen=True, kw_only=True)
class Member:
    """One network with paths.

    Attributes:
        gate: shape of its gates; ``None``: the dense network as it is.
        prototypes: shape of its routers and prototypes; ``None`` if it has gates.
        observers: number and shape of its observers; ``None`` if it has none.
    """

    gate: GateConfig | None
    prototypes: PrototypeConfig | None = None
    observers: ObserverConfig | None = None


def assemble(dense: nn.Module, example: Tensor, members: Sequence[Member]) -> PathNetwork:
    """Put a network with paths together, without its weights.

    Args:
        dense: the network that it was made from.
        example: one input, ``[1, C, H, W]``.
        members: one for a network with gates or prototypes, two for a cascade.

    Raises:
        InvalidArgumentError: other numbers of members, or ones that do not fit the network.
    """
    if len(members) not in (1, 2):
        raise InvalidArgumentError(f"{len(members)} members; a network has one, a cascade two")
    parts = [_part(dense, example, member) for member in members]
    if len(parts) == 1:
        return parts[0]
    first, second = parts
    return Cascade(first, second)


def _part(dense: nn.Module, example: Tensor, member: Member) -> GatedNetwork:
    network = unruled(dense, example) if member.gate is None else attach_gates(dense, example, member.gate)
    if member.prototypes is not None:
        network = attach_prototypes(network, member.prototypes)
    return network if member.observers is None else attach_observers(network, member.observers)
