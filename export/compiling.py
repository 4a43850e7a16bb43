"""Compile one candidate: from a checkpoint, a lowering and a precision to a finished, verified, calibrated graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime

from penstock.bundle import PATH, SCORE, Calibration
from penstock.detect.family_score import FamilyScore
from penstock.detect.recipe import MAHALANOBIS, Recipe
from penstock.export.calibrate import calibration_of, set_thresholds
from penstock.export.capture.contract import DenseModel
from penstock.export.capture.exporting import capture
from penstock.export.captured import CapturedNetwork
from penstock.export.engine_errors import check_graph
from penstock.export.lowerings.executed import Prototypes
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.observed import Observed
from penstock.export.passes.byte_input import TakeBytes
from penstock.export.passes.finish import finish
from penstock.export.passes.gate_logits import name_gate_logits
from penstock.export.passes.reporting import Report
from penstock.export.passes.simplify import tidy
from penstock.export.precision.agreement import compare, verify_agreement
from penstock.export.precision.narrowing import narrow
from penstock.export.runtime import BATCH, Outputs, open_graph
from penstock.export.sample import Sample
from penstock.export.verify.extremes import verify_extremes
from penstock.export.verify.parity import (
    Parity,
    reference,
    verify,
    verify_flags,
    verify_same,
    verify_unchanged,
    verify_untouched,
)
from penstock.manifest import FP32, Agreement, Choice, PassRecord
from penstock.nn.checkpoint import Checkpoint

DENSE = "dense"
EXTREME_IMAGES = 4  # to check all gates open and all closed on: paths do not depend on the image then


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A finished graph that agrees with PyTorch.

    Attributes:
        lowering: its name.
        passes: what the compiler's passes did, in order.
        choices: what it chose for the sample, if it is routed.
        single: whether it takes exactly one image at a time.
        content: the serialised graph.
        precision: of its convolutions and its classifier.
        parity: how well it agrees, in float32.
        agreement: how well the graph of reduced precision agrees with the float32 one.
        executed_macs: mean share of the dense MACs that it really executed on the sample, real or synthetic.
        calibration: how its threshold was set, if it flags.
        explained: the detector, where its scores can be explained.
    """

    lowering: str
    passes: tuple[PassRecord, ...]
    choices: tuple[Choice, ...] = ()
    single: bool
    content: bytes
    precision: str
    parity: Parity
    agreement: Agreement | None
    executed_macs: float
    calibration: Calibration | None
    explained: FamilyScore | None = None


def compile_dense(
    checkpoint: Checkpoint, sample: Sample, precision: str = FP32, *, checked: bool = True
) -> Compiled:
    """The network as it was before it got gates, under the same contract.

    Args:
        checkpoint: holds it.
        sample: images to compare with, and to narrow it by.
        precision: of convolutions and classifier.
        checked: refuse it if this precision costs too much.

    Raises:
        VerificationError: the graph does not answer as PyTorch does, or its precision costs too much.
    """
    served = DenseModel(checkpoint.dense, checkpoint.network.layout).eval()
    report = Report()
    model = tidy(capture(served, checkpoint.input_shape, report))
    got = open_graph(serialize(model), single=False).run(sample.images)
    parity = verify(reference(served, sample.images), got, checkpoint.network.layout)
    model, got, agreement = _narrowed(model, precision, sample, got, report, single=False)
    if checked and agreement is not None:
        verify_agreement(agreement, precision)
    content = _finished(model, checkpoint, DENSE, precision, None)
    _check_finished(content, got, sample, None, single=False)
    return Compiled(
        lowering=DENSE,
        passes=report.records,
        single=False,
        content=content,
        precision=precision,
        parity=parity,
        agreement=agreement,
        executed_macs=1.0,
        calibration=None,
    )


def compile_paths(captured: CapturedNetwork, lowering: Lowering, precision: str = FP32) -> Compiled:
    """One lowering of a captured network, which itself stays as it was.

    Raises:
        VerificationError: the graph does not answer as PyTorch does, or its precision costs too much.
        UnsupportedError: the lowering cannot have this precision.
        InvalidArgumentError: too few calibration images for this rate.
    """
    images = captured.sample.images[:EXTREME_IMAGES]
    verify_extremes(captured.model, captured.served, lowering, images)
    return _compile(captured, lowering, precision)


def compile_observed(captured: CapturedNetwork, precision: str = FP32) -> Compiled:
    """The dense network with gates that look on, and a detector of what they see.

    Args:
        captured: its network is observed.
        precision: of convolutions and classifier.

    Raises:
        VerificationError: what `compile_paths` says, or an answer is not, to the bit, that of the dense network alone.
        InvalidArgumentError: too few calibration images for this rate.
    """
    compiled = _compile(captured, Observed(), precision)
    alone = compile_dense(captured.checkpoint, captured.sample, precision)
    images = captured.sample.images
    verify_untouched(
        *(open_graph(each, single=False).run(images) for each in (alone.content, compiled.content))
    )
    return compiled


def _compile(captured: CapturedNetwork, lowering: Lowering, precision: str) -> Compiled:
    checkpoint, sample, fpr = captured.checkpoint, captured.sample, captured.fpr
    layout = checkpoint.network.layout
    model, report = captured.model.clone(), captured.report.copy()
    executed = lowering.lower(model, report)
    finish(model, precision, report)
    got = open_graph(serialize(model), single=lowering.single).run(sample.images)
    parity = verify(captured.expected, got, layout)
    model, got, agreement = _narrowed(model, precision, sample, got, report, single=lowering.single)
    if agreement is not None:
        verify_agreement(agreement, precision)
    calibration = explained = None
    if fpr is not None and captured.detector is not None:
        recipe = captured.detector.recipe
        calibration = _calibrate(checkpoint, sample, got, fpr, str(recipe))
        set_thresholds(model, calibration)
        # Others have no use for gate logits in their graphs, so their scores are not explained.
        if MAHALANOBIS in recipe.parts:
            name_gate_logits(model)
            explained = captured.detector
    content = _finished(model, checkpoint, lowering.name, precision, calibration)
    _check_finished(content, got, sample, calibration, single=lowering.single)
    return Compiled(
        lowering=lowering.name,
        passes=report.records,
        choices=executed.choices(layout, got[PATH]) if isinstance(executed, Prototypes) else (),
        single=lowering.single,
        content=content,
        precision=precision,
        parity=parity,
        agreement=agreement,
        executed_macs=float(executed(layout, got[PATH]).mean()),
        calibration=calibration,
        explained=explained,
    )


def with_byte_input(compiled: Compiled, sample: Sample) -> Compiled:
    """The same graph behind an input of pixels, uint8 in 0..255.

    Raises:
        VerificationError: it does not answer as before, or ONNX's checker refuses it.
    """
    model = ir.serde.deserialize_model(onnx.load_model_from_string(compiled.content))
    report = Report()
    report.run(TakeBytes(), model.graph)
    content = serialize(model)
    check_graph(content)
    images = sample.images[:BATCH]
    want, got = (open_graph(each, single=compiled.single).run(images) for each in (compiled.content, content))
    verify_same(want, got)
    return replace(compiled, content=content, passes=(*compiled.passes, *report.records))


def serialize(model: ir.Model) -> bytes:
    """The content of an ONNX file."""
    return ir.serde.serialize_model(model).SerializeToString()


def versions() -> dict[str, str]:
    """Versions of the software that takes part in an export."""
    packages = ("penstock", "torch", "onnx", "numpy")
    return {name: version(name) for name in packages} | {"onnxruntime": onnxruntime.__version__}


def _narrowed(
    model: ir.Model, precision: str, sample: Sample, expected: Outputs, report: Report, *, single: bool
) -> tuple[ir.Model, Outputs, Agreement | None]:
    """A float32 graph at the precision that is wanted, what it then answers, and how well that agrees."""
    if precision == FP32:
        return model, expected, None
    narrowed = narrow(model, precision, sample.to_fit, report)
    got = open_graph(serialize(narrowed), single=single).run(sample.images)
    return narrowed, got, compare(expected, got, real=sample.real)


def _calibrate(
    checkpoint: Checkpoint, sample: Sample, got: Outputs, fpr: float, detector: str
) -> Calibration:
    # Of images of one's own, the folder: where that lies is nobody's business.
    kind, _, path = str(checkpoint.config.get("data", "")).partition(":")
    data = f"{kind}:{Path(path).name}" if path else kind
    ranks = Recipe.parse(detector).ranking(len(sample.images))
    scores, source = (got[SCORE][~ranks, 0], "graph") if sample.real else (checkpoint.calibration, "stored")
    return replace(calibration_of(scores, fpr, source, data, detector), ranked_by=data if ranks.any() else "")


def _check_finished(
    content: bytes, expected: Outputs, sample: Sample, calibration: Calibration | None, *, single: bool
) -> None:
    """What goes into the file must answer as the graph that was compared with PyTorch, and flag by its threshold."""
    got = open_graph(content, single=single).run(sample.images[:BATCH])
    verify_unchanged(expected, got)
    verify_flags(got, calibration)


def _finished(
    model: ir.Model,
    checkpoint: Checkpoint,
    lowering: str,
    precision: str,
    calibration: Calibration | None,
) -> bytes:
    """The graph's file, which speaks for itself where no manifest travels with it, and passes ONNX's checker."""
    about: Mapping[str, Any] = {
        "layout": checkpoint.network.layout.to_json(),
        "class_names": checkpoint.class_names,
        "lowering": lowering,
        "precision": precision,
        "calibration": None if calibration is None else asdict(calibration),
        "versions": versions(),
    }
    model.producer_name = "penstock"
    model.producer_version = version("penstock")
    model.metadata_props.update({f"penstock.{key}": json.dumps(value) for key, value in about.items()})
    content = serialize(model)
    check_graph(content)
    return content
