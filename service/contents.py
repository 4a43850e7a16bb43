"""What a repository's folder holds, as it stands: its models, and what cannot be read of it.

What cannot be read is told when it is first seen, when the reason is another, and when it can be read again: not at
every look.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from penstock.bundle import CONFIG_FILE, versions
from penstock.errors import UnavailableError
from penstock.service.loading import folder_stamp

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """Names of folders, sorted.

    Attributes:
        models: those of models.
        unreadable: with the reason, those of which nobody knows what they hold.
    """

    models: list[str]
    unreadable: dict[str, str]


@dataclass(frozen=True)
class Look:
    """What was found, and marks by which a change of it is seen.

    Attributes:
        place: device and number of the folder, which are others where a volume is mounted or not.
        models: a stamp for each, which changes with its files.
        unreadable: folders of which nobody knows what they hold.
    """

    place: tuple[int, int]
    models: dict[str, str]
    unreadable: frozenset[str]


class Contents:
    """The folder of a repository; for several threads.

    Args:
        folder: may go and come back.
        serves: whether a model of this name answers.
    """

    def __init__(self, folder: Path, serves: Callable[[str], bool]) -> None:
        self._folder = folder
        self._serves = serves
        self._told: dict[str, str] = {}
        self._lock = Lock()

    @property
    def unreadable(self) -> int:
        """How many folders could not be read when it was last looked."""
        return len(self._told)

    def found(self) -> Found:
        """What is there now.

        Raises:
            UnavailableError: the folder cannot be read, such as a volume that is not mounted any more.
        """
        try:
            homes = sorted(entry for entry in self._folder.iterdir() if not entry.name.startswith("."))
        except OSError as error:
            raise _unreadable(error) from error
        models, unreadable = [], {}
        for home in homes:
            try:
                if _is_model(home):
                    models.append(home.name)
            except OSError as error:
                unreadable[home.name] = error.strerror or str(error)
        self._tell(unreadable, {home.name for home in homes})
        return Found(models, unreadable)

    def look(self) -> Look:
        """What is there now, to be compared with another look.

        Raises:
            UnavailableError: the folder cannot be read, or changed into another while it was.
        """
        place = self._place()
        found = self.found()
        models = {name: folder_stamp(self._folder / name) for name in found.models}
        if self._place() != place:  # half of it is of one folder and half of another
            raise UnavailableError("the model repository changed while it was read")
        return Look(place, models, frozenset(found.unreadable))

    def _place(self) -> tuple[int, int]:
        try:
            state = self._folder.stat()
        except OSError as error:
            raise _unreadable(error) from error
        return state.st_dev, state.st_ino

    def _tell(self, unreadable: dict[str, str], there: set[str]) -> None:
        with self._lock:
            before, self._told = self._told, unreadable
        for name, reason in unreadable.items():
            if before.get(name) == reason:
                continue
            serves = self._serves(name)
            log.log(
                logging.ERROR if serves else logging.WARNING,
                "%s cannot be read (%s): %s; mend its rights or its link, or take it out of the repository",
                self._folder / name,
                reason,
                "the model serves on as it is" if serves else "it is passed over",
            )
        for name in (before.keys() - unreadable.keys()) & there:
            log.info("%s can be read again", self._folder / name)


def _is_model(home: Path) -> bool:
    """Whether an entry of the repository is a model's folder.

    A link that leads nowhere is not the same as no folder: what it led to may be on a volume that is away.

    Raises:
        OSError: nobody can tell.
    """
    try:
        state = home.stat()
    except FileNotFoundError:
        if home.is_symlink():
            raise
        return False  # gone since the folder was listed
    return stat.S_ISDIR(state.st_mode) and (bool(versions(home)) or (home / CONFIG_FILE).exists())


def _unreadable(error: OSError) -> UnavailableError:
    """Strangers may read this: no word of where the folder is."""
    return UnavailableError(f"the model repository cannot be read ({error.strerror})")
