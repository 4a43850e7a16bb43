"""Every export that flags carries what is needed to say where its scores come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from penstock.bundle import DETECTOR_FILE, GATE_LOGITS, INPUT, Bundle
from penstock.detect import FamilyScore, PathFeatures, explain
from penstock.detect.doubt import doubt
from penstock.detect.tables import tables_from_bytes
from penstock.errors import VerificationError
from penstock.export.captured import capture_paths
from penstock.export.compiling import compile_paths, serialize
from penstock.export.lowerings.routed import Routed
from penstock.export.passes.gate_logits import name_gate_logits
from penstock.export.pipeline import ExportOptions, export
from penstock.export.precision.narrowing import narrow
from penstock.export.runtime import open_graph
from penstock.export.sample import Sample
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.family_head import FamilyHead

Images = npt.NDArray[np.float32] | npt.NDArray[np.uint8]


def check_explained(content: bytes, tables: FamilyScore, image: Images) -> None:
    """What the graph shows of its inside sums, by the tables, to the score that it gives."""
    model = onnx.load_model_from_string(content)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(GATE_LOGITS))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [GATE_LOGITS, "path", "logits", "anomaly_score"]
    gate_logits, path, logits, score = session.run(names, {INPUT: image})
    assert gate_logits.dtype == np.float32
    found = explain(tables, PathFeatures(path, gate_logits, logits.argmax(axis=1), doubt(logits)))
    assert found.parts.sum(axis=1) == pytest.approx(score[:, 0], rel=1e-4, abs=1e-4)
    whole = found.baseline + found.answer + found.bits.sum(axis=1) + found.gates.sum(axis=1)
    assert whole == pytest.approx(found.parts.sum(axis=1))


def tables_of(head: FamilyHead) -> FamilyScore:
    """The default detector's tables, from the module that was captured."""
    return FamilyScore.of_default({name: table.numpy() for name, table in head.both.named_buffers()})


def check_bundle(bundle: Bundle) -> None:
    assert bundle.manifest.calibration is not None
    pixels = np.random.default_rng(1).random((1, *bundle.manifest.input_shape), dtype=np.float32)
    image = pixels if bundle.manifest.input_type == "fp32" else (pixels * 255).astype(np.uint8)
    name = bundle.manifest.calibration.detector
    tables = tables_from_bytes(name, (bundle.folder / DETECTOR_FILE).read_bytes())
    check_explained(bundle.model_file.read_bytes(), tables, image)


def test_graphs_show_the_gate_logits_that_their_tables_speak_of(bundles: dict[str, Bundle]) -> None:
    flagging = [bundle for bundle in bundles.values() if bundle.manifest.calibration is not None]
    assert flagging
    for bundle in flagging:
        check_bundle(bundle)


@pytest.mark.parametrize(
    "options",
    [
        {"lowering": "masked", "precision": "int8"},
        {"lowering": "masked", "precision": "int8", "input_type": "uint8"},
        {"lowering": "gathered", "precision": "fp16"},
        {"lowering": "masked", "detector": "minimum:gate-mahalanobis+doubt"},
        {"lowering": "masked", "detector": "harmonic:path-likelihood+gate-mahalanobis+disagreement+doubt"},
        {"lowering": "gathered", "detector": "fisher:gate-mahalanobis+router-gate"},
        {"lowering": "masked", "detector": "gate-mahalanobis+disagreement+router-gate"},
    ],
)
def test_graphs_of_reduced_precision_and_other_detectors_show_them_too(
    options: dict[str, Any], tiny_run: Path, tmp_path: Path
) -> None:
    bundle = export(ExportOptions(source=str(tiny_run), repository=tmp_path, name="narrow", **options))
    check_bundle(bundle)
    # What is no image has no score, by whatever recipe, and is flagged.
    if bundle.manifest.precision == "fp32":
        session = open_graph(bundle.model_file, single=bundle.manifest.single, threads=1).session
        for pixel in (np.nan, np.inf):
            broken = np.full((1, *bundle.manifest.input_shape), pixel, np.float32)
            (flag,) = session.run(["adversarial"], {INPUT: broken})
            assert flag.all()


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("network", ["cascade", "backed"])
def test_cascades_show_them_too(
    network: str, single: bool, precision: str, routed: Callable[[str], Any], some_images: Any
) -> None:
    captured, images = routed(network), some_images(64)
    model: ir.Model = captured.lowered(Routed(single=single))
    if precision != "fp32":
        model = narrow(model, precision, images)
    name_gate_logits(model)
    tables = tables_of(captured.served.head)
    for image in images[:8]:  # of some the first member is sure, of others not
        check_explained(serialize(model), tables, image[None].astype(np.float32) / 255)


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_cascade_is_compiled_with_a_calibrated_detector_that_can_be_explained(
    precision: str, tiny: Checkpoint, routed: Callable[[str], Any], some_images: Any
) -> None:
    served = routed("cascade").served
    detector = tables_of(served.head).arrays()
    checkpoint = replace(tiny, network=served.network, detector=detector, input_shape=(3, 8, 8))
    captured = capture_paths(checkpoint, Sample(some_images(120), real=True), fpr=0.05)
    compiled = compile_paths(captured, Routed(), precision)
    assert compiled.precision == precision
    assert compiled.calibration is not None
    image = some_images(1, seed=4).astype(np.float32) / 255
    check_explained(compiled.content, tables_of(served.head), image)


def test_graph_without_a_detector_has_none_to_name() -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18})
    with pytest.raises(VerificationError, match=r"divides by 'head\.both\.scale' 0 times"):
        name_gate_logits(ir.Model(graph, ir_version=8))
