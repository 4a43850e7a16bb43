"""Average integers, not the float32 values that they stand for, where a router, a gate or a classifier pools.

    mean of (q - z) s over H x W  =  s / (H W) sum of (q - z)

The sum is an integer product with ones, which is exact: the average is that of the same values, and has no rounding but
the last. ONNX Runtime computes it from channels that come last, four times as fast.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from penstock.export.building import Builder, constant_array
from penstock.export.passes.reporting import Effect
from penstock.export.precision.borders import channels_last
from penstock.export.precision.forms import Scale, behind

SPATIAL = ({2, 3}, {-2, -1})


FLOATS = "what it averages is float32"


class PoolIntegers:
    """An average over all places of dequantised values becomes a sum of their integers, times one number.

    It declines averages of what was never in int8.
    """

    name = "average integers"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Rewrite the averages of a quantised graph."""
        effect = Effect()
        for node in list(graph):
            if not _averages(node):
                continue
            found = behind(node.inputs[0])
            if found is not None and isinstance(found.form, Scale):
                effect.changed.append(str(node.name))
                _rewrite(graph, node, found.value, found.form)
            else:
                effect.declined[str(node.name)] = FLOATS
        return effect


def _averages(node: ir.Node) -> bool:
    sizes = None if not node.inputs or node.inputs[0] is None else node.inputs[0].shape
    if sizes is None or len(sizes) != 4 or not all(isinstance(size, int) for size in sizes[1:]):
        return False
    if node.op_type == "ReduceMean" and len(node.inputs) > 1:
        return set(constant_array(node.inputs[1]).ravel().tolist()) in SPATIAL
    return node.op_type == "GlobalAveragePool"


def _rewrite(graph: ir.Graph, node: ir.Node, value: ir.Value, form: Scale) -> None:
    assert node.inputs[0] is not None
    assert node.inputs[0].shape is not None
    channels, *sides = (int(str(size)) for size in node.inputs[0].shape[1:])
    build = Builder(graph, str(node.name))
    rows = build.constant(np.array([0, prod(sides), channels]), "rows")
    ones = build.constant(np.ones((1, 1, prod(sides)), np.uint8), "ones")
    zero = build.constant(np.uint8(0), "zero")
    places = build.op("Reshape", channels_last(value), rows)
    total = build.op("MatMulInteger", ones, places, zero, build.constant(form.zero_point, "zero_point"))
    # Not DequantizeLinear, which can do it: ONNX Runtime moves that past the Reshape and gets other numbers.
    share = build.constant(np.float32(form.scale / prod(sides)), "share")
    mean = build.op("Mul", build.op("Cast", total, to=ir.DataType.FLOAT), share)
    flat = node.op_type == "ReduceMean" and not node.attributes.get_int("keepdims", 1)
    shape = build.constant(np.array([0, channels] if flat else [0, channels, 1, 1]), "shape")
    build.replace(node, (build.op("Reshape", mean, shape),))
