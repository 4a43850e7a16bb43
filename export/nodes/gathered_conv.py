"""One gated convolution of one image: gather the weights of its open filters and run those.

    y = gate(x);  z = 1[y > 0];  open = indices of z;  out = relu(conv(x, W[open], b[open]))

A filter whose gate does not look at the image (`GatedConvNode.fixed`) is never asked about: it is always there,
or never. Where that is so of all filters, the convolution is a plain static one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.building import Builder
from penstock.export.nodes.compact import LAYER, NOTHING, Array, Compact, Index, given, picked, take
from penstock.export.nodes.gated_conv import GatedConvNode, codes, gate_logits, pooled_input


def gather_conv(
    build: Builder, conv: GatedConvNode, x: ir.Value, columns: Index | None
) -> tuple[Compact, ir.Value, ir.Value]:
    """Write the convolution and its gate.

    Args:
        build: where to.
        conv: what it stands for.
        x: what it reads, ``[1, channels, H, W]``.
        columns: which channels those are; ``None``: all.

    Returns:
        its open channels, its code and its gate's logits.

    Raises:
        UnsupportedError: it is a grouped convolution.
    """
    if conv.conv_attributes["group"] > 1:
        raise UnsupportedError(
            f"layer {conv.layer} has {conv.conv_attributes['group']} groups, whose filters cannot be gathered: "
            "take the lowering masked, or leave the layer ungated (where)"
        )
    logits = gate_logits(build, conv, pooled_input(build, x), columns)
    code = codes(build, logits)
    rows, index = _open_filters(build, conv, code)
    # Behind the filters stands one of zeros, for when none is open.
    filters = np.concatenate([conv.weight, np.zeros_like(conv.weight[:1])])
    bias = take(build, np.append(conv.bias, np.float32(0)), rows, 0, "bias")
    weight = picked(build, filters, rows, columns)
    output = build.op("Conv", x, weight, given(build, bias, "bias"), **conv.conv_attributes)
    for noted in (output.producer(), index):
        if isinstance(noted, ir.Node | ir.Value):
            noted.meta[LAYER] = conv.layer
    return Compact(build.op("Relu", output) if conv.relu else output, index), code, logits


def _open_filters(build: Builder, conv: GatedConvNode, code: ir.Value) -> tuple[Index, Index]:
    """Which filters to run, of which the last one is that of zeros, and whose channels they make."""
    always, asked = np.flatnonzero(conv.fixed & (conv.expand_bias > 0)), np.flatnonzero(~conv.fixed)
    zero = conv.filters
    if not len(asked):
        known = always if len(always) else np.array([NOTHING])
        return np.where(known == NOTHING, zero, known), known
    if len(asked) < conv.filters:
        code = build.op("Gather", code, build.constant(asked, "asked"), axis=1)
    chosen = _ones(build, code)
    # A channel of zeros must not fall on one that is open; it exists where nothing that was asked about is.
    rows, places = (_picked(build, np.append(asked, last), chosen, always) for last in (zero, asked[0]))
    return rows, places


def _picked(build: Builder, asked: Array, chosen: ir.Value, always: Array) -> ir.Value:
    """The filters that are always there, and the chosen ones of those that were asked about."""
    found = build.op("Gather", build.constant(asked, "filters"), chosen, axis=0)
    return build.op("Concat", build.constant(always, "always"), found, axis=0) if len(always) else found


def _ones(build: Builder, code: ir.Value) -> ir.Value:
    """Indices of the ones in ``code`` ``[1, n]``; if there are none, ``[n]``."""
    axis = build.constant(np.array([1]), "axis")
    some = build.op("ReduceMax", code, axis, keepdims=1)
    none = build.op("Sub", build.constant(np.float32(1), "one"), some)
    extended = build.op("Concat", code, none, axis=1)
    return build.op("Gather", build.op("NonZero", extended), build.constant(np.array(1), "columns"), axis=0)
