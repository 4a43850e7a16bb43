"""Single passes towards reduced precision on graphs that are made for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from penstock.export.passes.simplify import tidy
from penstock.export.precision import borders, four_channels, masks, stem
from penstock.export.precision.borders import NarrowBorders
from penstock.export.precision.four_channels import FourChannels
from penstock.export.precision.masks import RoundOnceAtMasks
from penstock.export.precision.stem import BlockStem
from tests.export.precision.narrowed import (
    content,
)


def conv_model(
    kernel: int, pad: int, side: int, *, stride: int = 2, dilation: int = 1, behind: int | None = None
) -> onnx.ModelProto:
    """A normalisation and a convolution on images ``[N, 3, side, side]``, perhaps padded otherwise behind them."""
    draw = np.random.default_rng(kernel)
    float32 = onnx.TensorProto.FLOAT
    arrays = {
        "deviation": draw.random((1, 3, 1, 1)) + 0.5,
        "weight": draw.normal(size=(8, 3, kernel, kernel)),
    }
    pads = [pad, pad, *2 * [pad if behind is None else behind]]
    output = (side + pads[0] + pads[2] - dilation * (kernel - 1) - 1) // stride + 1
    sizes: dict[str, Any] = {"pads": pads, "strides": 2 * [stride], "dilations": 2 * [dilation]}
    graph = helper.make_graph(
        [
            helper.make_node("Div", ["x", "deviation"], ["divided"], name="div"),
            helper.make_node("Conv", ["divided", "weight"], ["y"], "conv", **sizes),
        ],
        "stem",
        [helper.make_tensor_value_info("x", float32, ["n", 3, side, side])],
        [helper.make_tensor_value_info("y", float32, ["n", 8, output, output])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(("kernel", "pad", "side"), [(7, 3, 16), (3, 1, 8), (3, 0, 8), (4, 1, 8), (5, 2, 8)])
def test_a_stem_on_blocks_of_pixels_gives_the_same(kernel: int, pad: int, side: int) -> None:
    proto = conv_model(kernel, pad, side)
    model = ir.serde.deserialize_model(proto)
    effect = BlockStem()(model.graph)
    assert (effect.changed, effect.declined) == (["conv"], {})
    assert "SpaceToDepth" in [node.op_type for node in tidy(model).graph]
    x = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    before, after = (
        ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for file in (proto.SerializeToString(), content(model))
    )
    np.testing.assert_allclose(before, after, atol=1e-4)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_a_stem_on_four_channels_gives_the_same(stride: int, dilation: int) -> None:
    proto = conv_model(3, 1, 9, stride=stride, dilation=dilation)
    model = ir.serde.deserialize_model(proto)
    effect = FourChannels()(model.graph)
    assert (effect.changed, effect.declined) == (["conv"], {})
    kernels = [node.inputs[1].shape for node in tidy(model).graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    assert kernels == [[8, 4, 3, 3]]
    assert "Div" not in [node.op_type for node in model.graph]
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 9)).astype(np.float32)
    before, after = (
        ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for file in (proto.SerializeToString(), content(model))
    )
    np.testing.assert_allclose(before, after, atol=1e-4)


def test_a_stem_with_groups_keeps_its_channels() -> None:
    read = ir.serde.deserialize_model(conv_model(3, 1, 9, stride=1))
    (conv,) = [node for node in read.graph if node.op_type == "Conv"]
    conv.attributes["group"] = ir.AttrInt64("group", 3)
    effect = FourChannels()(read.graph)
    assert (effect.changed, effect.declined) == ([], {"conv": four_channels.GROUPS})


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (conv_model(3, 1, 9), stem.ODD),
        (conv_model(3, 1, 8, stride=1), stem.STRIDE),
        (conv_model(3, 1, 8, dilation=2), stem.FORM),
        (conv_model(1, 0, 8, behind=-2), stem.CROPPED),
    ],
)
def test_a_stem_that_blocks_do_not_fit_stays_as_it_is_and_says_why(model: onnx.ModelProto, why: str) -> None:
    read = ir.serde.deserialize_model(model)
    effect = BlockStem()(read.graph)
    assert (effect.changed, effect.declined) == ([], {"conv": why})
    assert [node.op_type for node in read.graph] == ["Div", "Conv"]


SCALES = "float s = {0.5}, float t = {0.25}, uint8 z = {0}"
NARROW = "r = Relu(y) q = QuantizeLinear(r, {1}, z) w = DequantizeLinear(q, {1}, z)"
BRANCH = f"{{0}}_branch = {{0}} () => (float[n, 3] w) {{{{ {NARROW} }}}}"


def parsed(inputs: str, outputs: str, body: str) -> ir.Graph:
    """A graph in ONNX's own words, its nodes named for what they make, with scales ``s`` and ``t`` and a zero ``z``."""
    text = f'<ir_version: 8, opset_import: ["": 18]> g ({inputs}) => ({outputs}) <{SCALES}> {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = node.output[0]
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model)).graph


@pytest.mark.parametrize(
    ("outputs", "body", "node", "why"),
    [
        ("uint8[n, 3] b", "a = DequantizeLinear(x, s, z) b = QuantizeLinear(a, t, z)", "b", borders.RESCALED),
        ("uint8[n, 3] b", "a = DequantizeLinear(x, s, z) b = QuantizeLinear(a, s, z)", "b", borders.LEAVES),
        ("float[m, 3] b", "a = DequantizeLinear(x, s, z) b = Concat<axis = 0>(a, y)", "b", borders.MIXED),
        (
            "float[n, 3] b",
            f"b = If(c)<{BRANCH.format('then', 's')}, {BRANCH.format('else', 't')}>",
            "b.0",
            borders.UNLIKE,
        ),
    ],
)
def test_values_that_cannot_cross_a_border_narrow_are_left_alone(
    outputs: str, body: str, node: str, why: str
) -> None:
    graph = parsed("uint8[n, 3] x, float[n, 3] y, bool c", outputs, body)
    effect = NarrowBorders()(graph)
    assert (effect.changed, effect.declined) == ([], {f"g/{node}": why})


@pytest.mark.parametrize(
    ("value", "reads", "why"),
    [
        ("v = Identity(x)", "q = QuantizeLinear(m, t, z)", masks.FLOATS),
        ("v = DequantizeLinear(i, s, z)", "q = QuantizeLinear(m, t, z)", masks.ELSEWHERE),
        ("j = QuantizeLinear(x, s, z) v = DequantizeLinear(j, s, z)", "q = Relu(m)", masks.READ),
        (
            "j = QuantizeLinear(x, s, z) v = DequantizeLinear(j, s, z)",
            "a = Relu(v) n = Add(a, m) q = QuantizeLinear(m, t, z)",
            masks.SEEN,
        ),
        ("j = QuantizeLinear(x, s, z) v = DequantizeLinear(j, s, z)", "q = QuantizeLinear(m, t, z)", None),
    ],
)
def test_masks_that_nothing_is_rounded_once_for_say_why(value: str, reads: str, why: str | None) -> None:
    kind = "float" if "q = Relu" in reads else "uint8"
    body = f"{value} o = Greater(y, s) c = Cast<to = 1>(o) m = Mul(v, c) {reads}"
    graph = parsed("float[n, 3] x, float[n, 3] y, uint8[n, 3] i", f"{kind}[n, 3] q", body)
    effect = RoundOnceAtMasks()(graph)
    assert (effect.changed, effect.declined) == ((["m"], {}) if why is None else ([], {"m": why}))
