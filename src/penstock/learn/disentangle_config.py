"""What a disentanglement is asked to do: a frozen dataclass, read from TOML."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from penstock.errors import ConfigurationError
from penstock.learn.config import NormalizeConfig, check_precision, check_seed

FORMS = ("release", "bottleneck")
PRECISIONS = ("32-true", "bf16-mixed")  # that `penstock.learn.mask_search` runs in


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How much is measured of the sub-architectures.

    Attributes:
        validation: validation images of each class by which beta is chosen, at most.
        images: held-out images of each class that go through every class's sub-architecture, at most.
        mosaics: number of 2x2 mosaics for the path hit rate; 0 leaves it out.
        mask_rates: shares of a mosaic's pixels that count as hit.
        resamples: bootstrap resamples and permutations behind intervals.
    """

    validation: int = 50
    images: int = 200
    mosaics: int = 100
    mask_rates: tuple[float, ...] = (0.05, 0.1)
    resamples: int = 2000

    def __post_init__(self) -> None:
        for name, least in (("validation", 1), ("images", 1), ("mosaics", 0), ("resamples", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        wrong = [rate for rate in self.mask_rates if not 0 < rate < 1]
        if wrong or not self.mask_rates:
            raise ConfigurationError(f"mask_rates are {self.mask_rates}; shares between 0 and 1 are needed")


@dataclass(frozen=True, kw_only=True)
class DisentangleConfig:
    """One disentanglement of a frozen network.

    Attributes:
        data: data set, by name.
        backbone: network, a name that `penstock.nn.backbones` knows.
        start: file with the network's weights, in the working folder or that of the data.
        normalize: constants that the weights were trained with, where they are not the backbone's own.
        form: ``release`` or ``bottleneck``, see `penstock.nn.mask_losses`.
        beta: weights of compression to try. With more than one, each is searched for and the one is kept that
            validation images speak for, see `penstock.learn.beta`.
        keep: share of the whole network's balanced accuracy above chance that sub-architectures are to keep.
        noise: tau of the bottleneck form.
        steps: updates of each class's masks. Classes are of different sizes, so there are no common epochs.
        step_size: length of each update of one class's scores in one layer; 0.1 in the release.
        batch_size: images of each class per step, 16 in the release; the bottleneck form sees as many of others.
        initial: mean of the scores at the start, which are normal with deviation 1; 0 in the release.
        images: training images of each class, at most; ``None``: all.
        classes_at_once: classes whose images run together; changes memory and time, not the result.
        measure: how much is measured.
        seed: of everything random.
        precision: Lightning's name, one of `PRECISIONS`.
    """

    data: str
    backbone: str
    start: str
    normalize: NormalizeConfig | None = None
    form: str = "release"
    beta: tuple[float, ...] = (0.02,)
    keep: float = 0.9
    noise: float = 1.0
    steps: int = 600
    step_size: float = 0.1
    batch_size: int = 16
    initial: float = 0.0
    images: int | None = None
    classes_at_once: int = 10
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    seed: int = 0
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigurationError(f"no form {self.form!r}; there are {', '.join(FORMS)}")
        if not self.beta or not all(0 <= beta < math.inf for beta in self.beta):
            raise ConfigurationError(f"beta is {list(self.beta)}; a list of weights, 0 or more, is needed")
        if len(set(self.beta)) < len(self.beta):
            raise ConfigurationError(f"beta is {list(self.beta)}; every weight once is enough")
        if not 0 < self.keep <= 1:
            raise ConfigurationError(f"keep is {self.keep}; it is a share, above 0 and up to 1")
        for name in ("noise", "step_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("steps", "batch_size", "classes_at_once"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.images is not None and self.images < 1:
            raise ConfigurationError(f"images is {self.images}; at least 1 of each class is needed")
        if not math.isfinite(self.initial):
            raise ConfigurationError(f"initial is {self.initial}; a finite score is needed")
        check_seed(self.seed)
        check_precision(self.precision, PRECISIONS)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)
