"""Load a data set by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from penstock.data.caltech25 import load_caltech25
from penstock.data.cifar10 import load_cifar10
from penstock.data.digits import load_digits
from penstock.data.folders import PREFIX, load_folder
from penstock.data.images import Splits
from penstock.data.mnist import load_mnist
from penstock.errors import InvalidArgumentError

LOADERS: dict[str, Callable[[Path | None, int], Splits]] = {
    "digits": lambda _, seed: load_digits(seed),
    "mnist": load_mnist,
    "cifar10": load_cifar10,
    "caltech25": load_caltech25,
}
NAMES = tuple(LOADERS)


def load(name: str, *, folder: Path | None = None, seed: int = 0) -> Splits:
    """Load a data set and split it.

    Args:
        name: one of `NAMES`, or ``folder:PATH`` or ``folder:PATH?size=224`` for a folder of images per class, see
            `penstock.data.folders`.
        folder: where the files of ``mnist``, ``cifar10`` and ``caltech25`` lie; by default what the environment
            variable ``PENSTOCK_DATA`` says. The digits come with scikit-learn and need none.
        seed: of the split.

    Raises:
        InvalidArgumentError: an unknown name, or a damaged file.
        NotFoundError: the folder or a file in it is not there.
        UnsupportedError: a library that reads the data is not installed.
    """
    if name.startswith(PREFIX):
        return load_folder(name, seed)
    if name not in LOADERS:
        raise InvalidArgumentError(
            f"no data set {name!r}; there are {', '.join(NAMES)}, and {PREFIX}PATH for a folder of images per class"
        )
    return LOADERS[name](folder, seed)
