"""What is known beforehand is computed beforehand, and of what is joined only the part is read that somebody wants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from penstock.export.building import Builder
from penstock.export.passes import fold_batch_norm, slice_parts
from penstock.export.passes.fold_batch_norm import FoldBatchNorm
from penstock.export.passes.join_alike import join_alike
from penstock.export.passes.join_constants import join_constants
from penstock.export.passes.simplify import fold_constants, simplify
from penstock.export.passes.slice_parts import SliceParts
from tests.export.small_graphs import Arrays, graph_of, kinds, run

PARTS: Arrays = {
    name: np.arange(2 * width, dtype=np.float32).reshape(2, width)
    for name, width in (("a", 3), ("b", 1), ("c", 4))
}


def test_batch_norms_are_folded_into_the_convolutions_in_front_of_them() -> None:
    draw = np.random.default_rng(0)
    feed = {"x": draw.standard_normal((2, 3, 6, 6)).astype(np.float32)}

    def build_it(build: Builder, inputs: Sequence[ir.Value]) -> ir.Value:
        def norm(value: ir.Value, name: str) -> ir.Value:
            rows = draw.uniform(0.5, 2.0, (4, 5)).astype(np.float32)
            parts = [build.constant(row, f"{name}{place}") for place, row in enumerate(rows)]
            return build.op("BatchNormalization", value, *parts)

        weight = build.constant(draw.standard_normal((5, 3, 3, 3)).astype(np.float32), "weight")
        folded = norm(build.op("Conv", inputs[0], weight), "behind")
        return norm(build.op("MaxPool", folded, kernel_shape=[2, 2]), "alone")

    graph = graph_of(build_it, feed)
    want = run(graph, feed)
    effect = FoldBatchNorm()(graph)
    assert len(effect.changed) == 1
    assert list(effect.declined.values()) == [fold_batch_norm.ALONE]
    assert kinds(graph).count("BatchNormalization") == 1
    np.testing.assert_allclose(run(graph, feed), want, atol=1e-5)


def sliced(start: int, end: int, axis: int = 1, step: int = 1) -> ir.Graph:
    """A slice of three tensors side by side."""

    def build_it(build: Builder, inputs: Sequence[ir.Value]) -> ir.Value:
        bounds = [
            build.constant(np.array([place]), f"bound{place}.{i}") for i, place in enumerate((start, end))
        ]
        along, every = build.constant(np.array([axis]), "axis"), build.constant(np.array([step]), "every")
        return build.op("Slice", build.op("Concat", *inputs, axis=1), *bounds, along, every)

    return graph_of(build_it, PARTS)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize(
    ("start", "end", "read"),
    [(3, 4, "b"), (1, 4, "ab"), (0, 8, "abc"), (0, 2**62, "abc"), (-4, 8, "c"), (2, 7, "abc"), (5, -1, "c")],
)
def test_of_joined_parts_only_those_are_read_that_a_slice_takes(
    start: int, end: int, read: str, axis: int
) -> None:
    graph = sliced(start, end, axis)
    want = run(graph, PARTS)
    assert SliceParts()(graph).declined == {}
    simplify(ir.Model(graph, ir_version=8))
    assert {value.name for value in graph.inputs if value.uses() or value.is_graph_output()} == set(read)
    np.testing.assert_array_equal(run(graph, PARTS), want)


def test_slices_along_other_axes_of_every_second_column_of_nothing_and_of_maps_stay() -> None:
    of_width_unknown = sliced(0, 2)
    of_width_unknown.inputs[1].shape = ir.Shape([2, None])
    of_maps = sliced(0, 2)
    of_maps.inputs[0].shape = ir.Shape([2, 3, 1, 1])
    cases = (
        (sliced(0, 1, axis=0), slice_parts.STEPS),
        (sliced(0, 4, step=2), slice_parts.STEPS),
        (sliced(5, 5), slice_parts.STEPS),
        (of_width_unknown, slice_parts.WIDTHS),
        (of_maps, slice_parts.MAPS),
    )
    for graph, why in cases:
        effect = SliceParts()(graph)
        assert (effect.changed, list(effect.declined.values())) == ([], [why])
        assert kinds(graph) == ["Concat", "Slice"]


def test_constants_are_joined_and_folded_beforehand() -> None:
    def build_it(build: Builder, inputs: Sequence[ir.Value]) -> ir.Value:
        one, two, three = (
            build.constant(np.full((2, width), width, np.float32), str(width)) for width in (1, 2, 3)
        )
        return build.op("Concat", one, build.op("Mul", two, two), *inputs, three, axis=1)

    feed = {"x": PARTS["a"]}
    graph = graph_of(build_it, feed)
    want = run(graph, feed)
    fold_constants(graph)
    assert [node.op_type for node in graph] == ["Concat"]
    join_constants(graph)
    assert kinds(graph) == ["Concat"]
    assert [len(node.inputs) for node in graph] == [3]
    np.testing.assert_array_equal(run(graph, feed), want)


def test_what_is_alike_in_every_part_is_computed_once_on_the_parts_joined() -> None:
    def build_it(build: Builder, inputs: Sequence[ir.Value]) -> ir.Value:
        limit, other = (build.constant(np.float32(value), str(value)) for value in (3.0, 1.0))

        def bits(value: ir.Value, above: ir.Value = limit) -> ir.Value:
            more = build.op("Greater", value, above)
            cast = build.op("Cast", more, to=ir.DataType.FLOAT)
            more.shape, more.dtype = value.shape, ir.DataType.BOOL
            return cast

        a, b, c = inputs
        joined = build.op("Concat", a, b, axis=1)
        path = build.op("Concat", c, bits(a), bits(b), bits(c, other), bits(c), axis=1)
        return build.op("Concat", joined, path, axis=1)

    graph = graph_of(build_it, PARTS)
    want = run(graph, PARTS)
    join_alike(graph)
    # a and b are joined already, where c is asked two different questions, whose answers are cast alike.
    assert kinds(graph).count("Concat") == 4
    assert kinds(graph).count("Greater") == 3
    assert kinds(graph).count("Cast") == 1
    np.testing.assert_array_equal(run(graph, PARTS), want)


def cast_and_joined(shape: Sequence[int], *, shared: bool = False, told: bool = True) -> ir.Graph:
    """Three parts cast to numbers and joined, and nothing else."""
    feed = {name: np.ones(shape, np.int64) for name in "abc"}

    def build_it(build: Builder, inputs: Sequence[ir.Value]) -> ir.Value:
        for value in inputs:
            value.shape = ir.Shape(shape) if told else None
        casts = [build.op("Cast", value, to=ir.DataType.FLOAT) for value in inputs]
        if shared:
            build.op("Neg", casts[1])
        return build.op("Concat", *casts, axis=1)

    return graph_of(build_it, feed)


def test_a_join_of_nothing_else_becomes_what_was_done_to_its_parts() -> None:
    graph = cast_and_joined((2, 3))
    name = graph.outputs[0].name
    join_alike(graph)
    assert (kinds(graph), graph.outputs[0].name) == (["Concat", "Cast"], name)


def test_maps_parts_of_unknown_shape_and_what_others_read_too_stay_apart() -> None:
    cases = (
        cast_and_joined((2, 3, 1, 1)),
        cast_and_joined((2, 3), told=False),
        cast_and_joined((2, 3), shared=True),
    )
    for graph in cases:
        before = kinds(graph)
        join_alike(graph)
        assert kinds(graph) == before


def test_parts_of_different_types_stay_apart() -> None:
    feed: Arrays = {
        "a": np.ones((1, 2), np.int64),
        "b": np.ones((1, 2), np.int32),
        "c": np.ones((1, 2), np.int64),
    }
    graph = graph_of(
        lambda build, inputs: build.op(
            "Concat", *(build.op("Cast", value, to=ir.DataType.FLOAT) for value in inputs), axis=1
        ),
        feed,
    )
    join_alike(graph)
    assert kinds(graph).count("Cast") == 3
