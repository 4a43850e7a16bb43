"""What makes two evaluations the same, so that a killed one goes on and no folder holds the work of two."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from penstock.data import ImageSet
from penstock.errors import AlreadyExistsError
from penstock.files import write_atomic

CLAIM = "detection-config.json"
EDITION = 3  # one more wherever a change of the code lets pieces of work come out otherwise


def claim(out: Path, what: dict[str, Any]) -> None:
    """Make the folder this evaluation's, by what it is of, in values that JSON knows.

    Raises:
        AlreadyExistsError: it is another one's.
    """
    text = json.dumps({"edition": EDITION} | what, indent=2, sort_keys=True) + "\n"
    file = out / CLAIM
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise AlreadyExistsError(
            f"{out} holds an evaluation of another source, configuration or set of images, or of another edition of "
            "Penstock's attacks: name another folder"
        )
    write_atomic(file, text)


def digest(part: ImageSet) -> str:
    """Hash of images and labels."""
    return hashlib.sha256(part.images.tobytes() + part.labels.tobytes()).hexdigest()
