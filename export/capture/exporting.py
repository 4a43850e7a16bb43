"""From a PyTorch module to ``onnx_ir``: PyTorch's own exporter, with gated convolutions kept whole.

The exporter translates everything around them; each gated convolution arrives as one ``penstock::GatedConv`` node,
which a lowering later replaces by plain operators.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch

from penstock.bundle import INPUT, OUTPUTS
from penstock.errors import UnsupportedError
from penstock.export.building import OPSET
from penstock.export.capture.contract import DenseModel, ServedModel
from penstock.export.capture.standing_in import capturable
from penstock.export.passes.fold_batch_norm import FoldBatchNorm
from penstock.export.passes.reporting import Report
from penstock.export.passes.simplify import simplify
from penstock.export.passes.slice_parts import SliceParts


def capture(
    model: ServedModel | DenseModel, input_shape: tuple[int, int, int], report: Report | None = None
) -> ir.Model:
    """Translate a model to ``onnx_ir``.

    Args:
        model: what to export; it is not changed.
        input_shape: ``(C, H, W)`` of one image.
        report: is told what passes did.

    Returns:
        A model of opset 18 with a free batch dimension named ``batch``; gated convolutions are still nodes of the
        domain ``penstock``.

    Raises:
        UnsupportedError: PyTorch's exporter refuses the network.
    """
    example = torch.rand(2, *input_shape)
    try:
        with _quiet():
            program = torch.onnx.export(
                capturable(model),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise UnsupportedError(f"PyTorch's exporter cannot translate this network: {error}") from error
    assert program is not None
    report = report or Report()
    for step in (FoldBatchNorm(), SliceParts()):
        report.run(step, program.model.graph)
    return simplify(program.model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and notes about its own internals from the user's terminal."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
