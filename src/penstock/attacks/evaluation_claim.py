"""What makes two evaluations the same, so that a killed one goes on and no folder holds the work of two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.data import ImageSet, Splits
from penstock.errors import AlreadyExistsError
from penstock.files import sha256, work_locked, write_atomic
from penstock.nn.sub_architectures import sub_architectures_file

CLAIM = "detection-config.json"
EDITION = 6  # one more wherever a change of the code lets pieces of work come out otherwise
SHOWN = 64  # characters of a value that differs
ABSENT = "not said"


def claim(out: Path, what: dict[str, Any]) -> None:
    """Make the folder this evaluation's, by what it is of, in values that JSON knows.

    What is known later may be added by another call: what was said before stays, and must be the same.

    Raises:
        AlreadyExistsError: it is another one's; says by what first.
    """
    own: dict[str, Any] = json.loads(json.dumps({"edition": EDITION} | what))
    file = out / CLAIM
    with work_locked(file):  # or two evaluations would both find it free
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        for key in (key for key in own if key in known):
            for name, there, here in _differing(key, known[key], own[key]):
                raise AlreadyExistsError(
                    f"{out} holds another evaluation: its {name} is {_short(there)}, and is {_short(here)} here. Name "
                    "another folder, or ask for the same again"
                )
        write_atomic(file, json.dumps(known | own, indent=2, sort_keys=True) + "\n")


def _differing(name: str, there: object, here: object) -> Iterator[tuple[str, object, object]]:
    """Name of, and both values at, each place where they differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in here | there:
            yield from _differing(f"{name}.{key}", there.get(key, ABSENT), here.get(key, ABSENT))
    elif there != here:
        yield name, there, here


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def digest(*arrays: npt.NDArray[Any]) -> str:
    """Hash of what arrays hold."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def images_digests(splits: Splits, foreign: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, str]:
    """Hashes of the parts of a data set that an evaluation looks at, and of images of others, by name."""
    parts: dict[str, ImageSet] = {name: getattr(splits, name) for name in ("train", "calibration", "test")}
    own = {name: digest(part.images, part.labels) for name, part in parts.items()}
    return own | {name: digest(images) for name, images in foreign.items()}


def masks_digest(found: str) -> str:
    """Hash of the sub-architectures in a run folder or file; empty where none are named or there."""
    file = sub_architectures_file(Path(found))
    return sha256(file) if found and file.is_file() else ""
