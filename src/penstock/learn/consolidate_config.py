"""What a consolidation is asked to do: a frozen dataclass, read from TOML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penstock.errors import ConfigurationError
from penstock.learn.config import (
    Schedule,
    TeacherConfig,
    check_budget,
    check_rate,
    check_run,
    check_shares,
    check_weights,
)
from penstock.learn.reading import build, read_toml, with_changes

GROUPINGS = ("paths", "difficulty")


@dataclass(frozen=True, kw_only=True)
class ConsolidateConfig:
    """One consolidation of a decoupled network.

    Attributes:
        count: K, prototypes of each stage; 1 is static pruning.
        budget: share of the dense MACs, routers included; ``None``: that of the decoupled network.
        grouping: what prototypes are made for, one of `GROUPINGS`, see `penstock.learn.clustering`.
        spread: how far the costs of groups by difficulty lie apart, as a share of the mean.
        evenness: how equally dense prototypes make all layers, 0 to 1, see `penstock.learn.clustering`.
        align: prototypes keep a multiple of this many filters of each layer, or all, see `penstock.learn.clustering`.
        own_norms: every prototype has batch norms of its own.
        hidden: units of a router's hidden layer.
        tune: schedule of the fine-tuning.
        budget_weight: weight of the budget term; 0 leaves it out.
        guidance: weight of following the groups that clustering found; 0 leaves it out.
        fade: share of the training after which that guidance is gone; 0 is none at all.
        settle: last share of the training, in which routers choose without noise.
        teacher: who teaches; ``None``: the dense network.
        distillation: weight of the teacher's softened answers; 0 leaves them out.
        temperature: of the distillation.
        views: number of different augmentations of each image.
        fpr: false-positive rate that the detector is calibrated for.
        seed: of everything random.
        precision: Lightning's name, one of `penstock.learn.config.PRECISIONS`.
    """

    count: int
    budget: float | None = None
    grouping: str = "paths"
    spread: float = 0.5
    evenness: float = 0.0
    align: int = 1
    own_norms: bool = True
    hidden: int = 32
    tune: Schedule = field(default_factory=lambda: Schedule(epochs=10, learning_rate=0.03))
    budget_weight: float = 4.0
    guidance: float = 0.3
    fade: float = 0.6
    settle: float = 0.25
    teacher: TeacherConfig | None = None
    distillation: float = 1.0
    temperature: float = 4.0
    views: int = 16
    fpr: float = 0.05
    seed: int = 0
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("count", "hidden", "align"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        if self.budget is not None:
            check_budget(self.budget)
        if self.grouping not in GROUPINGS:
            raise ConfigurationError(f"no grouping {self.grouping!r}; there are {', '.join(GROUPINGS)}")
        if not 0 <= self.spread < 1:
            raise ConfigurationError(f"spread is {self.spread}; it is a share of the mean, 0 to below 1")
        if not 0 <= self.evenness <= 1:
            raise ConfigurationError(f"evenness is {self.evenness}; it lies from 0 to 1")
        if self.count > 1 and self.tune.batch_size < 2:
            raise ConfigurationError(
                "batch_size of tune is 1; routers normalize, they need at least 2 images"
            )
        check_shares(self, fade=1.0, settle=1.0)
        check_weights(self, "budget_weight", "guidance", "distillation")
        check_run(self)
        check_rate(self.fpr)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file or a checkpoint."""
        return asdict(self)


def read_consolidate_config(path: Path | None, changes: Sequence[str] = (), **over: Any) -> ConsolidateConfig:
    """Read a TOML file whose keys are the fields of `ConsolidateConfig`.

    Args:
        path: the file; ``None`` for the defaults.
        changes: ``KEY=VALUE``, see `penstock.learn.reading.with_changes`.
        over: values that count more than the file's; ``None`` is none.

    Raises:
        NotFoundError: there is no such file.
        ConfigurationError: not TOML, or a key or value that has no meaning here.
    """
    values = with_changes({}, changes) if path is None else read_toml(path, changes)
    values |= {name: value for name, value in over.items() if value is not None}
    return build(ConsolidateConfig, values, path or Path("consolidate"))
