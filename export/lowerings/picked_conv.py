"""A convolution of some of its filters on some of its channels, in one of two forms.

    direct    out = conv(x, W[filters][:, channels])
    turned    out = conv_transposed(x, V[channels][:, filters]),   V[c, f] = W[f, c], mirrored in height and width

Both are the same sum; what they move differs, where weights change with every image and the engine cannot prepare
them. Direct lays out each pixel's patch, ``k^2`` times the channels that are read, and multiplies. Turned multiplies
and adds up ``k^2`` times the filters that are written: less where few filters read many channels. And there the weights
of a channel lie together, so picking channels copies long pieces and not kernel by kernel: of 512 channels a quarter in
0.2 ms and not 1.4 (ONNX Runtime 1.31, one AVX-512 core). Only with stride 1 is a convolution a transposed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from penstock.export.building import Builder
from penstock.export.lowerings.compact import Array, Index, given, take


def picked_conv(
    build: Builder,
    x: ir.Value,
    weight: Array,
    bias: ir.Value | None,
    *,
    filters: Index | None,
    channels: Index | None,
    attributes: Mapping[str, Any],
    turned: bool = False,
) -> ir.Value:
    """Write the convolution.

    Args:
        build: where to.
        x: ``[N, channels, H, W]``.
        weight: ``[C_out, C_in, kh, kw]``, all of it.
        bias: of the filters that are picked.
        filters: which to run; ``None``: all.
        channels: which of its inputs ``x`` holds; ``None``: all.
        attributes: of the plain convolution, without groups.
        turned: as a transposed convolution, where it can be.
    """
    data: Array | ir.Value = weight
    kind, picks = "Conv", ((filters, 0), (channels, 1))
    if turned and (pads := _turned_pads(weight, attributes)) is not None:
        data = np.ascontiguousarray(np.flip(weight, (2, 3)).swapaxes(0, 1))
        kind, picks = "ConvTranspose", ((channels, 0), (filters, 1))
        attributes = {**attributes, "pads": pads}
    for index, axis in picks:
        data = take(build, data, index, axis, "weight")
    return build.op(kind, x, given(build, data, "weight"), *(() if bias is None else (bias,)), **attributes)


def _turned_pads(weight: Array, attributes: Mapping[str, Any]) -> list[int] | None:
    """What the transposed convolution crops, ``d (k - 1) - p`` on each side; ``None`` where there is none."""
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads = attributes.get("pads", [0] * 4)
    if set(strides) != {1} or attributes.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
    crops = [r - p for r, p in zip([*reach, *reach], pads, strict=True)]
    return crops if min(crops) >= 0 else None
