"""What an observation is asked to do: a frozen dataclass, read from TOML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penstock.errors import ConfigurationError
from penstock.learn.config import check_rate
from penstock.learn.reading import build, read_toml, with_changes
from penstock.nn.observers import ObserverConfig


@dataclass(frozen=True, kw_only=True)
class ObserveConfig:
    """Observers for a finished network.

    Attributes:
        observers: their number and shape.
        images: training images to learn from, at most.
        steps: of the optimizer.
        learning_rate: its peak.
        batch_size: images per step.
        weight_decay: of AdamW.
        fpr: false-positive rate that the detector is calibrated for.
        seed: of everything random.
    """

    observers: ObserverConfig = field(default_factory=ObserverConfig)
    images: int = 20_000
    steps: int = 1000
    learning_rate: float = 3e-3
    batch_size: int = 256
    weight_decay: float = 1e-2
    fpr: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("images", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ConfigurationError(
                f"learning_rate is {self.learning_rate} and weight_decay {self.weight_decay}; the one is above 0, "
                "the other at least 0"
            )
        check_rate(self.fpr)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file or a checkpoint."""
        return asdict(self)


def read_observe_config(path: Path | None, changes: Sequence[str] = ()) -> ObserveConfig:
    """Read a TOML file whose keys are the fields of `ObserveConfig`.

    Args:
        path: the file; ``None`` for the defaults.
        changes: ``KEY=VALUE``, see `penstock.learn.reading.with_changes`.

    Raises:
        NotFoundError: there is no such file.
        ConfigurationError: not TOML, or a key or value that has no meaning here.
    """
    values = with_changes({}, changes) if path is None else read_toml(path, changes)
    return build(ObserveConfig, values, path or Path("observe"))
