"""Frozen dataclasses from TOML files: keys are fields, tables are nested dataclasses, every value is checked.

Errors name file, table, key and value, and what would have been right.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from penstock.errors import ConfigurationError, InvalidArgumentError, NotFoundError

T = TypeVar("T")


def read_toml(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Plain values of a TOML file.

    Args:
        path: the file.
        changes: see `with_changes`.

    Raises:
        NotFoundError: there is no such file.
        ConfigurationError: it is not TOML.
    """
    if not path.is_file():
        raise NotFoundError(f"no configuration file {path}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    return with_changes(values, changes)


def with_changes(values: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Values of a file with some put in the place of others.

    Args:
        values: of the file.
        changes: each ``KEY=VALUE``: the key with dots into tables, the value as in TOML. A value that is no TOML is
            taken for text, so that text needs no quotes.

    Raises:
        ConfigurationError: a change has no key or no value.
    """
    for change in changes:
        key, equals, text = change.partition("=")
        if not key.strip() or not equals:
            raise ConfigurationError(f"--set {change!r} is not KEY=VALUE")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *tables, name = key.strip().split(".")
        for table in reversed(tables):
            name, value = table, {name: value}
        values = merged(values, {name: value})
    return values


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, nested tables merged as well; what ``over`` says counts."""
    both = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        both[key] = merged(base[key], value) if nested else value
    return both


def read(kind: type[T], path: Path, changes: Sequence[str] = ()) -> T:
    """A dataclass from a TOML file whose keys are its fields, with tables for the nested ones.

    Args:
        kind: the dataclass.
        path: the file.
        changes: see `with_changes`.

    Raises:
        NotFoundError: there is no such file.
        ConfigurationError: not TOML, or a key or value that has no meaning here.
    """
    return build(kind, read_toml(path, changes), path)


def build(kind: type[T], values: dict[str, Any], path: Path, table: str = "") -> T:
    """Make a dataclass of plain values.

    Args:
        kind: the dataclass.
        values: its fields, by name.
        path: file that they are from, for messages.
        table: dotted name of the table that they are from, for messages; empty for the file itself.

    Raises:
        ConfigurationError: a key is unknown or missing, or a value is of another type or out of its range.
    """
    where = f"{path} [{table}]" if table else str(path)
    hints = get_type_hints(kind)
    known = sorted(item.name for item in fields(kind))  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigurationError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    made: dict[str, Any] = {}
    for name, value in values.items():
        nested = _nested(hints[name])
        if nested is None:
            made[name] = _typed(value, hints[name], f"{where}: {name}")
            continue
        inner = f"{table}.{name}" if table else name
        if not isinstance(value, dict):
            raise ConfigurationError(f"{where}: {name} is {value!r}; it must be a table, [{inner}]")
        made[name] = build(nested, value, path, inner)
    try:
        return kind(**made)
    except (TypeError, InvalidArgumentError) as error:  # a key is missing, or a value is out of its range
        raise ConfigurationError(f"{where}: {error}") from error


def _nested(hint: Any) -> type[Any] | None:
    """The dataclass among the types that a field may have."""
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)]
    return kinds[0] if kinds else None


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value, if it is of the annotated type; a whole number is a float too, a bool is only a bool."""
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigurationError(f"{where} is {value!r}; it must be a list")
        return tuple(_typed(each, get_args(hint)[0], where) for each in value)
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ConfigurationError(f"{where} is {value!r}; it must be a table of values by name")
        return {key: _typed(each, get_args(hint)[1], f"{where}.{key}") for key, each in value.items()}
    real = float in (hint, *get_args(hint))
    fits = isinstance(value, hint) or (real and isinstance(value, int))
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise ConfigurationError(
            f"{where} is {value!r}; it must be of type {getattr(hint, '__name__', hint)}"
        )
    return float(value) if real else value
