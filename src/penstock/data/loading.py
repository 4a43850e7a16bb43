"""Load a data set by name."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.data.cifar10 import load_cifar10
from penstock.data.digits import load_digits
from penstock.data.images import Splits
from penstock.errors import InvalidArgumentError

NAMES = ("digits", "cifar10")


def load(name: str, *, folder: Path | None = None, seed: int = 0) -> Splits:
    """Load a data set and split it.

    Args:
        name: ``digits`` or ``cifar10``.
        folder: where CIFAR-10's files lie; by default what the environment variable ``PENSTOCK_DATA`` says.
            The digits come with scikit-learn and need none.
        seed: of the split.

    Raises:
        InvalidArgumentError: an unknown name, or a damaged file.
        NotFoundError: the folder or a file in it is not there.
        UnsupportedError: a library that reads the data is not installed.
    """
    if name == "digits":
        return load_digits(seed)
    if name == "cifar10":
        named = os.environ.get("PENSTOCK_DATA")
        return load_cifar10(folder or (Path(named) if named else None), seed)
    raise InvalidArgumentError(f"no data set {name!r}; there are {', '.join(NAMES)}")
