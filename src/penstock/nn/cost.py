"""What a network costs, in multiply-accumulates (MACs) for one input.

The convention is that of fvcore: one multiply with its add is one MAC; an average pooling costs one MAC per element
it reads; batch norm costs nothing, because it folds into its convolution; activations, max pooling, adds of tensors
and moving of data cost nothing. An operator that is in neither table is an error, never a silent zero.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from penstock.errors import SurgeryError
from penstock.paths import PathLayout

FREE_MODULES = (nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Identity, nn.Dropout, nn.Flatten)
FREE_FUNCTIONS: frozenset[object] = frozenset(
    {operator.add, operator.sub, operator.mul, operator.truediv, operator.getitem, torch.flatten, torch.add}
    | {F.relu, torch.relu, F.pad, torch.cat, getattr}  # getattr: a tensor's shape
)
FREE_METHODS = frozenset({"flatten", "view", "reshape", "size", "relu"})


def node_macs(node: fx.Node, modules: dict[str, nn.Module]) -> int:
    """MACs of one node of a traced graph that went through ``ShapeProp`` with a batch of one.

    Raises:
        SurgeryError: the operator's cost is unknown.
    """
    if node.op in ("placeholder", "output", "get_attr"):
        return 0
    if node.op == "call_module":
        module = modules[str(node.target)]
        for kind, count in COUNTED_MODULES.items():
            if isinstance(module, kind):
                return count(module, shape_of(node.all_input_nodes[0]), shape_of(node))
        if isinstance(module, FREE_MODULES):
            return 0
        raise SurgeryError(f"cannot count the MACs of {node.target} ({type(module).__name__})")
    if (node.op == "call_function" and node.target in FREE_FUNCTIONS) or node.target in FREE_METHODS:
        return 0
    raise SurgeryError(f"cannot count the MACs of {node.name} ({node.op} {node.target})")


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape that ``ShapeProp`` saw at a node."""
    return tuple(node.meta["tensor_meta"].shape)


def conv_macs(conv: nn.Conv2d, output: Sequence[int]) -> int:
    """``H' W' filters (C / groups) k_h k_w``."""
    return prod(output[1:]) * (conv.in_channels // conv.groups) * prod(conv.kernel_size)


COUNTED_MODULES: dict[type[nn.Module], Callable[..., int]] = {
    nn.Conv2d: lambda conv, _, output: conv_macs(conv, output),
    nn.Linear: lambda linear, _, output: prod(output[1:]) * linear.in_features,
    nn.AdaptiveAvgPool2d: lambda _, entering, __: prod(entering[1:]),
    nn.AvgPool2d: lambda _, entering, __: prod(entering[1:]),
}


class ActiveMacs(nn.Module):
    """Differentiable form of `PathLayout.active_macs`, in a handful of operators however deep the network.

    With ``d`` the layers' densities, a 1 appended for layers whose input is always whole, the share is
    ``fixed + sum_l macs_l d_l d_src(l)``.

    Args:
        layout: what a path's bits cost.
    """

    membership: Tensor
    source: Tensor
    macs: Tensor

    def __init__(self, layout: PathLayout) -> None:
        super().__init__()
        layers = layout.layers
        membership = torch.zeros(layout.bits, len(layers))
        for index, (part, layer) in enumerate(zip(layout.slices, layers, strict=True)):
            membership[part, index] = 1 / layer.filters
        source = [len(layers) if layer.source is None else layer.source for layer in layers]
        share = [[layer.macs / layout.dense_macs] for layer in layers]
        self.fixed = layout.fixed_macs / layout.dense_macs
        # Derived from the layout, so they have no place in a checkpoint.
        self.register_buffer("membership", membership, persistent=False)
        self.register_buffer("source", torch.tensor(source), persistent=False)
        self.register_buffer("macs", torch.tensor(share), persistent=False)

    def forward(self, path: Tensor) -> Tensor:
        """Share of the dense MACs, ``[N, 1]``, of codes ``[N, P]``, hard or soft, in network order."""
        density = path @ self.membership
        entering = torch.nn.functional.pad(density, (0, 1), value=1.0)[:, self.source]
        share: Tensor = (density * entering) @ self.macs + self.fixed
        return share
