"""Which scores a detector looks at, and how it makes one of them, as one name.

    PART[+PART...]         the mean of the parts, each in standard deviations of honest inputs
    HOW:PART[+PART...]     minimum, harmonic or fisher: combined by their p-values, `penstock.detect.surprisal`

Parts:

    path-likelihood        of the bits, `penstock.detect.likelihood`
    gate-mahalanobis       distance of the gate logits, `penstock.detect.mahalanobis`
    disagreement           `penstock.detect.disagreement`
    doubt                  `penstock.detect.doubt`
    router-gate            `penstock.detect.router_gate`
    sub-architecture       disagreement by the classes' sub-architectures, which a disentanglement has found
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.errors import InvalidArgumentError
from penstock.paths import PathLayout

LIKELIHOOD, MAHALANOBIS, DISAGREEMENT, DOUBT, ROUTER_GATE, SUB_ARCHITECTURE = PARTS = (
    "path-likelihood",
    "gate-mahalanobis",
    "disagreement",
    "doubt",
    "router-gate",
    "sub-architecture",
)
COMPARING = (DISAGREEMENT, SUB_ARCHITECTURE)  # parts that compare a class with the others
MEAN = "mean"
COMBINED = ("minimum", "harmonic", "fisher")

DEFAULT = f"{LIKELIHOOD}+{MAHALANOBIS}"  # the one whose tables checkpoints hold
OF_OBSERVERS = f"minimum:{MAHALANOBIS}+{DOUBT}"  # docs/decisions/0010-observers.md


@dataclass(frozen=True)
class Recipe:
    """A detector's name, read.

    Attributes:
        parts: one or more of `PARTS`.
        how: `MEAN`, or one of `COMBINED`.
    """

    parts: tuple[str, ...]
    how: str = MEAN

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise InvalidArgumentError(f"no detector {'+'.join(unknown)!r}; there are {', '.join(PARTS)}")
        if len(set(self.parts)) < len(self.parts):
            raise InvalidArgumentError(f"detector {str(self)!r} names a part twice: once is enough")
        if self.how not in (MEAN, *COMBINED):
            raise InvalidArgumentError(
                f"no detector {str(self)!r}: before the colon is one of {', '.join(COMBINED)}"
            )

    @classmethod
    def parse(cls, name: str) -> Recipe:
        """Read a name; parts are put into the order of `PARTS`, so that a detector has one name.

        Raises:
            InvalidArgumentError: it is none; says what is wrong.
        """
        how, colon, listed = name.rpartition(":")
        found = cls(tuple(listed.split("+")), how if colon else MEAN)
        return cls(tuple(sorted(found.parts, key=PARTS.index)), found.how)

    def __str__(self) -> str:
        parts = "+".join(self.parts)
        return parts if self.how == MEAN else f"{self.how}:{parts}"

    @property
    def by_surprisal(self) -> bool:
        """Whether scores are combined by how surprising each is."""
        return self.how != MEAN

    @property
    def ranks(self) -> bool:
        """Whether it wants honest inputs that the network has not learned from, to see how unsure it is of those."""
        return self.by_surprisal or DOUBT in self.parts

    def ranking(self, count: int) -> npt.NDArray[np.bool_]:
        """Which calibration images ``[count]`` scores are ranked by; the threshold is set on the others.

        A network is surer of images that it has learned from than it will be of others, so how surprising a doubt is
        cannot be seen there. Recipes that rank nothing take none. Of an odd number the threshold gets one more: where
        a rate falls just short of a whole number of images, a threshold lets one image less pass than it might.
        """
        taken = np.zeros(count, np.bool_)
        taken[1::2] = self.ranks
        return taken


def usual_detector(layout: PathLayout) -> str:
    """The name of the detector to take for a network if nobody says which."""
    return DEFAULT if layout.rules.all() else OF_OBSERVERS
