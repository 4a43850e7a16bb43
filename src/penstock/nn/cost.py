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
    | {F.relu, torch.relu, F.pad, torch.cat}
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


def active_macs(layout: PathLayout, codes: Sequence[Tensor]) -> Tensor:
    """Differentiable form of `PathLayout.active_macs`.

    Args:
        layout: what the codes cost.
        codes: z of each layer, ``[N, filters]``, hard or soft.

    Returns:
        ``[N]`` share of the dense MACs.
    """
    density = [code.mean(dim=1) for code in codes]
    share = torch.full_like(density[0], layout.fixed_macs / layout.dense_macs)
    for own, layer in zip(density, layout.layers, strict=True):
        entering = own if layer.source is None else own * density[layer.source]
        share = share + entering * (layer.macs / layout.dense_macs)
    return share
