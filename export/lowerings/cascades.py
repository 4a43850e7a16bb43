"""Run the second member of a cascade: for those images only of which the first is not sure, or for all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from penstock.export.building import Builder, inner_graph, is_constant, supersede
from penstock.export.lowerings.branches import pick_rows
from penstock.export.nodes.regions import bring_constants, drop_unused, member_region
from penstock.export.operators import ESCALATE, RESOLVE


def lower_cascades(graph: ir.Graph, *, single: bool) -> None:
    """Put what lies between ``Escalate`` and ``Resolve`` behind an ``If``, in place.

    Args:
        graph: everything between the two must be plain operators already.
        single: the graph takes exactly one image.
    """
    for entrance in [node for node in graph if node.op_type == ESCALATE]:
        _lower_cascade(graph, entrance, single=single)


def run_both(graph: ir.Graph, node: ir.Node) -> None:
    """Replace an operator of a cascade by one that has the second member run for every image."""
    build = Builder(graph, str(node.name))
    if node.op_type == ESCALATE:
        build.replace(node, (build.op("Identity", node.inputs[0]),))
    elif node.op_type == RESOLVE:
        first, second, unsure = node.inputs
        column = build.op("Unsqueeze", unsure, build.constant(np.array([1]), "last"))
        build.replace(node, (build.op("Where", column, second, first),))


def _lower_cascade(graph: ir.Graph, entrance: ir.Node, *, single: bool) -> None:
    x, unsure = entrance.inputs
    assert x is not None
    assert unsure is not None
    exits = []
    for node in [node for node in graph if node.op_type == RESOLVE and node.inputs[2] is unsure]:
        if is_constant(node.inputs[1]):  # a static member's path, and what it costs: there is nothing to run
            _settle(graph, node)
        else:
            exits.append(node)
    firsts = [node.inputs[0] for node in exits]
    seconds = [node.inputs[1] for node in exits]
    region = member_region(graph, entrance.outputs[0], [value for value in seconds if value is not None])
    ir.convenience.replace_all_uses_with(entrance.outputs[0], x)
    graph.remove(region.nodes)
    second = inner_graph(f"{entrance.name}.second", region.nodes)
    seconds = _computed(second, seconds)
    bring_constants(second)
    build = Builder(graph, str(entrance.name))
    if not single:
        pick_rows(second, unsure)
        seconds = _put_back(second, firsts, seconds, unsure)
    second.outputs.extend(value for value in seconds if value is not None)
    first = _unchanged(firsts, f"{entrance.name}.first")
    some = unsure if single else _any(build, unsure)
    results = build.branch(some, second, first, outputs=len(exits))
    graph.insert_before(exits[0], list(build.tape.nodes))
    for node, result in zip(exits, results, strict=True):
        supersede(node.outputs[0], result)
    graph.sort()
    drop_unused(graph)


def _settle(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a ``Resolve`` whose second input is constant.

    Where the first is 0 for every image that the second member does not answer, and 1 for the others, the result is
    that bit times the constant.
    """
    first, second, unsure = node.inputs
    ran = first
    while ran is not None and (made_by := ran.producer()) is not None and made_by.op_type == "Expand":
        ran = made_by.inputs[0]
    if ran is None or second is None or ran.dtype != second.dtype or not _tells(ran, unsure):
        run_both(graph, node)
    else:
        build = Builder(graph, str(node.name))
        build.replace(node, (build.op("Mul", ran, second),))


def _tells(value: ir.Value | None, unsure: ir.Value | None) -> bool:
    """Whether a value is 1 where another is true, and 0 elsewhere."""
    while value is not None and value is not unsure:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in ("Cast", "Unsqueeze") else None
    return value is not None


def _any(build: Builder, values: ir.Value) -> ir.Value:
    """Whether one of the values is true."""
    some = build.op("ReduceMax", build.op("Cast", values, to=ir.DataType.UINT8), keepdims=0)
    return build.op("Cast", some, to=ir.DataType.BOOL)


def _computed(graph: ir.Graph, values: list[ir.Value | None]) -> list[ir.Value | None]:
    """The values as results of the graph's own nodes, which those are not that no image has a say in."""
    build = Builder(graph, f"{graph.name}.known")
    made = {output for node in graph for output in node.outputs}
    found: list[ir.Value | None] = [
        value if value in made else build.op("Identity", value) for value in values
    ]
    graph.extend(list(build.tape.nodes))
    return found


def _put_back(
    second: ir.Graph, firsts: list[ir.Value | None], seconds: list[ir.Value | None], unsure: ir.Value
) -> list[ir.Value | None]:
    """The first member's answers with those rows replaced that the second answered."""
    build = Builder(second, f"{second.name}.back")
    rows = build.op("Transpose", build.op("NonZero", unsure), perm=[1, 0])
    results: list[ir.Value | None] = [
        build.op("ScatterND", first, rows, own) for first, own in zip(firsts, seconds, strict=True)
    ]
    second.extend(list(build.tape.nodes))
    return results


def _unchanged(values: list[ir.Value | None], name: str) -> ir.Graph:
    """A graph that gives what is there."""
    graph = inner_graph(name)
    build = Builder(graph, name)
    graph.outputs.extend(build.op("Identity", value) for value in values)
    graph.extend(list(build.tape.nodes))
    return graph
