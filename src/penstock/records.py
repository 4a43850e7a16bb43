"""Plain values, as JSON gives them, to frozen dataclasses: the inverse of `dataclasses.asdict`."""

from __future__ import annotations

from dataclasses import is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def read_record(kind: type[T], value: Any) -> T:
    """Make a dataclass of a dict, every value checked against the field's annotation.

    A list becomes a tuple, nested dicts become the nested dataclasses. A whole number is a float too, a bool is
    only a bool.

    Raises:
        TypeError: a key is missing or unknown, or a value is of another type; names the place.
    """
    record: T = _read(kind, value, kind.__name__)
    return record


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        # An unknown key goes through as it is: the call refuses it, as it does a missing one.
        typed = {
            key: _read(hints.get(key, type(part)), part, f"{where}.{key}") for key, part in value.items()
        }
        return kind(**typed)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) == len(value):
            return tuple(_read(one, part, where) for one, part in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: _read(arguments[1], part, f"{where}[{key!r}]") for key, part in value.items()}
    if origin is UnionType:  # ``X | None``
        return None if value is None else _read(arguments[0], value, where)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"{where} is {value!r:.80}; expected {getattr(kind, '__name__', kind)}")
    return value
