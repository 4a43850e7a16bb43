"""The zoo: checkpoints that this project trained, committed with their figures and the command that made them.

Each entry is ``checkpoints/NAME.safetensors`` with ``checkpoints/NAME.json`` beside it. The notices of the weights
that they started from stand in ``checkpoints/NOTICE``. Reading the list needs neither torch nor the weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from penstock.errors import NotFoundError


@dataclass(frozen=True)
class ZooEntry:
    """A committed checkpoint.

    Attributes:
        name: ``NETWORK-DATA``.
        file: the checkpoint.
        command: how it was made.
        origin: the weights that the training started from, with their licence.
        figures: what was measured, by name.
    """

    name: str
    file: Path
    command: str
    origin: str
    figures: dict[str, Any]


def entries() -> tuple[ZooEntry, ...]:
    """All committed checkpoints, by name."""
    folder = Path(str(resources.files("penstock.zoo.checkpoints")))
    found = []
    for description in sorted(folder.glob("*.json")):
        value = json.loads(description.read_text(encoding="utf-8"))
        file = description.with_suffix(".safetensors")
        found.append(ZooEntry(description.stem, file, value["command"], value["origin"], value["figures"]))
    return tuple(found)


def find(name: str) -> ZooEntry:
    """The entry of a name.

    Raises:
        NotFoundError: no such entry; the message lists those that there are.
    """
    for entry in entries():
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in entries()) or "none"
    raise NotFoundError(f"no zoo entry {name!r}; there are: {known}")
