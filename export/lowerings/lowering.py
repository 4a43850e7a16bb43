"""What every lowering is."""

from __future__ import annotations

from typing import Protocol

import onnx_ir as ir


class Lowering(Protocol):
    """A way to turn gated convolutions into plain ONNX operators.

    Attributes:
        name: as on the command line.
        single: whether the result takes exactly one image at a time.
        skips: whether closed filters are really not computed.
    """

    name: str
    single: bool
    skips: bool

    def lower(self, model: ir.Model) -> frozenset[str]:
        """Replace every gated convolution of ``model``, in place.

        Returns:
            the names of the layers that run on those input channels only that are there.

        Raises:
            UnsupportedError: this lowering cannot do a layer; names it and says what to do.
        """
