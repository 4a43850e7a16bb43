"""Every export that flags carries what is needed to say where its scores come from."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from penstock.bundle import DETECTOR_FILE, GATE_LOGITS, INPUT, Bundle
from penstock.detect import PathFeatures, explain
from penstock.detect.tables import tables_from_bytes
from penstock.errors import VerificationError
from penstock.export.passes.gate_logits import name_gate_logits


def test_graphs_show_the_gate_logits_that_their_tables_speak_of(bundles: dict[str, Bundle]) -> None:
    flagging = [bundle for bundle in bundles.values() if bundle.manifest.calibration is not None]
    assert flagging
    for bundle in flagging:
        model = onnx.load(bundle.model_file)
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(GATE_LOGITS))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        pixels = np.random.default_rng(1).random((1, *bundle.manifest.input_shape), dtype=np.float32)
        image = pixels if bundle.manifest.input_type == "fp32" else (pixels * 255).astype(np.uint8)
        names = [GATE_LOGITS, "path", "logits", "anomaly_score"]
        gate_logits, path, logits, score = session.run(names, {INPUT: image})
        tables = tables_from_bytes((bundle.folder / DETECTOR_FILE).read_bytes())
        found = explain(tables, PathFeatures(path, gate_logits, logits.argmax(axis=1)))
        assert found.parts.sum(axis=1) == pytest.approx(score[:, 0], rel=1e-4, abs=1e-4)
        whole = found.baseline + found.bits.sum(axis=1) + found.gates.sum(axis=1)
        assert whole == pytest.approx(found.parts.sum(axis=1))


def test_graph_without_a_detector_has_none_to_name() -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18})
    with pytest.raises(VerificationError, match=r"divides by 'head\.scale' 0 times"):
        name_gate_logits(ir.Model(graph, ir_version=8))
