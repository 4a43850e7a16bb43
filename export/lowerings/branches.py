"""Put graphs that exclude each other behind ``If`` nodes.

Two forms. *Grouped*, for any batch: the rows that take branch k are picked from the batch, run together if there are
any, and all results are put back in order. *Chosen*, for one image: a tree of ``If`` nodes leads to the one branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.building import Builder, inner_graph, is_constant
from penstock.export.nodes.regions import all_graphs, outside_values


def choose_one(build: Builder, chosen: ir.Value, branches: Sequence[ir.Graph]) -> list[ir.Value]:
    """The outputs of the branch that one image takes.

    Args:
        build: where to write.
        chosen: int64 ``[1]``, which branch.
        branches: graphs with equally many outputs.
    """
    which = build.op("Squeeze", chosen, build.constant(np.array([0]), "first"))

    def tree(inside: Builder, low: int, high: int) -> list[ir.Value]:
        middle = (low + high) // 2
        left = inside.op("Less", which, build.constant(np.array(middle), f"half{middle}"))
        sides = [half(low, middle), half(middle, high)]
        return inside.branch(left, *sides, outputs=len(branches[0].outputs))

    def half(low: int, high: int) -> ir.Graph:
        if high - low == 1:
            return branches[low]
        graph = inner_graph(f"{build.prefix}.{low}to{high - 1}")
        inside = Builder(graph, str(graph.name))
        outputs = tree(inside, low, high)
        graph.extend(list(inside.tape.nodes))
        graph.outputs.extend(outputs)
        return graph

    return tree(build, 0, len(branches))


def group_rows(build: Builder, chosen: ir.Value, branches: Sequence[ir.Graph]) -> list[ir.Value]:
    """The outputs of all branches, each run on the rows that take it, in the order of the batch.

    Args:
        build: where to write.
        chosen: int64 ``[N]``, which branch each row takes.
        branches: graphs with equally many outputs, whose shapes are known but for the batch; they are changed.
    """
    numbers = build.constant(np.arange(len(branches))[:, None], "numbers")
    takes = build.op("Equal", chosen, numbers)  # [K, N]
    ones = build.op("Cast", takes, to=ir.DataType.UINT8)
    some = build.op("ReduceMax", ones, build.constant(np.array([1]), "rows"), keepdims=0)
    some_run = build.op("Cast", some, to=ir.DataType.BOOL)
    runs = build.ops("Split", some_run, outputs=len(branches), axis=0, num_outputs=len(branches))
    parts = []
    for number, (branch, run) in enumerate(zip(branches, runs, strict=True)):
        pick_rows(branch, takes, number)
        parts.append(build.branch(run, branch, _empty(branch), outputs=len(branch.outputs)))
    places = _places(build, takes)
    return [
        build.op("Gather", build.op("Concat", *same, axis=0), places, axis=0)
        for same in zip(*parts, strict=True)
    ]


def pick_rows(graph: ir.Graph, takes: ir.Value, number: int | None = None) -> None:
    """Let a graph read, of every batch from around it, only the rows that it takes.

    Args:
        graph: is changed.
        takes: which rows: bool ``[N]``, or ``[K, N]`` with one row for each branch.
        number: of the branch, if there are several.
    """
    around = [
        (value, shape)
        for value in outside_values(graph)
        if not is_constant(value) and (shape := _of_batch(value)) is not None
    ]
    inside_too = set(all_graphs(graph))  # branches of its own read what is around it, too
    inside = Builder(graph, f"{graph.name}.rows")
    if number is not None:
        takes = inside.op("Gather", takes, inside.constant(np.array(number), "number"), axis=0)
    for value, shape in around:
        users = [(user, position) for user, position in value.uses() if user.graph in inside_too]
        picked = inside.op("Compress", value, takes, axis=0)
        picked.shape, picked.type = ir.Shape([None, *shape[1:]]), value.type
        for user, position in users:
            user.replace_input_with(position, picked)
    graph.insert_before(next(iter(graph)), list(inside.tape.nodes))


def _places(build: Builder, takes: ir.Value) -> ir.Value:
    """Where the result of each row stands among those of all branches, one branch behind the other."""
    rows = build.op("Gather", build.op("NonZero", takes), build.constant(np.array(1), "second"), axis=0)
    count = build.op("Size", rows)
    numbers = build.op(
        "Range", build.constant(np.array(0), "start"), count, build.constant(np.array(1), "step")
    )
    return build.op("ScatterElements", rows, rows, numbers, axis=0)


def _empty(branch: ir.Graph) -> ir.Graph:
    """A branch for no rows."""
    graph = inner_graph(f"{branch.name}.none")
    build = Builder(graph, str(graph.name))
    for place, output in enumerate(branch.outputs):
        assert output.shape is not None
        assert output.dtype is not None
        shape = [0, *(int(str(size)) for size in output.shape[1:])]
        # Not a constant without elements, whose rank OpenVINO does not see.
        kind = ir.tensor(np.zeros(1, output.dtype.numpy()))
        graph.outputs.append(
            build.op("ConstantOfShape", build.constant(np.array(shape), f"empty{place}"), value=kind)
        )
    graph.extend(list(build.tape.nodes))
    return graph


def _of_batch(value: ir.Value) -> ir.Shape | None:
    """The value's shape, if its first dimension is that of batches.

    Raises:
        UnsupportedError: nobody knows.
    """
    shape = value.shape
    if shape is None:
        raise UnsupportedError(
            f"branches cannot pick their rows of {value.name}, whose shape is not known: take the lowering masked"
        )
    return shape if len(shape) > 0 and not isinstance(shape[0], int) else None
