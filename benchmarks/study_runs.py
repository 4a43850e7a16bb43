"""The runs of the study: what ``study.toml`` lists, and where each of them stands in the tables."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.nn.checkpoint import CHECKPOINT_FILE
from penstock.nn.run_folders import WEIGHTS_FILE
from penstock.nn.sub_architectures import SUB_ARCHITECTURES_FILE
from penstock.records import read_record

STUDY = Path(__file__).with_name("study.toml")
ENDS = (CHECKPOINT_FILE, WEIGHTS_FILE, SUB_ARCHITECTURES_FILE)  # what a finished run has one of

# What chooses the path, in the order of the tables.
KINDS = {
    "gates": "gates",
    "k1": "K = 1, static",
    "k1-long": "K = 1, static, trained longer",
    "k1-aligned": "K = 1, static, trained longer, widths in sixteens",
    "k4": "K = 4",
    "k8": "K = 8",
    "k16": "K = 16",
    "graded4": "K = 4, graded by difficulty",
    "cascade-dense": "cascade of a static path and the dense network",
    "paper": "gates, preset `paper`",
    "gates-short": "as in all settings here",
    "gates-plain": "pooled features as they are, not normalised",
    "gates-uninformed": "without the mutual-information term",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Where a run stands in the tables.

    Attributes:
        network: its backbone.
        kind: what chooses the path, a key of `KINDS`.
        budget: column of the comparison at equal MACs; ``None`` where none was set.
        seed: of the run; runs that differ in nothing else share a line.
        best: these are the best settings known for the network.
    """

    network: str
    kind: str
    budget: float | None = None
    seed: int = 0
    best: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no kind {self.kind!r}; there are {', '.join(KINDS)}")


@dataclass(frozen=True)
class Run:
    """One run of the study.

    Attributes:
        name: of its folder.
        arguments: of ``penstock``, without ``--out``; ``{runs}`` stands for the folder of all runs.
        needs: names of the runs that it starts from.
        row: its place in the tables; ``None`` for a run that only others need.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    row: Row | None = None

    def finished(self, runs: Path) -> bool:
        """Whether its result is there."""
        return any((runs / self.name / end).is_file() for end in ENDS)


def read_study(file: Path = STUDY) -> dict[str, Run]:
    """The runs by name, in the order of the file."""
    tables = tomllib.loads(file.read_text(encoding="utf-8"))["run"]
    return {
        table["name"]: Run(
            table["name"],
            tuple(table["command"].split()),
            tuple(table.get("needs", ())),
            read_record(Row, table["row"]) if "row" in table else None,
        )
        for table in tables
    }


def matching(study: Mapping[str, Run], patterns: Iterable[str]) -> set[str]:
    """Names that fit a pattern.

    Raises:
        LookupError: a pattern that fits none.
    """
    found = set()
    for pattern in patterns:
        names = fnmatch.filter(study, pattern)
        if not names:
            raise LookupError(f"no run of the study is named {pattern}")
        found.update(names)
    return found


def lineage(study: Mapping[str, Run], names: Iterable[str]) -> list[Run]:
    """The named runs and all that they need, in the order of the study, where what a run needs stands before it."""
    wanted = set(names)
    for name in reversed(list(study)):
        if name in wanted:
            wanted.update(study[name].needs)
    return [run for run in study.values() if run.name in wanted]
