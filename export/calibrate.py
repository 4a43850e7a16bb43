"""Set a graph's threshold: the detector belongs to the exported graph, not to the checkpoint.

Precision and lowering change scores, so the threshold is the conformal quantile of the scores that this very graph
gives to honest images. Where no images are at hand, the scores stored with the checkpoint serve, and the graph is
verified to compute the same score as PyTorch does.

A graph compares scores with one number, or, for a promise in each predicted class, with the row of a table:

    one for all    anomaly_score <= threshold
    per class      anomaly_score <= Gather(thresholds [C, 1], ArgMax(logits))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.bundle import FLAG, LOGITS, SCORE, Calibration
from penstock.detect import class_thresholds, conformal_threshold
from penstock.errors import VerificationError
from penstock.export.building import Builder
from penstock.export.nodes.regions import drop_unused
from penstock.export.runtime import Outputs

THRESHOLD = "threshold"


def calibration_of(
    scores: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    fpr: float,
    source: str,
    data: str,
    detector: str,
) -> Calibration:
    """The calibration that scores of honest images give.

    Args:
        scores: ``[N]``.
        fpr: promised false-positive rate.
        source: ``graph`` or ``stored``, where the scores came from.
        data: what images they were.
        detector: whose scores they are.

    Raises:
        InvalidArgumentError: too few scores for this rate.
    """
    threshold = float(np.float32(conformal_threshold(scores, fpr)))
    return Calibration(
        detector=detector, target_fpr=fpr, threshold=threshold, images=len(scores), source=source, data=data
    )


def calibrated_again(
    old: Calibration, got: Outputs, names: Sequence[str], *, fpr: float, per_class: bool, data: str
) -> Calibration:
    """The calibration that a graph's own answers for honest images give, in the place of an older one.

    Args:
        old: says which detector it is, and what images that ranks scores by.
        got: the graph's answers.
        names: of the classes.
        fpr: promised false-positive rate.
        per_class: set a threshold for each predicted class.
        data: what images they were.

    Raises:
        InvalidArgumentError: too few images for this rate, altogether or taken for some class.
    """
    scores, predicted = got[SCORE][:, 0], got[LOGITS].argmax(axis=1)
    common = calibration_of(scores, fpr, "graph", data, old.detector)
    own = class_thresholds(scores, predicted, names, fpr) if per_class else np.zeros(0)
    return replace(
        common,
        ranked_by=old.ranked_by,
        class_thresholds=tuple(own.astype(np.float32).tolist()),
        class_images=tuple(np.bincount(predicted, minlength=len(names)).tolist()) if per_class else (),
    )


def set_thresholds(model: ir.Model, calibration: Calibration) -> None:
    """Let the flags of a graph follow from a calibration, whatever they followed from before.

    Raises:
        VerificationError: the graph has no flags in the form that we export.
    """
    graph = model.graph
    comparison = _comparison(graph)
    score = comparison.inputs[0]
    assert score is not None
    build = Builder(graph, THRESHOLD)
    if calibration.class_thresholds:
        table = np.array(calibration.class_thresholds, np.float32)[:, None]
        compared = build.op("Gather", build.constant(table, "classes"), _predicted(graph, build), axis=0)
        compared.type, compared.shape = score.type, score.shape
        build.insert_before(comparison)
    else:
        compared = _one_for_all(graph, calibration.threshold)
    comparison.replace_input_with(1, compared)
    drop_unused(graph)


def _one_for_all(graph: ir.Graph, threshold: float) -> ir.Value:
    """The constant of that name, made if it is not there."""
    tensor = ir.tensor(np.array(threshold, np.float32), name=THRESHOLD)
    if THRESHOLD in graph.initializers:
        graph.initializers[THRESHOLD].const_value = tensor
    else:
        kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        graph.register_initializer(ir.Value(name=THRESHOLD, const_value=tensor, type=kind, shape=shape))
    return graph.initializers[THRESHOLD]


def _comparison(graph: ir.Graph) -> ir.Node:
    """The node that compares scores with thresholds."""
    flag = next((output for output in graph.outputs if output.name == FLAG), None)
    negation = None if flag is None else flag.producer()
    value = None if negation is None or negation.op_type != "Not" else negation.inputs[0]
    comparison = None if value is None else value.producer()
    if comparison is None or comparison.op_type != "LessOrEqual":
        raise VerificationError(f"{FLAG!r} is no comparison of a score with a threshold; export again")
    return comparison


def _predicted(graph: ir.Graph, build: Builder) -> ir.Value:
    """Indices ``[N]`` of the largest logits: the detector's own where it looks for them anyway."""
    logits = next(output for output in graph.outputs if output.name == LOGITS)
    for node, _ in logits.uses():
        if node.op_type == "ArgMax" and node.attributes.get_int("keepdims", 1) == 0:
            return node.outputs[0]
    return build.op("ArgMax", logits, axis=1, keepdims=0)
