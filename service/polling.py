"""Follow the folder of models: load what is new or was changed, unload what is gone.

A volume that goes away takes no model along. What it leaves is a folder that is not there or cannot be read, or an
empty one, the mount point. So nothing is unloaded by a look that finds no models where the last one found several, or
that finds none in another folder than the last one's. Models that are taken away in several looks are unloaded, the
last one too. A model whose own folder is there and cannot be read is left as it is until it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from penstock.errors import OperationError, UnavailableError
from penstock.service.control import ModelControl
from penstock.service.repository import Repository

log = logging.getLogger(__name__)


class Polling:
    """Looks at a repository again and again.

    Args:
        repository: the models, as they are served now.
        control: loads and unloads them.
        seconds: between two looks.
        lost: is called each time that the folder is lost, not for every look at what is lost.
    """

    def __init__(
        self, repository: Repository, control: ModelControl, seconds: float, lost: Callable[[], None]
    ) -> None:
        self._repository = repository
        self._control = control
        self._seconds = seconds
        self._on_lost = lost
        self._lost = False
        # Of before the models were read: what was changed while they were is not in them.
        self._place, self._seen = repository.first.place, dict(repository.first.models)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self._follow()
            except Exception:  # the next look may find it mended
                log.exception("the repository could not be polled")

    async def _follow(self) -> None:
        try:
            now = await asyncio.to_thread(self._repository.contents.look)
        except UnavailableError as error:
            self._keep(str(error))
            return
        gone = self._seen.keys() - now.models.keys() - now.unreadable
        if gone and not now.models and (len(gone) > 1 or now.place != self._place):
            self._keep("it holds no models any more")
            return
        if self._lost:
            log.info("model repository %s is there again", self._repository.folder)
        self._lost, self._place = False, now.place
        for name in sorted(gone):
            await self._control.drop(name)
            del self._seen[name]
        for name in sorted(now.models):
            if now.models[name] == self._seen.get(name):
                continue
            try:
                await self._control.reload(name)
            except OperationError as error:
                log.error("%s", error)
            except OSError as error:  # the folder vanished since the look, say
                log.error("model %s could not be loaded, which the next look tries again: %s", name, error)
                continue
            except Exception:  # whatever it is, the other models are looked after
                log.exception("model %s could not be loaded", name)
                continue
            self._seen[name] = now.models[name]

    def _keep(self, reason: str) -> None:
        if self._lost:
            return
        self._lost = True
        self._on_lost()
        log.error(
            "all models serve on as they are, for something is wrong with model repository %s: %s",
            self._repository.folder,
            reason,
        )
