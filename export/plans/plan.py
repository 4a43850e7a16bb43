"""Read a plan: a TOML file that names many exports.

    repository = "models"

    [defaults]                          # for all entries
    fpr = 0.05

    [[export]]
    source = ["runs/a", "runs/b"]       # lists are multiplied out
    lowering = ["masked", "gathered"]
    name = "{source}-{lowering}"

``[[score]]`` tables, which say what to score with the bundles, are `penstock.service.scoring`'s.

Paths are relative to where the command is called, as on its command line.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import ConfigurationError, NotFoundError
from penstock.export.options import ExportOptions
from penstock.export.plans.expansion import FIELDS, Several, expand, several

REPOSITORY, DEFAULTS, EXPORTS, _ = KEYS = ("repository", "defaults", "export", "score")


@dataclass(frozen=True)
class Entry:
    """One export of a plan.

    Attributes:
        number: of the ``[[export]]`` table that it is from, counted from 1.
        options: what to export, and how.
    """

    number: int
    options: ExportOptions


def read_plan(path: Path, *, repository: Path | None = None, data: Path | None = None) -> tuple[Entry, ...]:
    """The exports that a plan asks for.

    Args:
        path: TOML file.
        repository: counts instead of what the plan says.
        data: counts instead of what the plan says.

    Raises:
        NotFoundError: there is no such file.
        ConfigurationError: not TOML, or something in it cannot be right: all that is wrong, with file, entry, key,
            value and remedy.
    """
    values = _read(path)
    problems = [f"unknown key {key!r}; known are {', '.join(KEYS)}" for key in values if key not in KEYS]
    base = _base(values, problems)
    over: Several = {key: [value] for key, value in ((REPOSITORY, repository), ("data", data)) if value}
    entries: list[Entry] = []
    for number, table in enumerate(_tables(values, problems), 1):
        wrong: list[str] = []
        chosen = base | several(table, wrong) | over
        entries += [Entry(number, options) for options in expand(chosen, wrong)]
        problems += [f"entry {number}: {problem}" for problem in dict.fromkeys(wrong)]
    _refuse(path, problems or _same_names(entries))
    return tuple(entries)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"no plan {path}: name a TOML file, such as configs/plans/resnet20-cifar10.toml")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error


def _base(values: Mapping[str, Any], problems: list[str]) -> Several:
    """What holds for all entries that say nothing else."""
    top = {REPOSITORY: values[REPOSITORY]} if REPOSITORY in values else {}
    defaults = values.get(DEFAULTS, {})
    if not isinstance(defaults, dict):
        problems.append(f"{DEFAULTS} is {defaults!r}: it must be a table, [{DEFAULTS}]")
        defaults = {}
    wrong: list[str] = []
    found = several(top, problems) | several(defaults, wrong)
    problems += [f"[{DEFAULTS}]: {problem}" for problem in wrong]
    return found


def _tables(values: Mapping[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    tables = values.get(EXPORTS, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        problems.append(f"{EXPORTS} is {tables!r}: it must be tables, [[{EXPORTS}]]")
        return []
    if not tables:
        problems.append(f"there is no [[{EXPORTS}]]: add one with source and name")
    return tables


def _same_names(entries: Sequence[Entry]) -> list[str]:
    """Names that two models of one repository would have."""
    first: dict[str, Entry] = {}  # by the model's folder: other repositories may have models of the same name
    problems = []
    for entry in entries:
        options = entry.options
        other = first.setdefault(os.path.abspath(options.home), entry)
        if other is not entry:
            problems.append(
                f"entry {entry.number}: name is {options.name!r} for {_difference(options, other.options)} as for "
                f"{_difference(other.options, options)} of entry {other.number}: put what differs into the name, "
                'such as "{source}-{lowering}"'
            )
    return problems


def _difference(options: ExportOptions, other: ExportOptions) -> str:
    """What of the options the other ones do not share."""
    different = {key for key in FIELDS if getattr(options, key) != getattr(other, key)} or {"source"}
    return ", ".join(f"{key} {getattr(options, key)!r}" for key in FIELDS if key in different)


def _refuse(path: Path, problems: Sequence[str]) -> None:
    if len(problems) == 1:
        raise ConfigurationError(f"{path}: {problems[0]}")
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise ConfigurationError(f"{path}: {len(problems)} things are wrong{listed}")
