"""Plain ONNX models, the ones of Triton's examples among them, in Triton's layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

Shape = Sequence[int | str | None]

INT32, FLOAT, STRING = TensorProto.INT32, TensorProto.FLOAT, TensorProto.STRING

SIMPLE_CONFIG = """
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "INPUT0" data_type: %(type)s dims: [ 16 ] },
  { name: "INPUT1" data_type: %(type)s dims: [ 16 ] }
]
output [
  { name: "OUTPUT0" data_type: %(type)s dims: [ 16 ] },
  { name: "OUTPUT1" data_type: %(type)s dims: [ 16 ] }
]
"""


def graph(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, tuple[int, Shape]],
    constants: list[onnx.TensorProto] | None = None,
) -> onnx.ModelProto:
    """A checked model; tensors are given as ``name: (type, shape)``."""
    takes, gives = (
        [helper.make_tensor_value_info(name, *kind) for name, kind in side.items()]
        for side in (inputs, outputs)
    )
    made = helper.make_graph(nodes, "plain", takes, gives, constants or [])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def add_model(
    repository: Path, name: str, model: onnx.ModelProto, config: str | None = None, *, version: int = 1
) -> Path:
    """Write a version of a plain model; returns the model's folder."""
    home = repository / name
    (home / str(version)).mkdir(parents=True)
    onnx.save(model, home / str(version) / "model.onnx")
    if config is not None:
        (home / "config.pbtxt").write_text(config)
    return home


def simple(kind: int = INT32) -> onnx.ModelProto:
    """Sum and difference of two tensors: the ``simple`` of Triton's examples."""
    pair: dict[str, tuple[int, Shape]] = {f"INPUT{n}": (kind, ["N", 16]) for n in (0, 1)}
    return graph(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        pair,
        {f"OUTPUT{n}": (kind, ["N", 16]) for n in (0, 1)},
    )


def simple_string() -> onnx.ModelProto:
    """The same with numbers as text: ``simple_string``."""
    nodes = [
        helper.make_node("Cast", ["INPUT0"], ["number0"], to=INT32),
        helper.make_node("Cast", ["INPUT1"], ["number1"], to=INT32),
        helper.make_node("Add", ["number0", "number1"], ["result0"]),
        helper.make_node("Sub", ["number0", "number1"], ["result1"]),
        helper.make_node("Cast", ["result0"], ["OUTPUT0"], to=STRING),
        helper.make_node("Cast", ["result1"], ["OUTPUT1"], to=STRING),
    ]
    return graph(
        nodes,
        {f"INPUT{n}": (STRING, ["N", 16]) for n in (0, 1)},
        {f"OUTPUT{n}": (STRING, ["N", 16]) for n in (0, 1)},
    )


def identity(kind: int, shape: Shape) -> onnx.ModelProto:
    """Gives back what it gets: ``simple_identity``."""
    return graph(
        [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])],
        {"INPUT0": (kind, shape)},
        {"OUTPUT0": (kind, shape)},
    )


def add_examples(repository: Path) -> Path:
    """The models of Triton's examples; returns the repository."""
    add_model(repository, "simple", simple(), SIMPLE_CONFIG % {"type": "TYPE_INT32"})
    add_model(repository, "simple_string", simple_string(), SIMPLE_CONFIG % {"type": "TYPE_STRING"})
    add_model(repository, "simple_identity", identity(STRING, ["N", "any"]))
    return repository
