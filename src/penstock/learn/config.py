"""What a training run is asked to do: frozen dataclasses, read from TOML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penstock.errors import ConfigurationError
from penstock.learn.presets import with_preset
from penstock.learn.reading import build, read_toml
from penstock.nn.gates import GateConfig

DECAYS = ("cosine", "steps")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
LARGEST_SEED = 2**32


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train with SGD and Nesterov momentum.

    Attributes:
        epochs: passes over the training images.
        learning_rate: its peak.
        batch_size: images per step, over all devices together.
        weight_decay: L2 penalty on weights, not on biases, batch norms and gates' biases.
        decay: ``cosine`` after a short warm-up, or ``steps``: a tenth from the half on, a hundredth from the third
            quarter on, as in the paper's release.
        average: decay per step of an exponential moving average of the weights, which is then what is judged and
            kept, 0.999 for instance; 0 keeps the weights themselves.
        clip: largest norm of all gradients together, to which a larger one is scaled down; 0: any. Networks without
            batch norms need one, 1.0 for instance.
    """

    epochs: int = 20
    learning_rate: float = 0.1
    batch_size: int = 128
    weight_decay: float = 1e-4
    decay: str = "cosine"
    average: float = 0.0
    clip: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("weight_decay", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.decay not in DECAYS:
            raise ConfigurationError(f"no decay {self.decay!r}; there are {', '.join(DECAYS)}")
        if not 0 <= self.average < 1:
            raise ConfigurationError(f"average is {self.average}; a decay lies from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class NormalizeConfig:
    """Constants that a network's weights were trained with: it sees ``(x - mean) / std``, x in 0..1.

    Attributes:
        mean: one per channel.
        std: one per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ConfigurationError(
                f"mean has {len(self.mean)} values and std {len(self.std)}; one per channel is needed in both"
            )
        if not all(map(math.isfinite, self.mean)):
            raise ConfigurationError(f"mean is {list(self.mean)}; finite values are needed")
        if not all(0 < value < math.inf for value in self.std):
            raise ConfigurationError(f"std is {list(self.std)}; it must be positive")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """A trained network whose softened answers the trainings follow.

    Attributes:
        backbone: its architecture, a name that `penstock.nn.backbones` knows.
        start: file with its weights, in the working folder or that of the data.
        normalize: constants that these were trained with; ``None``: the file's or the backbone's own.
    """

    backbone: str
    start: str
    normalize: NormalizeConfig | None = None


@dataclass(frozen=True, kw_only=True)
class DecoupleConfig:
    """One decoupling run.

    Attributes:
        data: data set, as `penstock.data.load` knows it.
        backbone: network, a name that `penstock.nn.backbones` knows.
        start: file with the dense network's weights, in the working folder or that of the data; ``None``: train it
            first, as ``dense`` says.
        fresh_classifier: the starting weights are for other classes: begin with a fresh last layer, and train the
            dense network first, as ``dense`` says.
        normalize: constants that these were trained with; ``None``: the file's or the backbone's own.
        dense: schedule of the dense network, if it is trained here.
        decouple: schedule of the decoupling.
        budget: share of the dense MACs that the decoupled network may use on average, gates included.
        mutual_information: lambda_m, per layer.
        alignment: lambda_k, per layer.
        budget_weight: lambda_s of the budget term; 0 leaves it out.
        sparsity: lambda_s of the paper's term, which counts filters instead of MACs; 0 leaves it out.
        density: share of open filters that the paper's term steers every layer to; 0 is a plain L1 penalty.
        ramp: share of the training over which lambda_m, lambda_k and lambda_s of the paper's term rise from 0.
        teacher: who teaches both trainings; ``None``: the dense network teaches the decoupled one.
        distillation: weight of the teacher's softened answers; 0 leaves them out.
        temperature: of the distillation.
        views: number of different augmentations of each image.
        approach: share of the training over which the budget falls from 1 to its target.
        settle: last share of the training, in which gates run without noise and always hard, as they will be used.
        gate: shape and start of the gates.
        fpr: false-positive rate that the detector is calibrated for.
        seed: of everything random.
        precision: Lightning's name, one of `PRECISIONS`.
    """

    data: str
    backbone: str
    start: str | None = None
    fresh_classifier: bool = False
    normalize: NormalizeConfig | None = None
    dense: Schedule = field(default_factory=Schedule)
    decouple: Schedule = field(default_factory=Schedule)
    budget: float = 0.5
    mutual_information: float = 0.02
    alignment: float = 3.0
    budget_weight: float = 4.0
    sparsity: float = 0.0
    density: float = 0.0
    ramp: float = 0.0
    teacher: TeacherConfig | None = None
    distillation: float = 1.0
    temperature: float = 3.0
    views: int = 16
    approach: float = 0.3
    settle: float = 0.2
    gate: GateConfig = field(default_factory=lambda: GateConfig(normalize=True))
    fpr: float = 0.05
    seed: int = 0
    precision: str = "32-true"

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_shares(self, approach=1.0, ramp=1.0, settle=0.999)
        check_weights(self, "mutual_information", "alignment", "budget_weight", "sparsity", "distillation")
        if not 0 <= self.density <= 1:
            raise ConfigurationError(f"density is {self.density}; it is a share of the filters, 0 to 1")
        if self.gate.normalize and self.decouple.batch_size < 2:
            raise ConfigurationError(
                "batch_size of decouple is 1; gates that normalize need at least 2 images"
            )
        check_run(self)
        check_rate(self.fpr)

    @property
    def trains_dense(self) -> bool:
        """Whether the dense network is trained here before it gets gates."""
        return self.start is None or self.fresh_classifier

    @property
    def promised(self) -> float | None:
        """The budget, if a term of the loss keeps to it: the paper's own term promises no share of the MACs."""
        return self.budget if self.budget_weight else None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file or a checkpoint."""
        return asdict(self)


def read_config(path: Path, changes: Sequence[str] = ()) -> DecoupleConfig:
    """Read a TOML file whose keys are the fields of `DecoupleConfig`, with tables for the nested ones.

    One more key, ``preset``, names what the others are put on top of, see `penstock.learn.presets`.

    Args:
        path: the file.
        changes: ``KEY=VALUE``, see `penstock.learn.reading.with_changes`.

    Raises:
        NotFoundError: there is no such file.
        ConfigurationError: not TOML, or a key or value that has no meaning here.
    """
    return build(DecoupleConfig, with_preset(read_toml(path, changes), path), path)


def check_budget(budget: float) -> None:
    """Refuse what is no share of the dense MACs.

    Raises:
        ConfigurationError: it is not above 0 and up to 1.
    """
    if not 0 < budget <= 1:
        raise ConfigurationError(f"budget is {budget}; it is a share of the dense MACs, above 0 and up to 1")


def check_rate(fpr: float) -> None:
    """Refuse what is no false-positive rate.

    Raises:
        ConfigurationError: it does not lie between 0 and 1.
    """
    if not 0 < fpr < 1:
        raise ConfigurationError(f"fpr is {fpr}; a false-positive rate lies between 0 and 1")


def check_shares(config: object, **most: float) -> None:
    """Refuse fields that are no shares of the training.

    Args:
        config: whose fields.
        most: their names, and the largest value of each.

    Raises:
        ConfigurationError: one is below 0 or above its largest value.
    """
    for name, highest in most.items():
        value = getattr(config, name)
        if not 0 <= value <= highest:
            raise ConfigurationError(f"{name} is {value}; it is a share of the training, 0 to {highest}")


def check_weights(config: object, *names: str) -> None:
    """Refuse fields that cannot weigh a term of a loss.

    Raises:
        ConfigurationError: one is negative or not finite.
    """
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            raise ConfigurationError(f"{name} is {value}; a weight must not be negative")


def check_run(config: Any) -> None:
    """Refuse what no run can do; looks at ``views``, ``temperature``, ``seed`` and ``precision``.

    Raises:
        ConfigurationError: one of them is out of its range.
    """
    if config.views < 1:
        raise ConfigurationError(f"views is {config.views}; at least 1 is needed")
    if not 0 < config.temperature < math.inf:
        raise ConfigurationError(f"temperature is {config.temperature}; it must be positive")
    check_seed(config.seed)
    check_precision(config.precision)


def check_seed(seed: int) -> None:
    """Refuse what no generator takes.

    Raises:
        ConfigurationError: it is negative or too large.
    """
    if not 0 <= seed < LARGEST_SEED:
        raise ConfigurationError(f"seed is {seed}; it must be from 0 to {LARGEST_SEED - 1}")


def check_precision(precision: str, known: Sequence[str] = PRECISIONS) -> None:
    """Refuse a precision that is not among those known.

    Raises:
        ConfigurationError: it is not.
    """
    if precision not in known:
        raise ConfigurationError(f"no precision {precision!r}; there are {', '.join(known)}")
