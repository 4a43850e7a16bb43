"""From the tables of a plan to the exports that they ask for.

An entry's keys are fields of `ExportOptions`. A key may list several values; the entry then stands for every
combination of one value of each key. What an entry does not say, ``[defaults]`` says, then the plan's ``repository``,
then `ExportOptions`. Nothing here knows the fields by name but ``source``, ``name`` and ``repository``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

from penstock.errors import InvalidArgumentError
from penstock.export.options import ExportOptions
from penstock.export.plans.names import fill
from penstock.export.plans.values import choices, convert

KINDS = get_type_hints(ExportOptions)
FIELDS = {item.name: KINDS[item.name] for item in fields(ExportOptions) if item.init}
DEFAULTS = {
    item.name: item.default for item in fields(ExportOptions) if item.init and item.default is not MISSING
}
NEEDED = [
    item.name
    for item in fields(ExportOptions)
    if item.init and item.default is MISSING and item.default_factory is MISSING
]
NAME = "name"
UNNAMED = (NAME, "repository")  # cannot stand in a name
HARMLESS: dict[str, Any] = {"source": "x", "repository": Path(), NAME: "x"}
REMEDIES = {
    "source": ': write source = "zoo:NAME", or a run folder or a checkpoint file',
    "repository": ': write repository = "models" at the top of the plan, or give --repository',
    NAME: ': write name = "{source}-{lowering}", for instance',
}

Several = dict[str, list[Any]]  # the values of each key that are to be multiplied out


def several(table: Mapping[str, Any], problems: list[str]) -> Several:
    """The values of a table's keys, in their types.

    Args:
        table: as TOML gives it.
        problems: told what is wrong.
    """
    found: Several = {}
    for key, value in table.items():
        if key not in FIELDS:
            problems.append(f"unknown key {key!r}; known are {', '.join(FIELDS)}")
            continue
        try:
            # One name for several models cannot be meant: a name is a template.
            found[key] = [convert(value, FIELDS[key])] if key == NAME else choices(value, FIELDS[key])
        except TypeError as error:
            problems.append(f"{key} is {value!r}: {error}")
            if key in HARMLESS:  # or it would be told again as missing
                found[key] = [HARMLESS[key]]
    return found


def expand(values: Several, problems: list[str]) -> list[ExportOptions]:
    """Every combination of one value of each key, in the order of the lists, the first key slowest.

    Args:
        values: of each key.
        problems: told what is wrong; a combination with a problem is left out.
    """
    missing = [key for key in NEEDED if key not in values]
    if missing:
        problems.extend(f"{key} is missing{REMEDIES.get(key, '')}" for key in missing)
        return []
    ordered = {key: values[key] for key in FIELDS if key in values}
    found: list[ExportOptions] = []
    for combination in product(*ordered.values()):
        wrong: list[str] = []
        options = _options(dict(zip(ordered, combination, strict=True)), wrong)
        if wrong:
            problems += wrong
        else:
            found.append(options)
    return found


def _options(chosen: dict[str, Any], wrong: list[str]) -> ExportOptions:
    """The options of one combination; without the values that are refused, so that one hides no other."""
    try:
        return ExportOptions(**chosen | {NAME: _name(chosen)})
    except InvalidArgumentError as error:
        message = str(error)
    key = _blamed(chosen, message)
    if key is None:  # values that are right by themselves and do not go together
        stated = ", ".join(f"{key} is {value!r}" for key, value in chosen.items() if key not in HARMLESS)
        wrong.append(f"{stated or f'{NAME} is {chosen[NAME]!r}'}: {message}")
        return ExportOptions(**HARMLESS)
    wrong.append(f"{key} is {chosen[key]!r}: {message}")
    others = {name: value for name, value in chosen.items() if name != key}
    return _options(others | ({key: HARMLESS[key]} if key in HARMLESS else {}), wrong)


def _name(chosen: dict[str, Any]) -> str:
    values = DEFAULTS | chosen
    return fill(chosen[NAME], {key: values[key] for key in FIELDS if key in values and key not in UNNAMED})


def _blamed(chosen: dict[str, Any], message: str) -> str | None:
    """The key whose value is refused with this message whatever the others are."""
    for key, value in chosen.items():
        try:
            ExportOptions(**HARMLESS | {key: _name(chosen) if key == NAME else value})
        except InvalidArgumentError as error:
            if str(error) == message:
                return key
    return None
