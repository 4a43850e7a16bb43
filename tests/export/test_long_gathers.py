"""A convolution of picked filters and channels is the same in both of its forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.export.building import Builder
from penstock.export.nodes.compact import LAYER, Index, picked
from penstock.export.passes.long_gathers import STRIDED, UNASKED, LongGathers
from penstock.export.passes.reporting import Effect

Floats = npt.NDArray[np.float32]


def built(
    x: Floats,
    weight: Floats,
    bias: Floats,
    filters: npt.NDArray[np.int64] | None,
    channels: npt.NDArray[np.int64] | None,
    *,
    asked: bool = True,
    attributes: dict[str, Any],
) -> tuple[Floats, list[str], Effect]:
    """What a graph with the one convolution gives behind the pass, its indices inputs of the graph; its operators."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="picked")
    fed: dict[str, npt.NDArray[Any]] = {"x": x}

    def value(name: str, array: npt.NDArray[Any]) -> ir.Value:
        made = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.tensor(array).dtype))
        graph.inputs.append(made)
        fed[name] = array
        return made

    def index(name: str, picked: npt.NDArray[np.int64] | None) -> Index | None:
        return None if picked is None else value(name, picked)

    build = Builder(graph, "conv")
    entering = value("x", x)
    rows = np.arange(len(weight)) if filters is None else filters
    weights = picked(build, weight, index("filters", filters), index("channels", channels))
    output = build.op("Conv", entering, weights, build.constant(bias[rows], "bias"), **attributes)
    (conv,) = (node for node in build.tape.nodes if node.op_type == "Conv")
    conv.meta[LAYER] = "conv"
    graph.extend(list(build.tape.nodes))
    output.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(output)
    effect = LongGathers({"conv"} if asked else (), ())(graph)
    content = ir.serde.serialize_model(ir.Model(graph, ir_version=8)).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, fed)[0], [node.op_type for node in graph], effect


def picks(draw: np.random.Generator, size: int, what: str) -> npt.NDArray[np.int64] | None:
    return None if what == "all" else np.sort(draw.choice(size, draw.integers(1, size + 1), replace=False))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    strides=st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]),
    filters=st.sampled_from(["all", "some"]),
    channels=st.sampled_from(["all", "some"]),
)
def test_both_forms_are_the_sum_that_pytorch_computes(
    seed: int,
    kernel: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, ...],
    strides: tuple[int, int],
    filters: str,
    channels: str,
) -> None:
    draw = np.random.default_rng(seed)
    weight = draw.standard_normal((5, 6, *kernel)).astype(np.float32)
    bias = draw.standard_normal(5).astype(np.float32)
    rows, columns = picks(draw, 5, filters), picks(draw, 6, channels)
    chosen = weight[slice(None) if rows is None else rows][:, slice(None) if columns is None else columns]
    x = draw.standard_normal((1, chosen.shape[1], 8, 9)).astype(np.float32)
    top, left, bottom, right = pads
    want = F.conv2d(
        F.pad(torch.from_numpy(x), (left, right, top, bottom)),
        torch.from_numpy(chosen),
        torch.from_numpy(bias if rows is None else bias[rows]),
        stride=strides,
        dilation=dilations,
    )
    attributes = {"strides": strides, "pads": pads, "dilations": dilations, "group": 1}
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)] * 2
    able = strides == (1, 1) and all(p <= r for p, r in zip(pads, reach, strict=True))
    moves = rows is not None or columns is not None  # weights that stay put are nobody's Gather
    for asked in (False, True):
        got, kinds, effect = built(x, weight, bias, rows, columns, attributes=attributes, asked=asked)
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4)
        assert kinds[-1] == ("ConvTranspose" if asked and able and moves else "Conv")
        assert len(effect.changed) == (kinds[-1] == "ConvTranspose")
        why = {UNASKED} if not asked else set() if able else {STRIDED}
        assert set(effect.declined.values()) == (why if moves else set())


@pytest.mark.parametrize("asked", [False, True])
def test_attributes_that_a_convolution_leaves_out_are_those_of_onnx(asked: bool) -> None:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((4, 3, 3, 3)).astype(np.float32)
    x = draw.standard_normal((1, 3, 6, 6)).astype(np.float32)
    zeros = np.zeros(4, np.float32)
    got, kinds, _ = built(x, weight, zeros, np.arange(4), None, attributes={}, asked=asked)
    want = F.conv2d(torch.from_numpy(x), torch.from_numpy(weight))
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)
    assert (kinds[-1] == "ConvTranspose") == asked
