"""What a training run is asked to do: frozen dataclasses, read from TOML."""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from penstock.errors import ConfigurationError, InvalidArgumentError, NotFoundError
from penstock.nn.gates import GateConfig

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
LARGEST_SEED = 2**32


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train: SGD with Nesterov momentum and one cosine decay after a short warm-up.

    Attributes:
        epochs: passes over the training images.
        learning_rate: its peak.
        batch_size: images per step.
        weight_decay: L2 penalty on weights, not on biases, batch norms and gates' biases.
    """

    epochs: int = 20
    learning_rate: float = 0.1
    batch_size: int = 128
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigurationError(f"weight_decay is {self.weight_decay}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class DecoupleConfig:
    """One decoupling run.

    Attributes:
        data: data set, ``digits`` or ``cifar10``.
        backbone: network, a key of `penstock.nn.backbones.BACKBONES`.
        start: file with the dense network's weights, in the working folder or that of the data; ``None``: train it
            first, as ``dense`` says.
        dense: schedule of the dense network, if it is trained here.
        decouple: schedule of the decoupling.
        budget: share of the dense MACs that the decoupled network may use on average, gates included.
        mutual_information: lambda_m, per layer.
        alignment: lambda_k, per layer.
        budget_weight: lambda_s of the budget term.
        sparsity: lambda_s of the paper's term, which counts filters instead of MACs; 0 leaves it out.
        density: share of open filters that the paper's term steers every layer to; 0 is a plain L1 penalty.
        distillation: weight of the dense network's softened answers; 0 leaves it out.
        temperature: of the distillation.
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
    dense: Schedule = field(default_factory=Schedule)
    decouple: Schedule = field(default_factory=Schedule)
    budget: float = 0.5
    mutual_information: float = 0.02
    alignment: float = 0.1
    budget_weight: float = 4.0
    sparsity: float = 0.0
    density: float = 0.0
    distillation: float = 1.0
    temperature: float = 3.0
    approach: float = 0.3
    settle: float = 0.2
    gate: GateConfig = field(default_factory=lambda: GateConfig(normalize=True))
    fpr: float = 0.05
    seed: int = 0
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise ConfigurationError(
                f"budget is {self.budget}; it is a share of the dense MACs, above 0 and up to 1"
            )
        if not 0 <= self.approach <= 1 or not 0 <= self.settle < 1:
            raise ConfigurationError(
                f"approach is {self.approach} and settle {self.settle}; both are shares of the training, 0 to 1"
            )
        for name in ("mutual_information", "alignment", "budget_weight", "sparsity", "distillation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; a weight must not be negative")
        if not 0 <= self.density <= 1:
            raise ConfigurationError(f"density is {self.density}; it is a share of the filters, 0 to 1")
        if not 0 < self.temperature < math.inf:
            raise ConfigurationError(f"temperature is {self.temperature}; it must be positive")
        if not 0 < self.fpr < 1:
            raise ConfigurationError(f"fpr is {self.fpr}; a false-positive rate lies between 0 and 1")
        if self.gate.normalize and self.decouple.batch_size < 2:
            raise ConfigurationError(
                "batch_size of decouple is 1; gates that normalize need at least 2 images"
            )
        if not 0 <= self.seed < LARGEST_SEED:
            raise ConfigurationError(f"seed is {self.seed}; it must be from 0 to {LARGEST_SEED - 1}")
        if self.precision not in PRECISIONS:
            raise ConfigurationError(f"no precision {self.precision!r}; there are {', '.join(PRECISIONS)}")

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file or a checkpoint."""
        return asdict(self)


def read_config(path: Path) -> DecoupleConfig:
    """Read a TOML file whose keys are the fields of `DecoupleConfig`, with tables for the nested ones.

    Raises:
        NotFoundError: there is no such file.
        ConfigurationError: not TOML, or a key or value that has no meaning here.
    """
    if not path.is_file():
        raise NotFoundError(f"no configuration file {path}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    nested: dict[str, type[Any]] = {"dense": Schedule, "decouple": Schedule, "gate": GateConfig}
    for key, kind in nested.items():
        if key in values:
            if not isinstance(values[key], dict):
                raise ConfigurationError(f"{path}: {key} is {values[key]!r}; it must be a table, [{key}]")
            values[key] = _build(kind, values[key], f"{path} [{key}]")
    config: DecoupleConfig = _build(DecoupleConfig, values, str(path))
    return config


def _build(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    known = {item.name for item in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigurationError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    hints = get_type_hints(kind)
    checked = {name: _typed(value, hints[name], f"{where}: {name}") for name, value in values.items()}
    try:
        return kind(**checked)
    except (TypeError, InvalidArgumentError) as error:  # a key is missing, or a value is out of its range
        raise ConfigurationError(f"{where}: {error}") from error


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value, if it is of the annotated type; a whole number is a float too, a bool is only a bool."""
    fits = isinstance(value, (int, float) if hint is float else hint)
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise ConfigurationError(
            f"{where} is {value!r}; it must be of type {getattr(hint, '__name__', hint)}"
        )
    return float(value) if hint is float else value
