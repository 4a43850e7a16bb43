"""A graph and a manifest that are as good as any others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from penstock import bundle
from penstock.bundle import Bundle, Calibration, Manifest
from penstock.paths import PathLayer, PathLayout

LAYOUT = PathLayout(layers=(PathLayer(name="conv", filters=4, macs=100),), fixed_macs=10, dense_macs=100)


def write_model(path: Path, value: float) -> Path:
    """A graph that adds a number: as good as any other here."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    shape = [1, 3, 4, 4]
    graph = helper.make_graph(
        [helper.make_node("Add", ["images", "value"], ["logits"])],
        "adds",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor("value", onnx.TensorProto.FLOAT, [], [value])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def manifest(model_sha256: str, **change: Any) -> Manifest:
    made = Manifest(
        model_sha256=model_sha256,
        source={"name": "test", "sha256": "0" * 64},
        input_shape=(3, 4, 4),
        class_names=("cat", "dog"),
        layout=LAYOUT,
        lowering="masked",
        max_batch=8,
        single=False,
        parity={"logits": 1e-6},
        calibration=Calibration(detector="path", target_fpr=0.05, threshold=1.5, images=499, source="graph"),
        versions={"penstock": "0"},
    )
    return dataclasses.replace(made, **change)


def edit(bundle_: Bundle, **change: object) -> None:
    file = bundle_.folder / bundle.MANIFEST_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
