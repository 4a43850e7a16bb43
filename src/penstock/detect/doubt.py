"""How unsure a network is of its answer: minus the log of the largest class probability.

    doubt = log sum_c exp(f_c) - max_c f_c,      0 .. log classes

(Hendrycks and Gimpel, *A Baseline for Detecting Misclassified and Out-of-Distribution Examples*, 2017,
https://arxiv.org/abs/1610.02136, in another scale.) It says nothing about the path, and is what the path does not see:
an attack that stops as soon as the answer turns leaves a path that is half this class's and half that one's, and a
network in doubt; one that goes on leaves no doubt, and a path like none before. So it serves beside scores of the path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.detect.grouping import Floats

SMALLEST_SPREAD = 1e-3  # nats; below that nobody is in doubt, and single precision neither


def doubt(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``[N]`` float32, 0 or more, of logits ``[N, classes]``."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    found: Floats = np.log(np.exp(exact).sum(axis=1))
    return found.astype(np.float32)


@dataclass(frozen=True)
class DoubtScore:
    """Doubt in standard deviations of honest inputs.

    Attributes:
        location: mean on honest inputs.
        spread: standard deviation there, above 0.
    """

    location: float
    spread: float

    @classmethod
    def fit(cls, honest: npt.NDArray[np.float32]) -> DoubtScore:
        """See where the doubts ``[N]`` of honest inputs lie."""
        return cls(float(honest.mean()), max(float(honest.std()), SMALLEST_SPREAD))

    def score(self, doubts: npt.NDArray[np.float32]) -> Floats:
        """``[N]``, larger is stranger."""
        found: Floats = (doubts.astype(np.float64) - self.location) / self.spread
        return found
