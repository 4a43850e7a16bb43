"""Networks to narrow, in which lowerings, and what is looked at in the graphs that come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.lowerings.routed import Routed
from penstock.export.nodes.regions import all_graphs
from penstock.export.runtime import Graph, Outputs, open_graph
from penstock.manifest import PassRecord

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


def answers(gemm: ir.Node) -> bool:
    """Whether it gives logits, one for each of five classes; routers of the networks here have three."""
    weight = gemm.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    return weight.shape[0] == 5
