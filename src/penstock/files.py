"""Write files so that a reader, or a crash, never meets half of one.

The rule is the same everywhere: write to a temporary name in the same folder, flush it to the disk, rename it
into place, flush the folder. A rename within one file system is atomic (POSIX ``rename``).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` in one step; on any failure the old file stays as it was."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes private files; what we write is for other users to read
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises:
        FileExistsError: ``path`` is there already; a finished folder is never overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync_file(file)
        sync_folder(temporary)
        if path.exists():
            raise FileExistsError(f"{path} exists already")
        os.chmod(temporary, 0o755)
        os.rename(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # Somebody else's folder came in after the look above: the system calls that "not empty".
        if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
            raise FileExistsError(f"{path} exists already") from error
        raise
    sync_folder(path.parent)


@contextmanager
def folder_locked(path: Path) -> Iterator[None]:
    """Keep others out of a folder who lock it, too; the lock ends with the block or the process, however that ends.

    Some network shares lock no folders: there nobody is kept out.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def work_locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Yield whether the work on a file is this block's, which others who ask do not get until it or its process ends.

    The lock is a hidden file beside it, which stays. Where a network share locks no files, everybody gets the work.

    Args:
        path: the file that is to be made; need not be there.
        wait: until others are done; else they keep the work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            free = False
        except OSError:
            pass
        yield free
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Flush a folder's entries, so that a rename inside it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
