"""What detectors see of an input: its path, the gate logits that made it, and the class it was taken for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.detect.doubt import doubt
from penstock.errors import InvalidArgumentError
from penstock.paths import PathLayout


@dataclass(frozen=True, eq=False)
class PathFeatures:
    """Paths of many inputs, with what led to them.

    The class is the *predicted* one, in fitting as in scoring: a server knows no other.

    Attributes:
        bits: ``[N, P]`` uint8, 0 or 1, 1 where the filter ran.
        gate_logits: ``[N, P]`` float32, finite; a gate opens its filter above 0.
        predicted: ``[N]`` int64, index of the largest logit of the network.
        doubt: ``[N]`` float32, how unsure the network is, see `penstock.detect.doubt`; ``None`` where it is not known,
            which only those detectors mind that ask for it.
    """

    bits: npt.NDArray[np.uint8]
    gate_logits: npt.NDArray[np.float32]
    predicted: npt.NDArray[np.int64]
    doubt: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        shape = self.bits.shape
        if len(shape) != 2 or shape[1] == 0 or self.bits.dtype != np.uint8:
            raise InvalidArgumentError(f"bits are {self.bits.dtype} of shape {shape}; uint8 [N, P] is needed")
        needed_of: list[tuple[str, npt.NDArray[Any], tuple[Any, ...]]] = [
            ("gate_logits", self.gate_logits, (np.dtype(np.float32), shape)),
            ("predicted", self.predicted, (np.dtype(np.int64), shape[:1])),
        ]
        if self.doubt is not None:
            needed_of.append(("doubt", self.doubt, (np.dtype(np.float32), shape[:1])))
        for name, values, needed in needed_of:
            if (values.dtype, values.shape) != needed:
                raise InvalidArgumentError(
                    f"{name} are {values.dtype} of shape {values.shape}; {needed[0]} {needed[1]} is needed"
                )
        if len(self) and self.bits.max() > 1:
            raise InvalidArgumentError(f"bits hold {self.bits.max()}; only 0 and 1 are allowed")
        if not np.isfinite(self.gate_logits).all():
            raise InvalidArgumentError("gate_logits hold NaN or infinity: the network's output is broken")
        if len(self) and self.predicted.min() < 0:
            raise InvalidArgumentError(f"predicted holds {self.predicted.min()}; classes count from 0")

    def check_classes(self, classes: int) -> None:
        """Refuse a predicted class that does not exist.

        Raises:
            InvalidArgumentError: says which.
        """
        if len(self) and self.predicted.max() >= classes:
            raise InvalidArgumentError(f"predicted holds class {self.predicted.max()}; there are {classes}")

    @classmethod
    def of(
        cls,
        layout: PathLayout,
        bits: npt.NDArray[np.uint8],
        gate_logits: npt.NDArray[np.float32],
        logits: npt.NDArray[np.float32],
    ) -> PathFeatures:
        """What a detector sees of a network's answers: where the network has observers, what they say, else all.

        Args:
            layout: of the path.
            bits: ``[N, P]``, the paths.
            gate_logits: ``[N, P]``.
            logits: ``[N, classes]``.
        """
        watched = layout.watched
        predicted = logits.argmax(axis=1).astype(np.int64)
        return cls(bits[:, watched], gate_logits[:, watched], predicted, doubt(logits))

    def __len__(self) -> int:
        return len(self.bits)

    @property
    def filters(self) -> int:
        """Length ``P`` of a path."""
        return int(self.bits.shape[1])

    def take(self, which: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]) -> PathFeatures:
        """Those of the chosen inputs, ``[M]`` integers or a mask ``[N]``, in the order chosen."""
        doubt = None if self.doubt is None else self.doubt[which]
        return PathFeatures(self.bits[which], self.gate_logits[which], self.predicted[which], doubt)

    def batches(self, size: int) -> Iterator[PathFeatures]:
        """Cut into pieces of at most ``size`` inputs, in order."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))
