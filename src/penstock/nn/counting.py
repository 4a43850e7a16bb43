"""What a network costs, in multiply-accumulates (MACs) for one input.

The convention is that of fvcore: one multiply with its add is one MAC.

- Convolutions, also transposed ones, linear layers and products of matrices cost their products.
- An average pooling, a mean or a sum costs one MAC per element that it reads.
- Interpolation costs one MAC per element that it weighs: 4 for each of the output's in bilinear form, 16 in bicubic,
  none in nearest form, which only copies.
- Layer, group and instance norms cost 5 MACs per element, 4 without affine parameters.
- Batch norm costs nothing, because it folds into its convolution; activations, max pooling, adds of tensors and moving
  of data cost nothing.
- A module that is kept whole (`leaves`) costs what PyTorch is seen to run inside, by the same convention for products
  and average poolings; everything else in it is not counted.

Any other operator is an error, never a silent zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from torch import fx, nn

from penstock.errors import SurgeryError
from penstock.nn.operators import (
    AVERAGE_POOLS,
    KINDS,
    NORMS,
    REDUCTIONS,
    argument,
    kind_of,
    shape_of,
    shapes_of,
    tensor_input,
)

Modules = Mapping[str, nn.Module]
INTERPOLATION = {"nearest": 0, "nearest-exact": 0, "bilinear": 4, "bicubic": 16}


def node_macs(node: fx.Node, modules: Modules) -> int:
    """MACs of one node of a measured graph (`penstock.nn.tracing`).

    Raises:
        SurgeryError: the operator's cost is unknown.
    """
    if node.op in ("placeholder", "output", "get_attr"):
        return 0
    if "macs" in node.meta:  # a module kept whole
        return int(node.meta["macs"])
    kind = kind_of(node, modules)
    if kind in COUNTED:
        return COUNTED[kind](node, modules)
    # What gives no tensor, a size or an assertion, costs nothing.
    if kind or not (shape_of(node) or shapes_of(node)):
        return 0
    raise SurgeryError(f"cannot count the MACs of {_describe(node, modules)}")


def conv_macs(conv: nn.Module, output: Sequence[int]) -> int:
    """``H' W' filters (C / groups) k_h k_w``."""
    weight = conv.weight
    assert not isinstance(weight, nn.Module)
    return prod(output[2:]) * weight.numel()


def _describe(node: fx.Node, modules: Modules) -> str:
    """Name of an unknown operator, where it stands in the user's code, and what to do."""
    place = f" at {node.meta['line']}" if node.meta.get("line") else ""
    if node.op == "call_module":
        kind = type(modules[str(node.target)]).__name__
        known, remedy = f"{node.target} ({kind})", f"name it in leaves={[str(node.target)]!r}"
    else:
        known = f"{node.name} ({node.op} {getattr(node.target, '__name__', node.target)})"
        remedy = "move it into a module of its own and name that module in leaves"
    return f"{known}{place}: {remedy}, and what runs inside is counted"


def _weight_shape(node: fx.Node, modules: Modules) -> tuple[int, ...]:
    if node.op == "call_module":
        weight = modules[str(node.target)].weight
        assert not isinstance(weight, nn.Module)
        return tuple(weight.shape)
    weight_node = argument(node, 1, "weight", None)
    assert isinstance(weight_node, fx.Node)
    return shape_of(weight_node)


def _conv(node: fx.Node, modules: Modules) -> int:
    return prod(shape_of(node)[2:]) * prod(_weight_shape(node, modules))


def _conv_transpose(node: fx.Node, modules: Modules) -> int:
    return prod(shape_of(tensor_input(node))[2:]) * prod(_weight_shape(node, modules))


def _linear(node: fx.Node, modules: Modules) -> int:
    return prod(shape_of(node)) * _weight_shape(node, modules)[-1]


def _matmul(node: fx.Node, modules: Modules) -> int:
    return prod(shape_of(node)) * shape_of(tensor_input(node))[-1]


def _reads(node: fx.Node, modules: Modules) -> int:
    return prod(shape_of(tensor_input(node)))


def _norm(node: fx.Node, modules: Modules) -> int:
    if node.op == "call_module":
        affine = getattr(modules[str(node.target)], "weight", None) is not None
    else:
        affine = any(user is not tensor_input(node) for user in node.all_input_nodes)
    return prod(shape_of(node)) * (5 if affine else 4)


def _interpolate(node: fx.Node, modules: Modules) -> int:
    if node.op == "call_module":
        mode = getattr(modules[str(node.target)], "mode", "nearest")
    else:
        mode = argument(node, 3, "mode", "nearest")
    if mode not in INTERPOLATION:
        raise SurgeryError(f"cannot count the MACs of {_describe(node, modules)} (mode {mode!r})")
    return INTERPOLATION[str(mode)] * prod(shape_of(node))


COUNTED: dict[str, Callable[[fx.Node, Modules], int]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "matmul": _matmul,
    "interpolate": _interpolate,
    **dict.fromkeys(NORMS, _norm),
    **dict.fromkeys(AVERAGE_POOLS | REDUCTIONS, _reads),
}
assert COUNTED.keys() <= KINDS
