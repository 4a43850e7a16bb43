"""Find the files of data sets that are not part of Penstock."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from penstock.errors import NotFoundError

VARIABLE = "PENSTOCK_DATA"


def locate(name: str, files: Sequence[str], folder: Path | None) -> list[Path]:
    """Where the files of a data set lie.

    Args:
        name: of the data set, for the message.
        files: their paths inside the folder.
        folder: where to look; by default what the environment variable ``PENSTOCK_DATA`` says.

    Raises:
        NotFoundError: no folder is named, or it or a file in it is not there.
    """
    expected = f"set {VARIABLE} to a folder with {', '.join(files)}"
    named = os.environ.get(VARIABLE)
    folder = folder or (Path(named) if named else None)
    if folder is None:
        raise NotFoundError(f"{name} is not part of Penstock: {expected}")
    for file in files:
        if not (folder / file).is_file():
            raise NotFoundError(f"no {file} in {folder}: {expected}")
    return [folder / file for file in files]
