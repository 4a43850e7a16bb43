"""Operators by name: a ReLU is one, however it is written.

``nn.ReLU()(x)``, ``F.relu(x)``, ``torch.relu(x)`` and ``x.relu()`` are all ``relu`` here. `kind_of` gives a traced
node's common name; what it costs stands in `penstock.nn.counting`, what it does to closed channels in
`penstock.nn.channels`. A function that only bears such a name is not taken for it: functions are told by identity,
modules by their class.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import fx, nn

# fmt: off
# Elementwise, and zero stays zero. Clamps with other bounds are looked at one by one.
ZERO_ACTIVATIONS = frozenset({
    "relu", "relu6", "hardswish", "silu", "leaky_relu", "prelu", "gelu", "elu", "selu", "celu", "mish", "tanh",
    "softsign", "hardtanh", "clamp",
})
OTHER_ACTIVATIONS = frozenset({"sigmoid", "hardsigmoid", "softplus", "logsigmoid"})
MAX_POOLS = frozenset({"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d"})
AVERAGE_POOLS = frozenset({
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
})
REDUCTIONS = frozenset({"mean", "sum"})
DROPOUTS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"})
COPIES = frozenset({"identity", "contiguous", "clone", "detach", "float", "half", "to", "type_as"})
RESHAPES = frozenset({"flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze"})
MOVES = frozenset({
    "permute", "transpose", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "expand", "repeat", "roll", "flip",
})
SPLITS = frozenset({"chunk", "split"})
ARITHMETIC = frozenset({
    "add", "sub", "mul", "truediv", "neg", "pow", "sqrt", "rsqrt", "abs", "exp", "square", "floordiv", "amax", "amin",
    "stack",
})
NORMS = frozenset({"group_norm", "layer_norm", "instance_norm"})
PRODUCTS = frozenset({"conv", "conv_transpose", "linear", "matmul"})
OTHERS = frozenset({
    "alpha_dropout", "batch_norm", "pad", "cat", "getitem", "interpolate", "softmax", "log_softmax", "getattr",
    "tuple",
})
# fmt: on

KINDS = frozenset().union(
    *(ZERO_ACTIVATIONS, OTHER_ACTIVATIONS, MAX_POOLS, AVERAGE_POOLS, REDUCTIONS, DROPOUTS, COPIES, RESHAPES),
    *(MOVES, SPLITS, ARITHMETIC, NORMS, PRODUCTS, OTHERS),
)

# Names that differ from the common one; all kinds are names of functions too.
_ALIASES = {
    "conv": ("conv1d", "conv2d", "conv3d"),
    "conv_transpose": ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    "matmul": ("bmm", "mm", "imatmul"),
    "cat": ("concat", "concatenate"),
    "truediv": ("div", "true_divide", "itruediv"),
    "mul": ("multiply", "imul"),
    "add": ("iadd",),
    "sub": ("subtract", "isub"),
    "hardtanh": ("hardtanh_",),
    "clamp": ("clip",),
}

# In order: the first that fits counts, so a subclass stands before its base.
MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.modules.conv._ConvTransposeNd, "conv_transpose"),
    (nn.modules.conv._ConvNd, "conv"),
    (nn.Linear, "linear"),
    (nn.modules.batchnorm._BatchNorm, "batch_norm"),
    (nn.modules.instancenorm._InstanceNorm, "instance_norm"),
    (nn.GroupNorm, "group_norm"),
    (nn.LayerNorm, "layer_norm"),
    (nn.modules.pooling._MaxPoolNd, "max_pool2d"),
    (nn.modules.pooling._AdaptiveMaxPoolNd, "adaptive_max_pool2d"),
    (nn.modules.pooling._AvgPoolNd, "avg_pool2d"),
    (nn.modules.pooling._AdaptiveAvgPoolNd, "adaptive_avg_pool2d"),
    (nn.AlphaDropout, "alpha_dropout"),
    (nn.FeatureAlphaDropout, "alpha_dropout"),
    (nn.modules.dropout._DropoutNd, "dropout"),
    (nn.modules.padding._ConstantPadNd, "pad"),
    (nn.modules.padding._ReflectionPadNd, "pad"),
    (nn.modules.padding._ReplicationPadNd, "pad"),
    (nn.modules.padding._CircularPadNd, "pad"),
    (nn.Upsample, "interpolate"),
    (nn.Flatten, "flatten"),
    (nn.Unflatten, "unflatten"),
    (nn.Identity, "identity"),
    (nn.PixelShuffle, "pixel_shuffle"),
    (nn.PixelUnshuffle, "pixel_unshuffle"),
    (nn.ChannelShuffle, "channel_shuffle"),
    (nn.ReLU6, "relu6"),
    (nn.Hardtanh, "hardtanh"),
    (nn.ReLU, "relu"),
    (nn.Hardswish, "hardswish"),
    (nn.SiLU, "silu"),
    (nn.LeakyReLU, "leaky_relu"),
    (nn.PReLU, "prelu"),
    (nn.GELU, "gelu"),
    (nn.ELU, "elu"),
    (nn.SELU, "selu"),
    (nn.CELU, "celu"),
    (nn.Mish, "mish"),
    (nn.Tanh, "tanh"),
    (nn.Softsign, "softsign"),
    (nn.Sigmoid, "sigmoid"),
    (nn.Hardsigmoid, "hardsigmoid"),
    (nn.Softplus, "softplus"),
    (nn.LogSigmoid, "logsigmoid"),
    (nn.Softmax, "softmax"),
    (nn.Softmax2d, "softmax"),
    (nn.LogSoftmax, "log_softmax"),
)


# Modules that drop a whole residual branch in training, as torchvision and timm call them.
STOCHASTIC_DEPTH = frozenset({"StochasticDepth", "DropPath"})


def _named() -> tuple[dict[object, str], dict[str, str]]:
    """Functions and methods to their common names."""
    functions: dict[object, str] = {getattr: "getattr"}
    methods: dict[str, str] = {}
    for kind in KINDS:
        for name in (kind, *_ALIASES.get(kind, ())):
            for spelled in (name, f"{name}_"):  # with an underscore: in place
                found = [getattr(space, spelled, None) for space in (torch, F, operator)]
                functions |= {function: kind for function in found if callable(function)}
                if hasattr(torch.Tensor, spelled):
                    methods[spelled] = kind
    return functions, methods


FUNCTIONS, METHODS = _named()
IN_PLACE = frozenset({"iadd", "isub", "imul", "itruediv", "ipow", "setitem"})


def module_kind(module: nn.Module) -> str:
    """Common name of a module's operator; empty for one that PyTorch does not have."""
    if type(module).__name__ in STOCHASTIC_DEPTH and not any(True for _ in module.parameters()):
        return "dropout"
    own = type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    if not own and not isinstance(module, nn.Conv2d):
        return ""  # a subclass may do anything; only one of Conv2d has to keep to what its class promises
    return next((kind for base, kind in MODULES if isinstance(module, base)), "")


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Common name of a node's operator, one of `KINDS`; empty if it is none of them."""
    if node.op == "call_module":
        return module_kind(modules[str(node.target)])
    if node.op == "call_function":
        packs = isinstance(node.target, type) and issubclass(node.target, tuple)  # a named tuple of results
        return "tuple" if packs else FUNCTIONS.get(node.target, "")
    if node.op == "call_method":
        return METHODS.get(str(node.target), "")
    return ""


def writes_in_place(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a call changes its first argument, going by the ways in which PyTorch says so."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name.endswith("_") or name in IN_PLACE or bool(node.kwargs.get("inplace"))


def argument(node: fx.Node, position: int, name: str, default: object) -> object:
    """An argument of a call, however it was passed."""
    if name in node.kwargs:
        return node.kwargs[name]
    return node.args[position] if len(node.args) > position else default


def tensor_input(node: fx.Node) -> fx.Node:
    """The first tensor that a node reads."""
    return node.all_input_nodes[0]


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape that was seen at a node with a batch of one; empty for what is no tensor."""
    shape: tuple[int, ...] = node.meta.get("shape", ())
    return shape


def shapes_of(node: fx.Node) -> tuple[tuple[int, ...], ...]:
    """Shapes of the tensors that a node gives, in order, when it gives several."""
    shapes: tuple[tuple[int, ...], ...] = node.meta.get("shapes", ())
    return shapes
