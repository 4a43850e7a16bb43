"""Which operators treat every channel of ``[N, C, ...]`` alike, so that they work on a few channels as on all."""

from __future__ import annotations

import onnx_ir as ir

from penstock.export.building import constant_array, is_constant

# They keep zeros zero.
ZERO_KEEPING = frozenset(
    {
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Relu",
        "LeakyRelu",
        "Elu",
        "HardSwish",
        "Tanh",
    }
)
OTHERS = frozenset({"Sigmoid", "HardSigmoid", "Softplus", "Exp"})
# What a code passes through on its way to a depthwise convolution's result.
MASK_FORMS = frozenset({"Unsqueeze", "Cast", "Identity"})


def is_channelwise(node: ir.Node) -> bool:
    """Whether each channel of the result depends on the same channel of the first input alone, and alike."""
    return keeps_zeros(node) or node.op_type in OTHERS or node.op_type == "Clip"


def keeps_zeros(node: ir.Node) -> bool:
    """Whether it is channelwise and a channel of zeros stays one."""
    if node.op_type in ZERO_KEEPING:
        return True
    if node.op_type == "Clip":
        low, high = (*node.inputs[1:], None, None)[:2]
        low_holds = low is None or bool(constant_array(low) <= 0)
        return low_holds and (high is None or bool(constant_array(high) >= 0))
    if node.op_type != "ReduceMean" or not node.attributes.get_int("keepdims", 1):
        return False
    averaged = _averaged(node)
    return bool(averaged) and min(averaged) >= 2  # of ``[N, C]``, the axis -1 is the channels


def is_flattening(node: ir.Node) -> bool:
    """Whether ``[N, C, 1, 1]`` becomes ``[N, C]``, or spatial dimensions are averaged away."""
    before, after = node.inputs[0], node.outputs[0]
    if before is None or before.shape is None or after.shape is None or len(after.shape) != 2:
        return False
    channels = before.shape[1]
    if node.op_type == "ReduceMean" and len(before.shape) == 4:
        return _averaged(node) == {2, 3}
    return (
        node.op_type in ("Flatten", "Reshape", "Squeeze")
        and list(before.shape[2:]) == [1] * (len(before.shape) - 2)
        and after.shape[1] == channels
    )


def _averaged(node: ir.Node) -> set[int]:
    """Over which axes a mean is taken, counted from the front; none where that is not known."""
    x, axes = (*node.inputs, None)[:2]
    if x is None or x.shape is None or not is_constant(axes):
        return set()
    return {int(axis) % len(x.shape) for axis in constant_array(axes).ravel()}
