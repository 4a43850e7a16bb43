"""Values as TOML gives them, to the types that dataclass fields are annotated with."""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


def convert(value: Any, kind: Any) -> Any:
    """The value in the annotated type.

    A text becomes a path, a list a tuple; a whole number is a float too, a bool is only a bool.

    Raises:
        TypeError: it does not fit; says what would.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return _first_that_fits(value, arguments, kind)
    if origin is tuple and isinstance(value, list):
        return tuple(convert(each, arguments[0]) for each in value)
    if origin is Literal and value in arguments:
        return value
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind is not Path and type(value) is kind:
        return value
    raise TypeError(f"it must be {describe(kind)}")


def choices(value: Any, kind: Any) -> list[Any]:
    """The values that are to be multiplied out, each in the annotated type.

    A list stands for several values, anything else for itself. Where the field itself holds a list, only a list of
    lists stands for several.

    Raises:
        TypeError: one of them does not fit, or there is none.
    """
    several = isinstance(value, list)
    if several and takes_list(kind):
        several = all(isinstance(each, list) for each in value)
    if not several:
        return [convert(value, kind)]
    if not value:
        raise TypeError("a list must hold at least one value")
    return [convert(each, kind) for each in value]


def takes_list(kind: Any) -> bool:
    """Whether a field of this type holds a list by itself."""
    return tuple in (get_origin(kind), *(get_origin(part) for part in get_args(kind)))


def describe(kind: Any) -> str:
    """A type in words of TOML."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return " or ".join(describe(part) for part in arguments if part is not NoneType)
    if origin is tuple:
        return f"a list, each {describe(arguments[0])}"
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    words = {str: "a text", Path: "a path", bool: "true or false", int: "a whole number", float: "a number"}
    return words.get(kind, f"of type {getattr(kind, '__name__', kind)}")


def _first_that_fits(value: Any, kinds: tuple[Any, ...], whole: Any) -> Any:
    for kind in kinds:
        try:
            return convert(value, kind)
        except TypeError:
            continue
    raise TypeError(f"it must be {describe(whole)}")
