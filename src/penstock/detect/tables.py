"""A detector's tables as the content of one file, an ``.npz`` that numpy alone can read."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.detect.combined import SHAPES, CombinedScore
from penstock.errors import InvalidArgumentError


def tables_to_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Write the tables named in `penstock.detect.combined.SHAPES`; the same tables give the same bytes.

    Raises:
        InvalidArgumentError: a table is missing, or does not fit the others.
    """
    tables = CombinedScore.from_arrays(arrays).arrays()
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{name: tables[name] for name in SHAPES})
    return file.getvalue()


def tables_from_bytes(content: bytes) -> CombinedScore:
    """Read what `tables_to_bytes` wrote.

    Raises:
        InvalidArgumentError: the content is no such file, or its tables do not fit together.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidArgumentError(f"not a file of a detector's tables: {error}") from error
    return CombinedScore.from_arrays(arrays)
