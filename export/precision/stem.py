"""Rewrite the convolution that reads the images so that ONNX Runtime's int8 kernels run it well.

They want input channels in fours, and images have three. A convolution of stride 2 becomes one of stride 1 on blocks of
2x2 pixels, which have four times as many channels. Its kernel, filled up with zeros, is cut alike; p pixels of padding
become q = ceil(p / 2) blocks, of which the kernel skips 2 q - p pixels:

    y[o] = sum_i w[i] x[2 o + i - p] = sum_(j, b) w[2 j + b - (2 q - p)] x[2 (o + j - q) + b]

The sum is the same. A normalisation's division of each channel moves into the kernel on the way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.export.building import Builder, constant_array, dimension, is_constant
from penstock.export.passes.reporting import Effect

BLOCK = 2
CHANNELS = 4  # in a block, of images with one channel, and the fewest that kernels take


STRIDE = "it does not go from one block of 2x2 pixels to the next"
ODD = "images with odd sides are not made of blocks of 2x2 pixels"
FORM = "it is dilated, has groups, or finds its padding itself"
CROPPED = "it never looks at the last pixels"


class BlockStem:
    """A convolution of stride 2 that reads images becomes one of stride 1 that reads blocks of 2x2 pixels.

    It declines other strides, dilations and groups, images with odd sides, and padding that is less than none.
    """

    name = "read images in blocks"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Rewrite the convolutions that read less than four channels."""
        effect = Effect()
        for node in list(graph):
            if node.op_type == "Conv" and reads_images(node):
                why = _why_not(node)
                effect.note(str(node.name), why)
                if why is None:
                    _rewrite(graph, node)
        return effect


def reads_images(node: ir.Node) -> bool:
    """Whether a convolution of constant weights reads less than four channels."""
    x, y = node.inputs[0], node.outputs[0]
    if x is None or x.shape is None or y.shape is None or not is_constant(node.inputs[1]):
        return False
    sizes = (*x.shape[1:], *y.shape[1:])
    return all(isinstance(size, int) for size in sizes) and dimension(x, 1) < CHANNELS


def _why_not(node: ir.Node) -> str | None:
    x = node.inputs[0]
    assert x is not None
    if list(node.attributes.get_ints("strides", [1, 1])) != [BLOCK, BLOCK]:
        return STRIDE
    if any(dimension(x, axis) % BLOCK for axis in (2, 3)):
        return ODD
    plain = (
        node.attributes.get_int("group", 1) == 1
        and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        and list(node.attributes.get_ints("dilations", [1, 1])) == [1, 1]
    )
    if not plain:
        return FORM
    return CROPPED if min(_pads(node)) < 0 else None


def _pads(node: ir.Node) -> list[int]:
    """Padding in blocks: before both axes, then behind both."""
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    before = [-(-pad // BLOCK) for pad in _before(node)]
    behind = [
        dimension(y, axis) + side - 1 - blocks - dimension(x, axis) // BLOCK
        for axis, side, blocks in zip((2, 3), _cut(node).shape[2:], before, strict=True)
    ]
    return before + behind


def _before(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("pads", [0, 0, 0, 0]))[:2]


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    x, divisor = undivided(node)
    weight, pads = _cut(node) / np.tile(divisor, (1, BLOCK * BLOCK, 1, 1)), _pads(node)
    build = Builder(graph, f"{node.name}.blocks")
    blocks = build.op("SpaceToDepth", x, blocksize=BLOCK)
    kernel = build.constant(weight.astype(np.float32), "weight")
    build.replace(node, (build.op("Conv", blocks, kernel, *node.inputs[2:], pads=pads),))


def undivided(node: ir.Node) -> tuple[ir.Value | None, npt.NDArray[np.float32]]:
    """What a convolution reads before each channel is divided by a constant, and the constants ``[1, C, 1, 1]``."""
    x = node.inputs[0]
    assert x is not None
    shape = (1, dimension(x, 1), 1, 1)
    division = x.producer()
    if division is not None and division.op_type == "Div" and is_constant(division.inputs[1]):
        divisor = constant_array(division.inputs[1])
        if divisor.shape == shape:
            return division.inputs[0], divisor
    return x, np.ones(shape, np.float32)


def _cut(node: ir.Node) -> npt.NDArray[np.float32]:
    """The kernel ``[C, C_in, kh, kw]`` as ``[C, 4 C_in, kh', kw']``, channels in the order of ``SpaceToDepth``."""
    weight = constant_array(node.inputs[1])
    skipped = [pad % BLOCK for pad in _before(node)]
    fill = [(skip, (side + skip) % BLOCK) for side, skip in zip(weight.shape[2:], skipped, strict=True)]
    filled = np.pad(weight, [(0, 0), (0, 0), *fill])
    filters, channels, height, width = filled.shape
    cut = filled.reshape(filters, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return cut.transpose(0, 3, 5, 1, 2, 4).reshape(filters, -1, height // BLOCK, width // BLOCK)
