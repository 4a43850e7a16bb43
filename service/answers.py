"""What a model answers: numpy arrays by the names of the bundle's contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock import bundle

Images = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
"""``[N, C, H, W]``: values in 0..1, or pixels in 0..255, as a bundle's ``input_type`` says."""

DTYPES: Mapping[str, type[np.generic]] = {
    bundle.LOGITS: np.float32,
    bundle.PATH: np.uint8,
    bundle.ACTIVE_MACS: np.float32,
    bundle.SCORE: np.float32,
    bundle.FLAG: np.bool_,
}

INPUT_DTYPES: Mapping[str, type[np.float32 | np.uint8]] = {"fp32": np.float32, "uint8": np.uint8}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answers for ``N`` images.

    Attributes:
        logits: ``[N, classes]`` float32.
        path: ``[N, P]`` uint8, 0 or 1.
        active_macs: ``[N, 1]`` float32, share of the dense network's MACs that the path asks for.
        anomaly_score: ``[N, 1]`` float32, larger is stranger.
        adversarial: ``[N, 1]`` bool, score above the calibrated threshold.
    """

    logits: npt.NDArray[np.float32]
    path: npt.NDArray[np.uint8]
    active_macs: npt.NDArray[np.float32]
    anomaly_score: npt.NDArray[np.float32]
    adversarial: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.logits)

    @classmethod
    def join(cls, parts: Sequence[Answer]) -> Answer:
        """Lay answers end to end in the order given; at least one."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in bundle.OUTPUTS}
        )
