r"""Class masks: for every class one learned set of filters, in the places where gates stand.

Architecture disentanglement (Hu et al., *Architecture Disentanglement for Deep Neural Networks* = NAD, ICCV 2021,
https://arxiv.org/abs/2003.13268, section 3) leaves a trained network as it is and learns, for each class ``c`` and
layer ``l``, a score for every channel:

    m[c, l]                             scores, learned                        ``scores``  ``[classes, filters]``
    sigmoid(m[c, l]) * activation       while searching: a soft mask           `Use.SOFT`
    1[sigmoid(m[c, l]) > 0.5] = 1[m[c, l] > 0]    the class's path             `Use.HARD`

The path of class ``c`` through all layers is its *sub-architecture*. Here the masks of all classes stand side by side
and every sample of a batch says whose mask it runs under, so one run serves all classes at once.

The release masks after every block, also after a residual add; here a mask stands where a gate would, behind one
convolution (and its batch norm and ReLU) and before the add, so that a class's path is a path of
`penstock.paths.PathLayout` and a closed filter is work that a compact network need not do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.gates import GateCode
from penstock.nn.surgery import GatedNetwork, Where, attach_gates
from penstock.paths import PathLayout, PathSet

# Takes a layer's place in the path, its masked output and its mask; gives what the next layer reads.
Tap = Callable[[int, Tensor, Tensor], Tensor]


class Use(Enum):
    """How masks act: not at all, as while they are searched, or as the sub-architectures that they stand for."""

    OPEN = "open"
    SOFT = "soft"
    HARD = "hard"


class _Selection:
    """Which row of the masks each sample of the next run uses; one for all masks of a network."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        self.use = Use.OPEN


class ClassMask(nn.Module):
    """Stands where a gate would, but answers for the sample's class instead of for its pixels.

    Args:
        classes: number of masks.
        filters: filters of the layer.
        selection: says which mask is whose.
    """

    def __init__(self, classes: int, filters: int, selection: _Selection) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(classes, filters))
        self._selection = selection

    def forward(self, x: Tensor) -> GateCode:
        """Masks for the samples of ``x`` ``[N, C, H, W]``, as the selection says; ``code`` is what multiplies."""
        rows, use = self._selection.rows, self._selection.use
        if rows is None or use is Use.OPEN:
            everything = self.scores.new_ones(len(x), self.scores.shape[1])
            return GateCode(everything, everything)
        # An embedding's gradient is summed row by row in a fixed order, whichever other rows the batch holds.
        scores = F.embedding(rows, self.scores)
        code = torch.sigmoid(scores) if use is Use.SOFT else (scores > 0).to(scores.dtype)
        return GateCode(code, scores)


class MaskedNetwork(nn.Module):
    """A frozen network under class masks. It never leaves evaluation mode; nothing but the scores can be learned.

    Attributes:
        layout: order, size and cost of the masked layers; without gates, for the masks of a class are constants.
        masks: the class masks in path order.
    """

    def __init__(self, network: GatedNetwork, classes: int) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.layout = _without_gates(network.layout)
        self._selection = _Selection()
        self._tap: Tap | None = None
        masks = []
        for index, layer in enumerate(network.gated_layers):
            mask = ClassMask(classes, self.layout.layers[index].filters, self._selection)
            layer.add_module("gate", mask)  # a mask answers as a gate does
            layer.register_forward_hook(self._hook(index))
            masks.append(mask)
        self.masks = tuple(masks)
        self.train(False)

    @property
    def classes(self) -> int:
        """Number of classes that have masks."""
        return len(self.masks[0].scores)

    @property
    def scores(self) -> Tensor:
        """``[classes, P]`` all scores, m, in path order; a copy."""
        return torch.cat([mask.scores.detach() for mask in self.masks], dim=1)

    @scores.setter
    def scores(self, scores: Tensor) -> None:
        if scores.shape != (self.classes, self.layout.bits):
            raise InvalidArgumentError(
                f"scores have shape {tuple(scores.shape)}; [{self.classes}, {self.layout.bits}] is needed"
            )
        with torch.no_grad():
            for mask, part in zip(self.masks, self.layout.slices, strict=True):
                mask.scores.copy_(scores[:, part])

    @property
    def paths(self) -> PathSet:
        """The sub-architectures, ``[classes, P]``."""
        return PathSet(self.layout, (self.scores > 0).cpu().numpy().astype(np.uint8))

    def train(self, mode: bool = True) -> MaskedNetwork:
        """Stay in evaluation: batch norms keep their statistics, dropout stays off."""
        super().train(False)
        return self

    def forward(self, x: Tensor, rows: Tensor | None = None, use: Use = Use.HARD) -> Tensor:
        """Run on images, each under the mask of its row.

        Args:
            x: ``[N, C, H, W]``.
            rows: ``[N]`` int64, whose mask each sample runs under; ``None``: everything open.
            use: how the masks act.

        Returns:
            logits ``[N, classes of the network]``.
        """
        self._selection.rows, self._selection.use = rows, use
        logits: Tensor = self.network(x).logits
        return logits

    @contextlib.contextmanager
    def tapped(self, tap: Tap) -> Iterator[None]:
        """Within the block, every masked layer's output goes through ``tap``, in path order."""
        self._tap = tap
        try:
            yield
        finally:
            self._tap = None

    def activations(self, x: Tensor, rows: Tensor | None = None, use: Use = Use.HARD) -> list[Tensor]:
        """The masked layers' outputs ``[N, filters, H, W]``, in path order; what comes after the last is not run.

        So images of any size will do that the convolutions take, also where the classifier would not take them.
        """
        found: list[Tensor] = []

        def keep(index: int, output: Tensor, _: Tensor) -> Tensor:
            found.append(output)
            if len(found) == len(self.masks):
                raise _EnoughError
            return output

        with self.tapped(keep), contextlib.suppress(_EnoughError):
            self(x, rows, use)
        return found

    def _hook(
        self, index: int
    ) -> Callable[[nn.Module, object, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        def run(_: nn.Module, __: object, result: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if self._tap is None:
                return None
            return (self._tap(index, result[0], result[1]), *result[1:])

        return run


def attach_class_masks(
    model: nn.Module, example: Tensor, classes: int, where: Where | None = None
) -> MaskedNetwork:
    """Put class masks, all at score 0, in the places where `penstock.nn.surgery.attach_gates` would put gates.

    Args:
        model: a trained network; it is copied, not changed.
        example: one input, ``[1, C, H, W]``.
        classes: number of masks for each layer.
        where: which convolutions, as there; default all but the first.

    Raises:
        SurgeryError: the model cannot be traced, holds an operator of unknown cost, or has nothing to mask.
        InvalidArgumentError: fewer than one class.
    """
    if classes < 1:
        raise InvalidArgumentError(f"masks for {classes} classes; at least 1 is needed")
    return MaskedNetwork(attach_gates(model, example, where=where), classes).to(example.device)


def _without_gates(layout: PathLayout) -> PathLayout:
    """The same layers where nothing has to be decided, so that everything open costs what the dense network does."""
    everything = layout.active_macs(np.ones((1, layout.bits), dtype=np.uint8))
    gates = round((float(everything[0]) - 1) * layout.dense_macs)
    return replace(layout, fixed_macs=layout.fixed_macs - gates)


class _EnoughError(Exception):
    """Ends a run whose rest nobody needs."""
