"""A network with paths once it is captured: what all its lowerings start from, and what they must answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from penstock.detect.family_score import FamilyScore
from penstock.export.capture.contract import ServedModel
from penstock.export.capture.exporting import capture
from penstock.export.detectors import detector_of
from penstock.export.passes.drop_closed import DropClosedFilters
from penstock.export.passes.merge_open import MergeOpenFilters
from penstock.export.passes.reporting import Report
from penstock.export.sample import Sample
from penstock.export.verify.parity import Reference, reference
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.family_head import FamilyHead


@dataclass(frozen=True, eq=False, kw_only=True)
class CapturedNetwork:
    """A network with paths before any lowering, with what every lowering of it must answer.

    Attributes:
        checkpoint: where it comes from.
        sample: images to check and, if they are real, to calibrate on.
        fpr: promised false-positive rate; ``None``: without the detector.
        detector: what its scores come from; ``None``: without it.
        served: the network in PyTorch.
        model: the same in ``onnx_ir``, its decisions whole.
        report: what passes did so far.
        expected: what PyTorch answers for the sample.
    """

    checkpoint: Checkpoint
    sample: Sample
    fpr: float | None
    detector: FamilyScore | None
    served: ServedModel
    model: ir.Model
    report: Report
    expected: Reference


def capture_paths(
    checkpoint: Checkpoint,
    sample: Sample,
    fpr: float | None,
    detector: str | None = None,
    folder: Path | None = None,
    sub_architectures: Path | None = None,
) -> CapturedNetwork:
    """What all lowerings of a checkpoint start from; capturing is the slow part, so it is done once.

    Args:
        checkpoint: what to compile.
        sample: images to check and, if they are real, to calibrate on.
        fpr: promised false-positive rate; ``None`` leaves the detector out.
        detector: name of a recipe, `penstock.detect.recipe`; ``None``: the checkpoint's own.
        folder: of the data set, whose training images one that the checkpoint does not hold is fitted on.
        sub_architectures: of a disentanglement, for recipes that compare with these.

    Raises:
        NotFoundError: these images are needed, and not there.
        UnsupportedError: the detector's threshold cannot be set, because there are no real images.
    """
    score = None
    if fpr is not None:
        score = detector_of(checkpoint, sample, detector, folder, sub_architectures)
    served = ServedModel(checkpoint.network, None if score is None else FamilyHead(score)).eval()
    report = Report()
    return CapturedNetwork(
        checkpoint=checkpoint,
        sample=sample,
        fpr=fpr,
        detector=score,
        served=served,
        model=capture(served, checkpoint.input_shape, report),
        report=report,
        expected=reference(served, sample.images),
    )


def settled(captured: CapturedNetwork) -> CapturedNetwork:
    """The same network without the gates that no image of its sample moves."""
    layout = captured.checkpoint.network.layout
    paths = dict(zip(layout.names, layout.split(captured.expected.answer.path.numpy()), strict=True))
    model, report = captured.model.clone(), captured.report.copy()
    for step in (DropClosedFilters(paths), MergeOpenFilters(paths)):
        report.run(step, model.graph)
    return replace(captured, model=model, report=report)
