"""A detector's tables as the content of one file, an ``.npz`` that numpy alone can read."""

from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np

from penstock.detect.family_score import FamilyScore
from penstock.errors import InvalidArgumentError


def tables_to_bytes(score: FamilyScore) -> bytes:
    """Write everything that a score needs; the same tables give the same bytes."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **score.arrays())
    return file.getvalue()


def tables_from_bytes(name: str, content: bytes) -> FamilyScore:
    """Read what `tables_to_bytes` wrote.

    Args:
        name: of the detector, as the bundle's calibration has it.
        content: of the file.

    Raises:
        InvalidArgumentError: the content is no such file, or its tables do not fit together.
    """
    try:
        file = np.load(io.BytesIO(content), allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidArgumentError(f"not a file of a detector's tables: {error}") from error
    return FamilyScore.from_arrays(name, arrays)
