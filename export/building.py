"""Building plain nodes into a graph, and reading the constants that stand there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir import tape

from penstock.errors import UnsupportedError

OPSET = 18  # of all operators that are written


def constant_array(value: ir.Value | None) -> npt.NDArray[Any]:
    """The array behind a value that must be an initializer."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """Whether it is an initializer."""
    return value is not None and value.const_value is not None


def dimension(value: ir.Value, axis: int) -> int:
    """The size of a dimension that is the same in every batch.

    Raises:
        UnsupportedError: it shows only when the graph runs; names the value.
    """
    size = None if value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        raise UnsupportedError(
            f"the size of {value.name} along axis {axis} is not known before the graph runs: take the lowering masked"
        )
    return size


def fix_batch(graph: ir.Graph) -> None:
    """Set the free batch dimension of the input to one everywhere; other sizes that nobody knows stay unknown."""
    shape = graph.inputs[0].shape
    assert shape is not None
    batch = shape[0]
    if isinstance(batch, int) or batch.value is None:
        return
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([1 if dim == batch else dim for dim in value.shape])


def supersede(old: ir.Value, new: ir.Value) -> None:
    """Let everything that reads ``old`` read ``new``, which takes over its shape, and an output's name."""
    new.shape, new.type = old.shape, old.type
    if old.is_graph_output():
        new.name, old.name = old.name, f"{old.name}.superseded"
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def inner_graph(name: str, nodes: Iterable[ir.Node] = ()) -> ir.Graph:
    """A graph for a branch of an ``If``, still without results."""
    return ir.Graph([], [], nodes=nodes, opset_imports={"": OPSET}, name=name)


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """The attributes of a node by name, to build another one with."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


class Builder:
    """Writes new nodes in front of an old one.

    Args:
        graph: where initializers go.
        prefix: begins the names of everything built, usually the old node's name.
    """

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix
        self.tape = tape.Tape()
        self._count = 0

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node with one output and give that output."""
        name = self._name(kind)
        value = self.tape.op(kind, inputs, attributes or None, name=name)
        value.name = name
        return value

    def ops(self, kind: str, *inputs: ir.Value | None, outputs: int, **attributes: Any) -> list[ir.Value]:
        """Add a node with several outputs and give them."""
        name = self._name(kind)
        values = self.tape.op_multi_out(kind, inputs, attributes or None, num_outputs=outputs, name=name)
        for place, value in enumerate(values):
            value.name = f"{name}.{place}"
        return list(values)

    def branch(self, condition: ir.Value, then: ir.Graph, other: ir.Graph, *, outputs: int) -> list[ir.Value]:
        """Add an ``If`` node and give its outputs."""
        return self.ops("If", condition, outputs=outputs, then_branch=then, else_branch=other)

    def constant(self, array: npt.ArrayLike, name: str) -> ir.Value:
        """Add an initializer; its name gets a number if it is taken."""
        full = f"{self.prefix}.{name}"
        if full in self.graph.initializers:
            full = self._name(name)
        tensor = ir.tensor(np.asarray(array, order="C"), name=full)
        shape = ir.Shape(tensor.numpy().shape)
        value = ir.Value(name=full, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=shape)
        self.graph.register_initializer(value)
        return value

    def replace(self, node: ir.Node, outputs: Sequence[ir.Value]) -> None:
        """Put what was built in the place of ``node``."""
        ir.convenience.replace_nodes_and_values(
            self.graph, node, [node], list(self.tape.nodes), list(node.outputs), list(outputs)
        )

    def insert_before(self, node: ir.Node) -> None:
        """Put what was built in front of ``node``, which stays."""
        self.graph.insert_before(node, list(self.tape.nodes))

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self.prefix}.{kind}{self._count}"
