"""A folder for a plan's temporary files, which a later plan clears away if this one is killed.

It lies in the system's folder for temporary files, as ``TMPDIR`` has it, and not beside the models: what is written
there only passes through, a model repository may be a slow share, and whatever plan runs next on this machine looks
here, also one for other models. Who works in a folder holds its lock, and the system takes that from a process
however it ends: a folder whose lock is free is nobody's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "penstock-plan-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Clear away what killed plans left, and yield an empty folder that vanishes with the block."""
    clear_unclaimed()
    folder, lock = _claimed()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear_unclaimed() -> list[Path]:
    """Remove the folders of plans that run no more.

    Those of other users stay, and where folders cannot be locked all do: nobody can tell there who is at work.

    Returns:
        What was removed.
    """
    removed = []
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        with suppress(OSError):
            lock = _opened(folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                removed.append(folder)
            finally:
                os.close(lock)
    return removed


def _claimed() -> tuple[Path, int]:
    """A new folder and the open descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):  # another plan cleared it away before it was claimed: take another
            lock = _opened(folder)
            with suppress(OSError):  # no locks on this file system: then nobody clears away either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _opened(folder: Path) -> int:
    # A link could lead anywhere: it is nobody's scratch.
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
