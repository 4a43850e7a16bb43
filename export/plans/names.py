"""Names of models from templates such as ``{source}-{lowering}``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from penstock.errors import InvalidArgumentError

RUN_FILE = "checkpoint.safetensors"  # as `penstock.nn.checkpoint` has it, which would load PyTorch
REFUSED = re.compile(r"[^A-Za-z0-9_.-]+")  # what `penstock.bundle.check_name` does not let into a name


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A template with its fields filled in.

    Args:
        template: text with fields in braces.
        values: of the fields, by name.

    Raises:
        InvalidArgumentError: the braces make no sense, or a field has no value.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InvalidArgumentError(f"{error}: a field is written {{source}}") from error
    name = ""
    for literal, field, layout, conversion in parts:
        name += literal
        if field is None:
            continue
        if field not in values or layout or conversion:
            known = ", ".join(f"{{{key}}}" for key in values)
            raise InvalidArgumentError(f"no field {{{field}}}; there are {known}")
        name += in_name(field, values[field])
    return name


def in_name(field: str, value: Any) -> str:
    """How the value of a field reads in a name."""
    if field == "source":
        return _cleaned(source_name(value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "-".join(in_name("", each) for each in value)
    return _cleaned(value.name if isinstance(value, Path) else str(value))


def source_name(source: str) -> str:
    """The last part of a SOURCE: the zoo's name, the run folder's, or the file's without its suffix."""
    start, colon, rest = source.partition(":")
    if colon and start.isalpha():
        return rest
    path = Path(source)
    if path.name == RUN_FILE:
        path = path.resolve().parent
    return path.name.removesuffix(".safetensors") or path.resolve().name


def _cleaned(text: str) -> str:
    return REFUSED.sub("-", text).strip("-")
