"""What belongs to all versions of a model: ``config.pbtxt`` and ``labels.txt`` as they stand in its folder.

Exports write them with the first version. People edit them: how many instances run, how long requests wait for each
other, which outputs are shown, how classes are called. An edited file stays as it is, and further versions go by it;
one that contradicts a version's tensors would keep it from being served, so such a version is refused. A file that
nobody edited says what the versions there were asked to be, and one that was asked to be something else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penstock.bundle import versions
from penstock.errors import BundleError, InvalidArgumentError
from penstock.files import write_atomic
from penstock.manifest import MANIFEST_FILE, Manifest
from penstock.model_config import BATCHING, CONFIG_FILE, Interface, config_files, contradiction


@dataclass(frozen=True)
class Misfit:
    """A file of a model's folder with which a version cannot be added.

    Attributes:
        file: the file.
        why: what is wrong with it, as the rest of a sentence that begins with the file; says what to do.
    """

    file: Path
    why: str

    def __str__(self) -> str:
        return f"{self.file} {self.why}"


def misfit(home: Path, interface: Interface) -> Misfit | None:
    """What keeps a version from being added to a model, if anything does.

    Args:
        home: folder of the model; it need not be there.
        interface: of the version that is to be added.
    """
    standing = _interfaces(home)
    for file in _missing(home, interface, standing):
        return Misfit(
            file,
            "is not there, and the versions already there are called otherwise (other shapes, classes or batching) "
            f"than this export: choose another --name than {home.name!r}",
        )
    for file, text in _others(home, interface).items():
        if _is_of(file, home, standing):
            return Misfit(
                file,
                "does not fit this export (other shapes, classes or batching), and belongs to the versions already "
                f"there: choose another --name than {home.name!r}",
            )
        why = _contradiction(file, text, interface, standing)
        if why is not None:
            return Misfit(
                file,
                f"was edited and contradicts this export: {why}; mend it, or choose another --name than {home.name!r}",
            )
    return None


def refuse_misfit(home: Path, interface: Interface) -> None:
    """Refuse a version that cannot be called as the model's configuration says.

    Raises:
        InvalidArgumentError: says which file, what is wrong, and what to do.
    """
    found = misfit(home, interface)
    if found is not None:
        raise InvalidArgumentError(str(found))


def edited(home: Path, interface: Interface) -> list[Path]:
    """Files that say something else than an export would write; where the version fits, they stay as they are."""
    return list(_others(home, interface))


def configure(home: Path, interface: Interface) -> None:
    """Write the files that belong to all versions; where versions stand, only those that are not there.

    Raises:
        InvalidArgumentError: as `refuse_misfit`.
    """
    refuse_misfit(home, interface)
    kept = edited(home, interface)
    for file, text in config_files(home.name, interface).items():
        if home / file not in kept and not _says(home / file, text):
            write_atomic(home / file, text)


def complete(home: Path, interface: Interface) -> None:
    """Write those of the files that are not there; the others stay, whoever edited them.

    Args:
        home: folder of the model.
        interface: of one of its versions.
    """
    for name, text in config_files(home.name, interface).items():
        if not (home / name).exists():
            write_atomic(home / name, text)


def _others(home: Path, interface: Interface) -> dict[Path, str]:
    """The files that say something else, and what they say; without versions they belong to nobody."""
    if not versions(home):
        return {}
    found = {}
    for name, text in config_files(home.name, interface).items():
        file = home / name
        if file.exists() and not _says(file, text):
            found[file] = file.read_text(encoding="utf-8", errors="replace")
    return found


def _missing(home: Path, interface: Interface, standing: list[Interface]) -> list[Path]:
    """Files that are not there, and that no version there would have as this one has."""
    found = []
    for name, text in config_files(home.name, interface).items():
        known = [config_files(home.name, each)[name] for each in standing]
        if known and text not in known and not (home / name).exists():
            found.append(home / name)
    return found


def _interfaces(home: Path) -> list[Interface]:
    """Those of the versions that are there; of what others put there nothing is known."""
    found = []
    for number in versions(home):
        try:
            text = (home / str(number) / MANIFEST_FILE).read_text(encoding="utf-8")
            found.append(Interface.of(Manifest.from_json(text)))
        except (OSError, UnicodeDecodeError, BundleError):
            continue
    return found


def _is_of(file: Path, home: Path, standing: list[Interface]) -> bool:
    """Whether it is as an export wrote it that made one of the versions."""
    return any(_says(file, config_files(home.name, each)[file.name]) for each in standing)


def _contradiction(file: Path, text: str, interface: Interface, standing: list[Interface]) -> str | None:
    if file.name == CONFIG_FILE:
        return contradiction(text, file.parent.name, interface)
    count, classes = len(text.splitlines()), len(interface.class_names)
    if count != classes:
        return f"it has {count} lines, and there are {classes} classes"
    if standing and interface.class_names not in [each.class_names for each in standing]:
        return "its names are of other classes"
    return None


def _says(path: Path, text: str) -> bool:
    """Whether a file says this, or did before exports shared runs."""
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace") in (
        text,
        text.removesuffix(BATCHING),
    )
