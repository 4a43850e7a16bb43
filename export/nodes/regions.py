"""Parts of a graph: what a stage's prototypes stand in the place of, and what a cascade's second member is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from penstock.export.building import inner_graph
from penstock.export.operators import DOMAIN, RESOLVE

ORIGIN = "origin"  # among a constant's properties: what it was called where it was copied from


@dataclass(frozen=True, eq=False)
class Region:
    """Nodes that can become a graph of their own: no way leads out of them and in again.

    Attributes:
        nodes: in an order in which they can run.
        outputs: values that others read, or that leave the graph.
    """

    nodes: tuple[ir.Node, ...]
    outputs: tuple[ir.Value, ...]


def stage_region(graph: ir.Graph, convs: Collection[ir.Node]) -> Region:
    """What lies between a stage's first convolution and the entrance of the next, or the network's answer.

    Beside the convolutions themselves that is what

    - depends on one of them,
    - is part of what a later convolution, or the answer, is made of: what only decides on later paths, or only says
      what was decided, need not be there for every prototype,
    - and depends on no other stage behind or beside this one: what joins their results with this one's is theirs.

    Of ``x -> conv -> relu -> add -> conv'``, where a router of the second stage reads the sum too, the first stage's
    region is ``conv -> relu -> add``; the router stands outside.

    Args:
        graph: sorted topologically.
        convs: the stage's convolutions.
    """
    dependent = _reached(graph, [conv.outputs[0] for conv in convs])
    before = _needed([value for conv in convs for value in reads(conv)])
    others = [node for node in graph if node.domain == DOMAIN and node not in convs and node not in before]
    decisions = {value for node in others for value in _decisions(node) if value.producer() not in before}
    barriers = {*others, *(node for value in decisions if (node := value.producer()) is not None)}
    foreign = barriers | _reached(graph, [output for node in barriers for output in node.outputs])
    computing = [node for node in graph if node.domain == DOMAIN and node.op_type != RESOLVE]
    ends = [*(value for node in computing for value in _data(node)), graph.outputs[0]]
    wanted = _feeding(ends, until=decisions)
    inside = (dependent & wanted) - foreign
    return _region([node for node in graph if node in convs or node in inside])


def member_region(graph: ir.Graph, entrance: ir.Value, exits: Collection[ir.Value]) -> Region:
    """What is computed from ``entrance`` for the sake of ``exits``."""
    behind, feeding = _reached(graph, [entrance]), _feeding(exits)
    return _region([node for node in graph if node in behind and node in feeding])


def outside_values(graph: ir.Graph) -> list[ir.Value]:
    """Values that a graph reads from around it, each once, in order."""
    made = set(graph.initializers.values()) | {output for node in graph for output in node.outputs}
    read = [value for node in graph for value in reads(node) if value not in made]
    read += [value for value in graph.outputs if value not in made]
    return list(dict.fromkeys(read))


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, its graphs included."""
    yield from (value for value in node.inputs if value is not None)
    for inner in inner_graphs(node):
        yield from outside_values(inner)


def inner_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs among a node's attributes."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()


def all_graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and its branches, and theirs."""
    yield graph
    for node in list(graph):
        for inner in inner_graphs(node):
            yield from all_graphs(inner)


def copied(region: Region, name: str) -> ir.Graph:
    """A graph that computes what a region does; constants of plain operators become its own.

    Only constants of the graph that a convolution stands in let ONNX Runtime choose its fast layout.
    """
    values: dict[ir.Value, ir.Value] = {}
    nodes = []
    graph = inner_graph(name)
    for node in region.nodes:
        plain = node.domain != DOMAIN
        inputs = [
            _brought(graph, value, values) if plain else _mapped(value, values) for value in node.inputs
        ]
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=f"{name}.{node.name}",
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.shape, new.type = f"{name}.{old.name}", old.shape, old.type
            values[old] = new
        nodes.append(copy)
    graph.extend(nodes)
    graph.outputs.extend(values[output] for output in region.outputs)
    return graph


def bring_constants(graph: ir.Graph) -> None:
    """Give a graph constants of its own for those that it reads from around it."""
    values: dict[ir.Value, ir.Value] = {}
    for node in graph:
        for position, value in enumerate(node.inputs):
            if value is not None and value.graph is not graph:
                node.replace_input_with(position, _brought(graph, value, values))


def origin(value: ir.Value) -> str:
    """What a constant was called when it was captured."""
    return value.metadata_props.get(ORIGIN, str(value.name))


def drop_unused(graph: ir.Graph) -> None:
    """Remove nodes whose results nobody reads, and constants."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _mapped(value: ir.Value | None, values: dict[ir.Value, ir.Value]) -> ir.Value | None:
    return None if value is None else values.get(value, value)


def _brought(graph: ir.Graph, value: ir.Value | None, values: dict[ir.Value, ir.Value]) -> ir.Value | None:
    """What a value of the region is in the copy; constants are brought along."""
    if value is not None and value not in values and value.const_value is not None:
        name = f"{graph.name}.{value.name}"
        own = ir.Value(name=name, const_value=value.const_value, type=value.type, shape=value.shape)
        own.metadata_props[ORIGIN] = origin(value)
        graph.register_initializer(own)
        values[value] = own
    return _mapped(value, values)


def _region(inside: Sequence[ir.Node]) -> Region:
    members = set(inside)
    outputs = [
        value
        for node in inside
        for value in node.outputs
        if value.is_graph_output() or any(user not in members for user, _ in value.uses())
    ]
    return Region(tuple(inside), tuple(outputs))


def _reached(graph: ir.Graph, values: Iterable[ir.Value]) -> set[ir.Node]:
    """Nodes that depend on one of the values."""
    reached, nodes = set(values), set()
    for node in graph:
        if any(value in reached for value in reads(node)):
            nodes.add(node)
            reached.update(node.outputs)
    return nodes


def _feeding(values: Iterable[ir.Value], until: Collection[ir.Value] = ()) -> set[ir.Node]:
    """Nodes that one of the values is made of; of our own operators, through the data only, not through decisions."""
    return _behind(values, lambda node: _data(node) if node.domain == DOMAIN else reads(node), until)


def _needed(values: Iterable[ir.Value]) -> set[ir.Node]:
    """Nodes that one of the values depends on in any way."""
    return _behind(values, reads, ())


def _behind(
    values: Iterable[ir.Value],
    entering: Callable[[ir.Node], Iterable[ir.Value]],
    until: Collection[ir.Value],
) -> set[ir.Node]:
    waiting = [value for value in values if value not in until]
    nodes: set[ir.Node] = set()
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [value for value in entering(node) if value not in until]
    return nodes


def _data(node: ir.Node) -> list[ir.Value]:
    """Of an operator of our own, the inputs that its result is made of."""
    inputs = node.inputs[:2] if node.op_type == RESOLVE else node.inputs[:1]
    return [value for value in inputs if value is not None]


def _decisions(node: ir.Node) -> list[ir.Value]:
    """Of an operator of our own, the inputs that say which result it takes."""
    inputs = {value for value in node.inputs if value is not None and value.producer() is not None}
    return list(inputs - set(_data(node)))
