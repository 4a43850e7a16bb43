"""The disagreement inside a real graph, of plain operators only, beside the library's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from penstock.detect import ClassDisagreement, PathFeatures
from penstock.export.capture.contract import ServedModel
from penstock.export.capture.exporting import capture
from penstock.export.lowerings.masked import Masked
from penstock.export.passes.simplify import tidy
from penstock.export.runtime import open_graph
from penstock.nn.disagreement_head import DisagreementHead
from penstock.nn.inference import answer


def test_graphs_compute_the_same_disagreement(
    captured: dict[str, Any], some_images: Any, to_bytes: Any
) -> None:
    network = captured["chain"].served.network

    def features(seed: int) -> PathFeatures:
        seen = answer(network, some_images(300, seed))
        return PathFeatures(seen.bits, seen.gate_logits, seen.predicted)

    tables = ClassDisagreement.of_prototypes(features(9), 5)
    served = ServedModel(network, DisagreementHead(tables)).eval()
    model = capture(served, (3, 8, 8))
    Masked().lower(model)
    content = to_bytes(tidy(model))
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    assert {node.domain for node in onnx.load_model_from_string(content).graph.node} == {""}
    got = open_graph(content, single=False).run(some_images(300, 10))
    wanted = features(10)
    same = (got["path"] == wanted.bits).all(axis=1)
    assert same.mean() > 0.95
    assert got["anomaly_score"][same, 0] == pytest.approx(tables.score(wanted)[same], rel=1e-4, abs=1e-4)
    assert np.ptp(got["anomaly_score"]) > 1
