"""What the compiled tiny chain looks like, one line per node: a change of the compiler shows as a diff.

The exporter writes everything around the gated convolutions, and writes it differently from version to version; a
summary that another version made says nothing. Refresh with ``pytest --update-golden``.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from penstock.export.lowerings.gathered import Gathered
from penstock.export.lowerings.masked import Masked

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FEW = 8


def made_with() -> str:
    short = {name: ".".join(version(name).split(".")[:2]) for name in ("torch", "onnxscript", "onnx-ir")}
    return "# " + ", ".join(f"{name} {number}" for name, number in short.items())


def summary(graph: ir.Graph) -> str:
    """Inputs, nodes in order with their attributes, and outputs; values are numbered, weights told by their shape."""
    names: dict[ir.Value, str] = {}

    def name(value: ir.Value | None) -> str:
        if value is None:
            return "-"
        if value.is_initializer():
            assert value.const_value is not None
            array = value.const_value.numpy()
            kind = f"{array.dtype}{list(array.shape)}"
            return f"{kind}={array.tolist()}" if array.dtype.kind == "i" and array.size <= FEW else kind
        return names.setdefault(value, f"%{len(names)}")

    lines = [f"input {value.name} {value.type} {value.shape} as {name(value)}" for value in graph.inputs]
    for node in graph:
        inputs = ", ".join(name(value) for value in node.inputs)
        attributes = " ".join(f"{key}={node.attributes[key].value}" for key in sorted(node.attributes))
        outputs = ", ".join(name(value) for value in node.outputs)
        lines.append(f"{outputs} = {node.op_type}({inputs}) {attributes}".rstrip())
    lines += [f"output {value.name} {value.type} {value.shape} is {name(value)}" for value in graph.outputs]
    return "\n".join([made_with(), *lines]) + "\n"


@pytest.mark.parametrize("lowering", [Masked(), Gathered()], ids=lambda lowering: lowering.name)
def test_the_compiled_chain_is_as_reviewed(
    lowering: Masked | Gathered, captured: dict[str, Any], pytestconfig: pytest.Config
) -> None:
    file = GOLDEN / f"chain-{lowering.name}.txt"
    now = summary(captured["chain"].lowered(lowering).graph)
    if pytestconfig.getoption("--update-golden"):
        file.write_text(now)
    golden = file.read_text()
    if golden.splitlines()[0] != made_with():
        pytest.skip(f"{file.name} was made with {golden.splitlines()[0]}, this is {made_with()}")
    assert now == golden
