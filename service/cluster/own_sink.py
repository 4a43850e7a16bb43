"""A folder of its own for each replica's records of flagged images.

A store deletes the oldest files of its folder, and must not delete another's. The folders are numbered rather than
named after their replicas, so that a replica takes the folder of one that is gone, and the disk holds no more than what
all replicas of one time may keep.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from penstock.errors import ConfigurationError
from penstock.files import work_locked
from penstock.service.settings import Settings


def with_own_sink(settings: Settings, held: ExitStack) -> Settings:
    """The settings with a folder below the sink's that no other replica of this machine has.

    Args:
        settings: of all replicas.
        held: keeps the folder until it is closed or the process ends.

    Raises:
        ConfigurationError: the sink's folder cannot be made or written.
    """
    if settings.sink_folder is None:
        return settings
    number = 0
    while True:
        number += 1
        folder = settings.sink_folder / f"replica-{number}"
        with ExitStack() as asked:
            try:
                free = asked.enter_context(work_locked(folder, wait=False))
            except OSError as error:
                raise ConfigurationError(
                    f"sink folder {str(settings.sink_folder)!r} cannot be written ({error.strerror}); "
                    "name another with sink_folder"
                ) from error
            if free:
                held.enter_context(asked.pop_all())
                return replace(settings, sink_folder=folder)
