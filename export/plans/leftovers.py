"""Sweep up what exports left behind that were killed while they wrote.

`penstock.files` writes to a hidden name first, ``.1.k3x_9a0b`` for the version folder ``1``. Killed in that moment it
leaves the hidden name there. Nobody takes one for a version, but they fill the disk.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from penstock.bundle import CONFIG_FILE, LABELS_FILE

HIDDEN = re.compile(rf"\.(\d+|{re.escape(CONFIG_FILE)}|{re.escape(LABELS_FILE)})\.[a-z0-9_]{{8}}")
AGE = (
    3600.0  # seconds without a change; another export that is still at work changes something within seconds
)


def sweep(homes: Iterable[Path], age: float = AGE) -> list[Path]:
    """Remove hidden files and folders in models' folders that nobody has written to for long.

    Args:
        homes: folders of models; those that are not there are passed over.
        age: seconds that a leftover must have been left alone for.

    Returns:
        What was removed.
    """
    removed = []
    for home in homes:
        for entry in sorted(home.iterdir()) if home.is_dir() else ():
            if HIDDEN.fullmatch(entry.name) and time.time() - _changed(entry) > age:
                _remove(entry)
                removed.append(entry)
    return removed


def _changed(path: Path) -> float:
    """When it, or anything in it, was last written to; now, if it vanishes meanwhile."""
    try:
        return max(part.stat().st_mtime for part in (path, *path.rglob("*")))
    except FileNotFoundError:
        return time.time()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
