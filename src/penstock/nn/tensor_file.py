"""Results in one safetensors file: tensors by name, and in the file's metadata, as JSON, what they belong to.

No pickle is involved, so a file from a stranger is data, not code. A tensor that is the same as another one, bit by
bit, as those of a dense network that is also the second member of a cascade, is not written twice; the others are
written in their smallest form (`penstock.nn.packing`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from penstock.errors import BundleError
from penstock.files import write_atomic
from penstock.nn.packing import WORTH, pack, unpack

T = TypeVar("T")
KEY = "penstock"  # of the metadata
SAME = "same"  # in it: which tensor stands for which
FORMS = "forms"  # in it: how tensors are packed


def write_tensors(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the file in one step; ``about`` has a key ``schema``."""
    content = {name: value.detach().contiguous() for name, value in tensors.items()}
    same = _repeated(content)
    packed = {name: pack(value) for name, value in content.items() if name not in same}
    forms = {name: form for name, (_, form) in packed.items() if form}
    # One key: safetensors writes several in any order, and equal results are to be equal files.
    written = json.dumps({**about, SAME: same, FORMS: forms})
    write_atomic(path, save({name: value for name, (value, _) in packed.items()}, metadata={KEY: written}))


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
        about, tensors = read_content(path)
        if about["schema"] != schema:
            raise BundleError(f"{path} has schema {about['schema']}; this version reads {schema}: {remedy}")
        return restore(about, tensors)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{path} is not {what}: {error}") from error


def read_content(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is said in a safetensors file, and all of its tensors, whole; of a file of others nothing is said.

    Raises:
        SafetensorError: it is none.
        LookupError, TypeError, ValueError, RuntimeError: what is said does not fit the tensors.
    """
    with safe_open(path, framework="pt") as file:
        about: dict[str, Any] = json.loads((file.metadata() or {}).get(KEY, "{}"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    for name, form in about.pop(FORMS, {}).items():
        tensors[name] = unpack(tensors[name], form)
    for name, source in about.pop(SAME, {}).items():
        tensors[name] = tensors[source].clone()
    return about, tensors


def _repeated(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Of tensors that are the same as an earlier one, the name of that one."""
    seen: dict[tuple[Any, ...], str] = {}
    same: dict[str, str] = {}
    for name, value in tensors.items():
        if value.nbytes >= WORTH:
            content = hashlib.sha256(value.cpu().view(torch.uint8).numpy().tobytes()).digest()
            first = seen.setdefault((value.dtype, value.shape, content), name)
            if first != name:
                same[name] = first
    return same


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix.``, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under ``prefix.``: the inverse of `with_prefix`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
