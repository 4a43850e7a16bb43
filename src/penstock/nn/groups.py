"""Groups conv -> (batch norm) -> (activation) in a traced graph: what one gate rules together."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from penstock.nn.operators import OTHER_ACTIVATIONS, ZERO_ACTIVATIONS, kind_of

# The mask stands behind the activation, so a closed filter gives zero even where the activation of zero is not zero.
ACTIVATIONS = (ZERO_ACTIVATIONS | OTHER_ACTIVATIONS) - {"clamp"}
FUNCTIONAL: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
}


@dataclass(frozen=True, eq=False)
class Group:
    """A convolution and what alone reads it.

    Attributes:
        name: qualified name of the convolution.
        conv: the convolution.
        norm: its batch norm, or an identity.
        activation: its activation, or an identity.
        nodes: their calls, in order.
    """

    name: str
    conv: nn.Conv2d
    norm: nn.Module
    activation: nn.Module
    nodes: tuple[fx.Node, ...]


class GroupFinder:
    """Finds the group of a convolution.

    Args:
        graph: the traced graph.
        modules: its modules by name.
    """

    def __init__(self, graph: fx.Graph, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.uses = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")

    def group(self, node: fx.Node, conv: nn.Conv2d) -> Group:
        """The group that begins with the call of ``conv`` at ``node``."""
        nodes = [node]
        norm = self._norm(_only_reader(node))
        if norm is not None:
            nodes += node.users
        activation = self._activation(_only_reader(nodes[-1]))
        if activation is not None:
            nodes += nodes[-1].users
        return Group(str(node.target), conv, norm or nn.Identity(), activation or nn.Identity(), tuple(nodes))

    def _norm(self, reader: fx.Node | None) -> nn.Module | None:
        if reader is None or reader.op != "call_module":
            return None
        module = self.modules[str(reader.target)]
        # A shared batch norm holds the statistics of others too.
        alone = self.uses[str(reader.target)] == 1
        return module if isinstance(module, nn.BatchNorm2d) and alone else None

    def _activation(self, reader: fx.Node | None) -> nn.Module | None:
        kind = "" if reader is None else kind_of(reader, self.modules)
        if reader is None or kind not in ACTIVATIONS:
            return None
        if reader.op != "call_module":
            return _module_form(reader, FUNCTIONAL.get(kind))
        module = self.modules[str(reader.target)]
        if any(True for _ in module.parameters()):
            return module if self.uses[str(reader.target)] == 1 else None
        # It holds nothing, so a shared one may be copied; in place it would change what the response is taken from.
        return _not_in_place(copy.deepcopy(module))


def _only_reader(node: fx.Node) -> fx.Node | None:
    readers = list(node.users)
    return readers[0] if len(readers) == 1 else None


def _module_form(call: fx.Node, kind: type[nn.Module] | None) -> nn.Module | None:
    """The module that does what a functional activation does; its arguments come in the same order."""
    arguments = (*call.args[1:], *call.kwargs.values())
    if kind is None or not call.args or any(isinstance(argument, fx.Node) for argument in arguments):
        return None
    named = {name: value for name, value in call.kwargs.items() if name != "inplace"}
    return _not_in_place(kind(*call.args[1:], **named))


def _not_in_place(module: nn.Module) -> nn.Module:
    if getattr(module, "inplace", False):
        vars(module)["inplace"] = False
    return module
