"""Read the logs that Lightning left in a run folder.

Every training of a run has a folder of its own with ``logs/version_K/metrics.csv``. A run that was killed and went on
has several versions; where two of them know the same epoch, the later one counts, because its weights were kept.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.errors import InvalidArgumentError
from penstock.paths import Floats

ORDER = ("dense", "decouple")  # the trainings of a run; others follow by name


@dataclass(frozen=True, eq=False)
class Curves:
    """What one training logged, epoch by epoch.

    Attributes:
        training: its folder's name, ``decouple``.
        epochs: ``[E]``, counted from 1.
        values: ``[E]`` of each quantity by its name, ``val/accuracy``; NaN where an epoch lacks it.
    """

    training: str
    epochs: Floats
    values: Mapping[str, Floats]


def read_curves(run: Path) -> list[Curves]:
    """The logs of all trainings of a run, in the order in which they are run.

    Args:
        run: run folder; one without logs has no curves.

    Raises:
        InvalidArgumentError: a log is damaged; the message names the file.
    """
    found = []
    for folder in sorted(run.glob("*/logs"), key=_place):
        versions = sorted(folder.glob("version_*/metrics.csv"), key=_version)
        epochs: dict[int, dict[str, float]] = {}
        for file in versions:
            for epoch, values in _read(file).items():
                epochs[epoch] = values
        if epochs:
            found.append(_curves(folder.parent.name, epochs))
    return found


def _place(folder: Path) -> tuple[int, str]:
    name = folder.parent.name
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name


def _version(file: Path) -> int:
    number = file.parent.name.removeprefix("version_")
    return int(number) if number.isdigit() else -1


def _read(file: Path) -> dict[int, dict[str, float]]:
    """What each epoch logged; its quantities may stand in several rows."""
    epochs: dict[int, dict[str, float]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                values = epochs.setdefault(int(row["epoch"]), {})
                values |= {
                    name: float(value)
                    for name, value in row.items()
                    if value and name not in ("epoch", "step")
                }
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgumentError(
            f"{file} is not a log of Lightning ({error}): remove it to leave the curves out"
        ) from error
    return epochs


def _curves(training: str, epochs: dict[int, dict[str, float]]) -> Curves:
    order = sorted(epochs)
    names = sorted({name for values in epochs.values() for name in values})
    columns = {name: np.array([epochs[epoch].get(name, np.nan) for epoch in order]) for name in names}
    return Curves(training, np.array(order, dtype=np.float64) + 1, columns)
