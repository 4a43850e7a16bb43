"""Results in one safetensors file: tensors by name, and in the file's metadata, as JSON, what they belong to.

No pickle is involved, so a file from a stranger is data, not code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from penstock.errors import BundleError
from penstock.files import write_atomic

T = TypeVar("T")
KEY = "penstock"  # of the metadata


def write_tensors(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the file in one step; ``about`` has a key ``schema``."""
    content = {name: value.detach().contiguous() for name, value in tensors.items()}
    write_atomic(path, save(content, metadata={KEY: json.dumps(about)}))


def read_tensors(
    path: Path,
    schema: int,
    restore: Callable[[dict[str, Any], dict[str, Tensor]], T],
    *,
    what: str,
    remedy: str,
) -> T:
    """Read what `write_tensors` wrote.

    Args:
        path: a file that is there.
        schema: the one that this version reads.
        restore: makes the result of ``about`` and the tensors.
        what: the file should be, for messages.
        remedy: for a file of another schema.

    Raises:
        BundleError: damaged, something else, or of another schema.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if about["schema"] != schema:
            raise BundleError(f"{path} has schema {about['schema']}; this version reads {schema}: {remedy}")
        return restore(about, tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{path} is not {what}: {error}") from error


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix.``, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under ``prefix.``: the inverse of `with_prefix`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
