"""Fold batch norms into the convolutions in front of them."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule

from penstock.export.passes.reporting import Effect

ALONE = "there is no convolution in front of it that it alone reads"


class FoldBatchNorm:
    """``norm(conv(x, W, b))`` becomes ``conv(x, s W, s (b - mean) + shift)`` with ``s = scale / sqrt(var + eps)``.

    Those of gated and routed convolutions are part of their nodes already: `penstock.export.capture` folds them. Newer
    versions of PyTorch's exporter have folded most others too. The pass declines where a batch norm reads something
    else than a convolution, or where others read that too.
    """

    name = "fold batch norms"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Fold what can be folded."""
        before = _norms(graph)
        RewritePass([fuse_batchnorm_into_conv_rule])(ir.Model(graph, ir_version=10))
        left = _norms(graph)
        return Effect([name for name in before if name not in left], dict.fromkeys(left, ALONE))


def _norms(graph: ir.Graph) -> list[str]:
    return [str(node.name) for node in graph if node.op_type == "BatchNormalization"]
