"""What belongs to all versions of a model: ``config.pbtxt`` and ``labels.txt`` as they stand in its folder."""

from __future__ import annotations

from pathlib import Path

from penstock.bundle import versions
from penstock.errors import InvalidArgumentError
from penstock.files import write_atomic
from penstock.model_config import BATCHING, Interface, config_files


def misfit(home: Path, interface: Interface) -> Path | None:
    """The file of a model's folder that belongs to its versions and says something else, if there is one.

    Args:
        home: folder of the model; it need not be there.
        interface: of the version that is to be added.
    """
    if not versions(home):
        return None
    texts = {home / file: text for file, text in config_files(home.name, interface).items()}
    return next((file for file, text in texts.items() if file.exists() and not _says(file, text)), None)


def refuse_misfit(home: Path, interface: Interface) -> None:
    """Refuse a version that is called in another way than those already there.

    Raises:
        InvalidArgumentError: the model's ``config.pbtxt`` or ``labels.txt`` says something else.
    """
    file = misfit(home, interface)
    if file is not None:
        raise InvalidArgumentError(
            f"{file} does not fit this export (other shapes, classes or batching), and belongs to the "
            f"versions already there: choose another --name than {home.name!r}"
        )


def configure(home: Path, interface: Interface) -> None:
    """Write the files that belong to all versions, where they do not say the same already."""
    refuse_misfit(home, interface)
    for file, text in config_files(home.name, interface).items():
        if not _says(home / file, text):
            write_atomic(home / file, text)


def _says(path: Path, text: str) -> bool:
    """Whether a file says this, or did before exports shared runs."""
    return path.is_file() and path.read_text(encoding="utf-8") in (text, text.removesuffix(BATCHING))
