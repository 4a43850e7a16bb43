"""Files of flagged images: JSON lines or Parquet, rotated, and never more of them than a given size.

The names sort by time. When all files together grow beyond the cap, the oldest go, whoever wrote them: a folder is for
one store. A file ends at its last whole record, also when a disk was full in between. An image that no file has room
for is left out of its record.
"""

from __future__ import annotations

import base64
import json
import math
import os
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from penstock.errors import ConfigurationError
from penstock.files import write_atomic
from penstock.service.answers import Images
from penstock.service.flag_records import FlagRecord

_PREFIX = "flags-"
_IMAGE_COLUMNS = ("image", "image_dtype", "image_shape")
_ROWS = 1000  # of one Parquet file, at most
_SECONDS = 60.0  # that a row may wait for its Parquet file, at most
_RECORD_BYTES = 2**11  # more than a record takes in a Parquet file
_FRAME_BYTES = 2**13  # more than what such a file has beside its rows


@dataclass(frozen=True, eq=False)
class Row:
    """A record, and the image ``[C, H, W]`` if it was captured."""

    record: FlagRecord
    image: Images | None = None

    def without_image(self) -> Row:
        """The record alone."""
        return replace(self, image=None)


class Store(Protocol):
    """Where rows end up; for one thread."""

    def write(self, row: Row) -> int:
        """Take a row; returns how many, this one or earlier ones, reached a file by this.

        Raises:
            OSError: it could not be written and is lost, and so are the earlier ones that waited.
        """

    def tick(self) -> int:
        """Do what is due by the clock; returns and raises as `write`."""

    def close(self) -> int:
        """Write what waits; returns and raises as `write`."""


def open_store(kind: str, folder: Path, file_bytes: int, total_bytes: int) -> Store:
    """A store of the given format.

    Raises:
        ConfigurationError: the folder cannot be made or written, or a package is missing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"sink folder {str(folder)!r} cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise ConfigurationError(f"sink folder {str(folder)!r} cannot be written by this user")
    if kind == "jsonl":
        return JsonLines(folder, file_bytes, total_bytes)
    try:
        import pyarrow.parquet  # noqa: F401  # only to learn now, not at the first flag, that it is there
    except ImportError as error:
        raise ConfigurationError(
            "the sink's format parquet needs pyarrow: pip install 'penstock[parquet]', or choose jsonl"
        ) from error
    return Parquet(folder, file_bytes, total_bytes)


class JsonLines:
    """One JSON object a line, on disk at once.

    Args:
        folder: where the files are.
        file_bytes: a file of this size is not written any further.
        total_bytes: of all files together.
    """

    def __init__(self, folder: Path, file_bytes: int, total_bytes: int) -> None:
        self._folder = folder
        self._file_bytes = file_bytes
        self._total_bytes = total_bytes
        self._file: IO[bytes] | None = None

    def write(self, row: Row) -> int:
        """Append a row."""
        line = _json_line(row)
        if len(line) > self._file_bytes:
            line = _json_line(row.without_image())
        if self._file is not None and self._file.tell() + len(line) > self._file_bytes:
            self.close()
        if self._file is None:
            _make_room(self._folder, self._total_bytes - self._file_bytes)
            self._file = _new_file(self._folder, "jsonl").open("ab", buffering=0)
        self._append(self._file, line)
        return 1

    def tick(self) -> int:
        """Nothing waits here."""
        return 0

    def close(self) -> int:
        """Close the file; the next row begins another."""
        if self._file is not None:
            self._file.close()
            self._file = None
        return 0

    def _append(self, file: IO[bytes], line: bytes) -> None:
        end = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError("the disk took only a part")
        except OSError:
            os.truncate(file.fileno(), end)  # whoever reads the file finds whole lines
            self.close()
            raise


class Parquet:
    """Rows gather in memory and become a file of their own when there are enough, or when it is time.

    A Parquet file cannot be read before it is finished, and one row a file would be a waste.

    Args:
        folder: where the files are.
        file_bytes: of a file, and so of what gathers in memory, at most.
        total_bytes: of all files together.
    """

    def __init__(self, folder: Path, file_bytes: int, total_bytes: int) -> None:
        self._folder = folder
        self._room = file_bytes - _FRAME_BYTES
        self._total_bytes = total_bytes
        self._rows: list[Row] = []
        self._bytes = 0
        self._since = time.monotonic()

    def write(self, row: Row) -> int:
        """Keep a row, and write all when it is time."""
        if _parquet_bytes(row) > self._room:
            row = row.without_image()
        written = self.close() if self._bytes + _parquet_bytes(row) > self._room else 0
        if not self._rows:
            self._since = time.monotonic()
        self._rows.append(row)
        self._bytes += _parquet_bytes(row)
        return written + (self.close() if len(self._rows) >= _ROWS else self.tick())

    def tick(self) -> int:
        """Write what has waited long enough."""
        return self.close() if time.monotonic() - self._since >= _SECONDS else 0

    def close(self) -> int:
        """Write what waits."""
        import pyarrow
        from pyarrow import parquet

        rows, self._rows, self._bytes = self._rows, [], 0
        if not rows:
            return 0
        buffer = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist([_values(row) for row in rows]), buffer)
        content = buffer.getvalue().to_pybytes()
        _make_room(self._folder, self._total_bytes - len(content))
        write_atomic(_new_file(self._folder, "parquet"), content)
        return len(rows)


def _parquet_bytes(row: Row) -> int:
    """What a row takes in a file at most."""
    return _RECORD_BYTES + (0 if row.image is None else row.image.nbytes)


def _values(row: Row) -> dict[str, object]:
    """The columns; those of the image are empty where it was not captured."""
    empty: dict[str, object] = dict.fromkeys(_IMAGE_COLUMNS)
    return asdict(row.record) | (empty if row.image is None else _image_values(row.image))


def _image_values(image: Images) -> dict[str, object]:
    values = (image.tobytes(), str(image.dtype), list(image.shape))
    return dict(zip(_IMAGE_COLUMNS, values, strict=True))


def _json_values(row: Row) -> dict[str, object]:
    """The same for JSON, which knows neither NaN nor bytes."""
    values: dict[str, object] = asdict(row.record)
    if not math.isfinite(row.record.score):
        values["score"] = None
    if row.image is not None:
        values |= _image_values(row.image)
        values["image"] = base64.b64encode(row.image.tobytes()).decode()
    return values


def _json_line(row: Row) -> bytes:
    return json.dumps(_json_values(row)).encode() + b"\n"


def _new_file(folder: Path, suffix: str) -> Path:
    """A name that nobody has taken, later in the alphabet than all before."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    return folder / f"{_PREFIX}{now}-{os.getpid()}.{suffix}"


def _make_room(folder: Path, total_bytes: int) -> None:
    """Delete the oldest files until the others fit."""
    files = sorted(folder.glob(f"{_PREFIX}*"))
    sizes = [_size(file) for file in files]
    total = sum(sizes)
    for file, size in zip(files, sizes, strict=True):
        if total <= total_bytes:
            return
        file.unlink(missing_ok=True)
        total -= size


def _size(file: Path) -> int:
    """0 for one that is gone: whoever reads the records may tidy them away."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
