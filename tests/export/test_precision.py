"""Lowered graphs in int8 and float16: what becomes narrow and what must not, and how close the answers stay."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from penstock.data import load
from penstock.errors import InvalidArgumentError, UnsupportedError, VerificationError
from penstock.export.capture.contract import DenseModel
from penstock.export.capture.exporting import capture
from penstock.export.lowerings.gathered import Gathered, Picking
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.lowerings.routed import Routed
from penstock.export.nodes.regions import all_graphs
from penstock.export.passes.reporting import Report
from penstock.export.passes.simplify import tidy
from penstock.export.precision import borders, fp16, masks, pooling, quantizable, stem
from penstock.export.precision.agreement import LIMITS, compare, verify_agreement, warning_of
from penstock.export.precision.borders import NarrowBorders
from penstock.export.precision.forms import behind, narrowing
from penstock.export.precision.fp16 import to_fp16
from penstock.export.precision.int8 import to_int8
from penstock.export.precision.masks import RoundOnceAtMasks
from penstock.export.precision.stem import BlockStem
from penstock.export.runtime import Graph, Outputs, open_graph
from penstock.manifest import INT8, Agreement, PassRecord
from penstock.nn.checkpoint import load_source

Images = npt.NDArray[np.uint8]
Named = Callable[[str], Any]
SomeImages = Callable[..., Images]

FORMS: dict[str, Callable[[], Lowering]] = {
    "masked": Masked,
    "grouped": Routed,
    "single": lambda: Routed(single=True),
}
CASES = [
    ("inverted", "masked"),
    ("residual", "grouped"),
    ("residual", "single"),
    ("static", "grouped"),
    ("backed", "grouped"),
    ("cascade", "single"),
]
BRANCHING = [case for case in CASES if case[0] != "static" and case[1] != "masked"]
ERRORS = {"int8": 0.03, "fp16": 2e-3}


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A lowered graph, what became of it, what passes did, and what both answer about some images."""

    lowered: ir.Model
    model: ir.Model
    records: dict[str, PassRecord]
    graph: Graph
    images: Images
    expected: Outputs
    got: Outputs


Narrow = Callable[[str, str, str], Narrowed]


def content(model: ir.Model) -> bytes:
    return ir.serde.serialize_model(model).SerializeToString()


def opened(model: ir.Model, *, single: bool) -> Graph:
    return open_graph(content(model), single=single, threads=1)


def nodes(model: ir.Model, *kinds: str) -> list[ir.Node]:
    return [node for graph in all_graphs(model.graph) for node in graph if not kinds or node.op_type in kinds]


def maker(value: ir.Value | None) -> str | None:
    node = None if value is None else value.producer()
    return None if node is None else node.op_type


@pytest.fixture(scope="module")
def narrow(routed: Named, some_images: SomeImages) -> Narrow:
    """Networks with prototypes by name, lowering and precision; each is made when it is first asked for."""

    @cache
    def lowered(network: str, form: str) -> tuple[ir.Model, Outputs]:
        model = routed(network).lowered(FORMS[form]())
        return model, opened(model, single=form == "single").run(some_images(64))

    @cache
    def made(network: str, form: str, precision: str) -> Narrowed:
        model, expected = lowered(network, form)
        images = some_images(64)
        report = Report()
        result = to_int8(model, images, report) if precision == "int8" else to_fp16(model, report)
        graph = opened(result, single=form == "single")
        records = {record.name: record for record in report.records}
        return Narrowed(model, result, records, graph, images, expected, graph.run(images))

    return made


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize(("network", "form"), CASES)
def test_answers_stay_close_and_paths_mostly_the_same(
    network: str, form: str, precision: str, narrow: Narrow
) -> None:
    made = narrow(network, form, precision)
    same = (made.expected["path"] == made.got["path"]).all(axis=1)
    assert same.mean() >= 0.9
    near = [{name: value[same] for name, value in outputs.items()} for outputs in (made.expected, made.got)]
    found = compare(near[0], near[1], real=False)
    assert found.logit_error <= ERRORS[precision]
    assert found.same_path == 1
    np.testing.assert_allclose(near[0]["active_macs"], near[1]["active_macs"], atol=1e-5)
    for name, value in made.expected.items():
        assert (made.got[name].dtype, made.got[name].shape) == (value.dtype, value.shape), name


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize(("network", "form"), CASES)
def test_the_file_is_plain_and_old_enough_and_holds_nothing_that_nobody_reads(
    network: str, form: str, precision: str, narrow: Narrow
) -> None:
    model = narrow(network, form, precision).model
    file = onnx.load_model_from_string(content(model))
    onnx.checker.check_model(file, full_check=True)
    assert (file.ir_version, [(use.domain, use.version) for use in file.opset_import]) == (8, [("", 18)])
    assert {node.domain for node in nodes(model)} == {""}
    for graph in all_graphs(model.graph):
        assert all(value.uses() or value.is_graph_output() for value in graph.initializers.values())


@pytest.mark.parametrize(("network", "form"), CASES)
def test_every_convolution_and_the_classifier_are_int8_with_a_scale_per_filter(
    network: str, form: str, narrow: Narrow
) -> None:
    made = narrow(network, form, "int8")
    assert made.records["compute in int8"].changed >= len(nodes(made.lowered, "Conv"))
    quantised = [node for node in nodes(made.model, "Conv", "Gemm") if maker(node.inputs[1])]
    assert len(nodes(made.model, "Conv")) == len(nodes(made.lowered, "Conv"))
    assert set(nodes(made.model, "Conv")) <= set(quantised)
    for node in quantised:
        x, weight = (value.producer() for value in node.inputs[:2] if value is not None)
        assert x is not None
        assert weight is not None
        assert (x.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        integers, scale, zero_point = (value.const_value for value in weight.inputs if value is not None)
        assert integers is not None
        assert scale is not None
        assert zero_point is not None
        assert integers.dtype == ir.DataType.INT8
        assert scale.size == integers.shape[0]
        assert not zero_point.numpy().any()
    classifiers = [node for node in quantised if node.op_type == "Gemm"]
    assert len(classifiers) == len([node for node in nodes(made.lowered, "Gemm") if answers(node)])


def answers(gemm: ir.Node) -> bool:
    """Whether it gives logits, one for each of five classes; routers of the networks here have three."""
    weight = gemm.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    return weight.shape[0] == 5


@pytest.mark.parametrize(("network", "form"), CASES)
def test_only_maps_and_what_the_classifier_reads_are_rounded(network: str, form: str, narrow: Narrow) -> None:
    for node in nodes(narrow(network, form, "int8").model, "QuantizeLinear"):
        value, widened = node.inputs[0], [user for user, _ in node.outputs[0].uses()]
        assert value is not None
        if maker(value) == "ConstantOfShape":  # of no rows
            continue
        assert value.shape is not None
        readers = {user.op_type for wide in widened for user, _ in wide.outputs[0].uses()}
        assert len(value.shape) == 4 or readers == {"Gemm"}, value.name


INT8_PASSES = (
    "read images in blocks",
    "compute in int8",
    "round once at masks",
    "cross borders narrow",
    "average integers",
)


@pytest.mark.parametrize(("network", "form"), CASES)
def test_passes_say_what_they_did_to_make_int8_and_why_not(network: str, form: str, narrow: Narrow) -> None:
    made = narrow(network, form, "int8")
    assert tuple(made.records) == INT8_PASSES
    blocks, integers, rounds, borders, averages = made.records.values()
    assert (blocks.changed, blocks.declined) == (0, {stem.STRIDE: 1})
    assert integers.declined.get(quantizable.DECIDES, 0) == len(
        [node for node in nodes(made.lowered, "Gemm") if not answers(node)]
    )
    assert (rounds.changed, rounds.declined) == (0, {})  # prototypes are not compared with anything
    assert (borders.changed > 0) == ((network, form) in BRANCHING)
    assert averages.changed == len(nodes(made.model, "MatMulInteger"))
    # A mask of prototypes lies behind the last convolution of that network, and the average behind the mask.
    assert averages.declined == ({pooling.FLOATS: 1} if network == "inverted" else {})


@pytest.mark.parametrize(("network", "form"), CASES)
def test_passes_say_what_they_did_to_make_float16(network: str, form: str, narrow: Narrow) -> None:
    made = narrow(network, form, "fp16")
    assert tuple(made.records) == ("compute in float16", "cross borders narrow")
    halved = made.records["compute in float16"]
    assert halved.changed >= len(nodes(made.model, "Conv"))
    deciding = [node for node in nodes(made.lowered, "Gemm") if not answers(node)]
    assert halved.declined.get(fp16.DECIDES, 0) == len(deciding)


AVERAGES = ("MatMulInteger", "ReduceMean", "GlobalAveragePool")


def since_average(value: ir.Value | None) -> Iterator[ir.Node]:
    """What made a value, back to the average over an image's places."""
    node = None if value is None else value.producer()
    if node is not None:
        yield node
        for source in node.inputs if node.op_type not in AVERAGES else ():
            yield from since_average(source)


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize(("network", "form"), CASES)
def test_what_decides_stays_float32(network: str, form: str, precision: str, narrow: Narrow) -> None:
    model = narrow(network, form, precision).model
    deciding = [node for node in nodes(model, "Gemm") if not answers(node)]
    assert deciding or network == "static"
    for node in deciding:
        weight = node.inputs[1]
        assert weight is not None
        assert weight.dtype == ir.DataType.FLOAT
        made = list(since_average(node.inputs[0]))
        assert any(one.op_type in AVERAGES for one in made)
        assert not {"QuantizeLinear", "DequantizeLinear"} & {one.op_type for one in made}
        assert {maker(one.inputs[0]) for one in made if one.op_type == "Cast"} <= {"MatMulInteger"}


@pytest.mark.parametrize(("network", "form"), BRANCHING)
def test_int8_and_float16_cross_the_borders_of_branches(network: str, form: str, narrow: Narrow) -> None:
    for precision, kind in (("int8", ir.DataType.UINT8), ("fp16", ir.DataType.FLOAT16)):
        outermost, *branches = all_graphs(narrow(network, form, precision).model.graph)
        choices = [node for graph in (outermost, *branches) for node in graph if node.op_type == "If"]
        maps = [output for node in choices for output in node.outputs if output.dtype == kind]
        assert maps
        leaving = {maker(output) for branch in branches for output in branch.outputs}
        assert "DequantizeLinear" not in leaving
        entering = {
            maker(value)
            for branch in branches
            for node in branch
            for value in node.inputs
            if value is not None and value.graph is not branch
        }
        assert "DequantizeLinear" not in entering


@pytest.mark.parametrize(("network", "form"), CASES)
def test_onnx_runtime_runs_every_convolution_in_int8(
    network: str, form: str, narrow: Narrow, tmp_path: Path
) -> None:
    made = narrow(network, form, "int8")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(content(made.model), options, providers=["CPUExecutionProvider"])
    optimised = ir.load(tmp_path / "optimised.onnx")
    assert not nodes(optimised, "Conv", "ConvInteger")
    assert len(nodes(optimised, "QLinearConv")) == len(nodes(made.lowered, "Conv"))


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize("case", [("residual", "grouped"), ("backed", "grouped")])
def test_an_answer_does_not_depend_on_the_batch(
    case: tuple[str, str], precision: str, narrow: Narrow
) -> None:
    made = narrow(*case, precision)
    order = np.random.default_rng(0).permutation(len(made.images))
    for batch in (1, 7):
        other = made.graph.run(made.images[order], batch=batch)
        np.testing.assert_array_equal(other["path"], made.got["path"][order])
        np.testing.assert_allclose(other["logits"], made.got["logits"][order], rtol=1e-3, atol=1e-3)


def test_gates_are_narrowed_behind_masks_and_gathered_weights_to_float16_only(
    captured: dict[str, Any], some_images: SomeImages
) -> None:
    images = some_images(24)
    gated = captured["residual"]
    names = frozenset(gated.served.network.layout.names)
    turned = Gathered(Picking(turned=names, turned_readers=names))
    for lowering, narrows in (
        (Masked(), (to_int8, to_fp16)),
        (Gathered(), (to_fp16,)),
        (turned, (to_fp16,)),
    ):
        model = gated.lowered(lowering)
        expected = opened(model, single=lowering.single).run(images)
        for narrowed in narrows:
            result = to_int8(model, images) if narrowed is to_int8 else to_fp16(model)
            got = opened(result, single=lowering.single).run(images)
            assert compare(expected, got, real=False).same_bits >= 0.97
    for lowering in (Gathered(), turned):
        with pytest.raises(UnsupportedError, match="gathered for each image"):
            to_int8(gated.lowered(lowering), images)


def test_values_before_and_behind_a_mask_are_on_one_scale(
    captured: dict[str, Any], some_images: SomeImages
) -> None:
    lowered, report = captured["residual"].lowered(Masked()), Report()
    model = to_int8(lowered, some_images(24), report)
    compared = 0
    for mask in nodes(model, "Mul"):
        found = behind(mask.inputs[0]) if maker(mask.inputs[1]) == "Unsqueeze" else None
        given = {form for user, _ in mask.outputs[0].uses() if (form := narrowing(user)) is not None}
        if found is not None and given:
            assert given == {found.form}
            compared += 1
    assert compared == 4
    (record,) = (record for record in report.records if record.name == "round once at masks")
    assert record.changed == 4
    assert set(record.declined) <= {masks.FLOATS, masks.READ, masks.ELSEWHERE}


def test_one_image_is_enough_to_calibrate_with_and_none_is_not(
    routed: Named, some_images: SomeImages
) -> None:
    model = routed("residual").lowered(Routed())
    got = opened(to_int8(model, some_images(1)), single=False).run(some_images(16))
    assert np.isfinite(got["logits"]).all()
    with pytest.raises(InvalidArgumentError, match="no images"):
        to_int8(model, some_images(1)[:0])


@pytest.mark.parametrize(("precision", "limit"), [("int8", "98.5%"), ("fp16", "99.5%")])
def test_a_damaged_graph_is_refused(precision: str, limit: str, narrow: Narrow) -> None:
    made = narrow("static", "grouped", precision)
    damaged = made.model.clone()
    for node in nodes(damaged, "Gemm"):
        weight = node.inputs[1]
        assert weight is not None
        stored = weight if weight.const_value else weight.producer().inputs[0]  # type: ignore[union-attr]
        assert stored is not None
        assert stored.const_value is not None
        stored.const_value = ir.tensor(-stored.const_value.numpy(), name=stored.name)
    got = opened(damaged, single=False).run(made.images)
    for real in (True, False):
        found = compare(made.expected, got, real=real)
        assert found.logit_error > 0.5
        if real:
            with pytest.raises(VerificationError, match=f"at {precision}.* at least {limit}"):
                verify_agreement(found, precision)
        elif precision == "fp16":
            with pytest.raises(VerificationError, match=r"at fp16, logits differ .* at most 1.0% is wanted"):
                verify_agreement(found, precision)
        else:
            assert found.top1_agreement is None
            verify_agreement(found, precision)


def test_the_figures_of_an_agreement() -> None:
    logits = np.array([[1, 0], [0, 1], [3, 4], [2, 1]], np.float32)
    path = np.array([[1, 0, 1, 1]] * 4, np.uint8)
    other = path.copy()
    other[0, 0] = 0
    got: Outputs = {
        "logits": logits[:, ::-1] * [[0], [0], [0], [1]] + logits * [[1], [1], [1], [0]],
        "path": other,
    }
    # Three images of four answer alike: the median is 0. The last alone is off by (1, -1) of (2, 1).
    assert compare({"logits": logits, "path": path}, got, real=True) == Agreement(
        images=4, logit_error=0.0, top1_agreement=0.75, same_path=0.75, same_bits=15 / 16
    )
    last = slice(3, None)
    found = compare(
        {"logits": logits[last], "path": path[last]},
        {name: value[last] for name, value in got.items()},
        real=False,
    )
    assert found.logit_error == pytest.approx(np.sqrt(2 / 5))
    assert "only 93.8% of the path bits" in str(warning_of(replace(found, same_bits=15 / 16), INT8))
    assert warning_of(replace(found, same_bits=LIMITS[INT8].same_bits), INT8) is None
    assert found.top1_agreement is None
    got["logits"][0] = np.nan
    with pytest.raises(VerificationError, match="2 logits of 8 are no finite numbers"):
        compare({"logits": logits, "path": path}, got, real=False)


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
        ("j = QuantizeLinear(x, s, z) v = DequantizeLinear(j, s, z)", "q = QuantizeLinear(m, t, z)", None),
    ],
)
def test_masks_that_nothing_is_rounded_once_for_say_why(value: str, reads: str, why: str | None) -> None:
    kind = "float" if "Relu" in reads else "uint8"
    body = f"{value} o = Greater(y, s) c = Cast<to = 1>(o) m = Mul(v, c) {reads}"
    graph = parsed("float[n, 3] x, float[n, 3] y, uint8[n, 3] i", f"{kind}[n, 3] q", body)
    effect = RoundOnceAtMasks()(graph)
    assert (effect.changed, effect.declined) == ((["m"], {}) if why is None else ([], {"m": why}))


def test_a_trained_network_keeps_its_accuracy_in_int8() -> None:
    if not os.environ.get("PENSTOCK_DATA"):
        pytest.skip("PENSTOCK_DATA is not set: no CIFAR-10 images to test on")
    checkpoint, _ = load_source("zoo:resnet20-cifar10")
    splits = load("cifar10")
    served = DenseModel(checkpoint.dense, checkpoint.network.layout).eval()
    model = tidy(capture(served, checkpoint.input_shape))
    narrowed = to_int8(model, splits.calibration.images)
    test = splits.test.images[:2000]
    expected, got = (opened(graph, single=False).run(test) for graph in (model, narrowed))
    verify_agreement(compare(expected, got, real=True), "int8")
    labels = splits.test.labels[:2000]
    right = [(outputs["logits"].argmax(axis=1) == labels).mean() for outputs in (expected, got)]
    assert right[0] - right[1] <= 0.005
