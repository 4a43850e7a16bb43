"""Change which models are served while the server runs."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2

from penstock.bundle import check_name
from penstock.errors import InvalidArgumentError, OperationError, PenstockError, UnavailableError
from penstock.service.configuration import ModelConfig, check_identity
from penstock.service.model import Model
from penstock.service.repository import UNLOADED, Repository, Versions
from penstock.service.settings import Settings

log = logging.getLogger(__name__)

_Read = Callable[[Versions], Versions]  # makes new versions of a model, given the present ones


class ModelControl:
    """Loads and unloads models, one at a time, and never lets go of one that serves for one that fails.

    A change that has begun goes on to its end, whether or not its caller waits for it.

    Args:
        repository: the models.
        settings: say who may change them.
        changed: is called after every change.
    """

    def __init__(
        self, repository: Repository, settings: Settings, changed: Callable[[], Awaitable[None]]
    ) -> None:
        self._repository = repository
        self._mode = settings.model_control_mode
        self._changed = changed
        self._lock = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._closing: dict[asyncio.Task[None], Model] = {}

    async def load(self, name: str, config: str = "", files: Mapping[str, bytes] | None = None) -> None:
        """Load a model, or load it anew.

        Args:
            name: folder in the repository.
            config: JSON of a ``ModelConfig`` that stands in for the one in the folder; empty for none.
            files: contents of a folder that stands in for the model's, by path such as ``1/model.onnx``.

        Raises:
            UnavailableError: models are not loaded on request here.
            InvalidArgumentError: the configuration or a path cannot be right.
            OperationError: it cannot be loaded; what served before serves on.
        """
        self._check_explicit()
        override = _parsed(config, name) if config else None
        if files:
            if override is None:
                raise InvalidArgumentError("files to load came without a 'config' parameter; give both")
            await self._load(name, partial(self._read_given, name, files, override))
        else:
            await asyncio.to_thread(self._check_found, name)
            await self._load(name, partial(self._read_found, name, override))

    async def unload(self, name: str) -> None:
        """Serve a model no more; requests under way finish. An unknown model is no error.

        Raises:
            UnavailableError: models are not unloaded on request here.
        """
        self._check_explicit()
        await self.drop(name)

    async def reload(self, name: str) -> None:
        """Load a model as its folder is now, whoever may ask for that.

        Raises:
            OperationError: it cannot be loaded; what served before serves on.
        """
        await self._load(name, partial(self._read_found, name, None))

    async def drop(self, name: str) -> None:
        """Serve a model no more, whoever may ask for that."""
        await self._in_turn(partial(self._unload, name))

    def close(self) -> None:
        """Wait for nobody any more; what still runs on models that are served no more is ended."""
        for change in self._changes:
            change.cancel()
        for task, model in self._closing.items():
            task.cancel()
            model.close()

    async def _load(self, name: str, read: _Read) -> None:
        await self._in_turn(partial(self._replace_with, name, read))

    async def _in_turn(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Change the models when nobody else does.

        Who gives up before its turn changes nothing. After that the change has the turn, not its caller: a thread
        that loads cannot be stopped, and another change would load beside it.
        """
        await self._lock.acquire()
        task = asyncio.create_task(change())
        self._changes.add(task)
        task.add_done_callback(self._end_turn)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_unheard)
            raise
        finally:
            del task  # or its error would hold this frame, this frame the task, and the task its error

    def _end_turn(self, change: asyncio.Task[None]) -> None:
        self._changes.discard(change)
        self._lock.release()

    def _read_found(self, name: str, config: ModelConfig | None, present: Versions) -> Versions:
        """Read a model from the repository, in a thread."""
        return self._repository.load(self._repository.folder / name, present, config)

    def _read_given(
        self, name: str, files: Mapping[str, bytes], config: ModelConfig, present: Versions
    ) -> Versions:
        """Read a model from files of a request, in the thread that writes and removes them."""
        with ExitStack() as scratch:
            try:
                home = Path(scratch.enter_context(tempfile.TemporaryDirectory())) / name
                _write(home, name, files)
            except OSError as error:  # such as a full disk, or a name that is too long
                reason = os.strerror(error.errno or 0)  # the error's own text may name folders
                raise OperationError(
                    f"failed to load {name[:200]!r}, failed to poll from model repository: "
                    f"its files cannot be written ({reason})"
                ) from None
            return self._repository.load(home, present, config)

    async def _replace_with(self, name: str, read: _Read) -> None:
        present = self._repository.versions(name)
        new = await asyncio.to_thread(read, present)
        failed = {number: reason for number, reason in new.items() if isinstance(reason, str)}
        serving: Versions = {}
        if failed or not new:
            serving = {number: model for number, model in present.items() if isinstance(model, Model)}
        new |= serving
        await self._replace(name, new)
        if failed or not (new.keys() - serving.keys()):
            reasons = "; ".join(f"version {number}: {reason}" for number, reason in failed.items())
            raise OperationError(
                f"failed to load {name!r}, {reasons or 'it has no versions to serve'}"
                + (f"; {sorted(serving)} serve on" if serving else "")
            )

    async def _unload(self, name: str) -> None:
        known = self._repository.versions(name)
        if known:
            await self._replace(name, dict.fromkeys(known, UNLOADED))
            log.info("unloaded model %s", name)

    async def _replace(self, name: str, new: Versions) -> None:
        for model in self._repository.replace(name, new):
            task = asyncio.create_task(_close_when_idle(model))
            self._closing[task] = model
            task.add_done_callback(self._closing.pop)
        await self._changed()

    def _check_found(self, name: str) -> None:
        found = self._repository.found()
        if name not in found.models:
            reason = (
                f": its folder cannot be read ({found.unreadable[name]})" if name in found.unreadable else ""
            )
            raise OperationError(
                f"failed to load {name[:200]!r}, failed to poll from model repository{reason}"
            )

    def _check_explicit(self) -> None:
        if self._mode != "explicit":
            raise UnavailableError(
                f"explicit model load / unload is not allowed: the model control mode is {self._mode!r}; "
                "start the server with --model-control-mode explicit"
            )


async def _close_when_idle(model: Model) -> None:
    await model.scheduler.idle()
    model.close()


def _log_unheard(change: asyncio.Task[None]) -> None:
    """Write down what went wrong with a change whose caller has given up."""
    error = None if change.cancelled() else change.exception()
    if isinstance(error, PenstockError):
        log.error("%s", error)
    elif error is not None:
        log.error("a change of the models failed", exc_info=error)


def _parsed(text: str, name: str) -> ModelConfig:
    config = model_config_pb2.ModelConfig()
    try:
        json_format.Parse(text, config)
        check_identity(config, name)
    except (json_format.ParseError, PenstockError) as error:
        raise InvalidArgumentError(
            f"failed to load {name[:200]!r}: parameter 'config' cannot be used ({str(error)[:300]})"
        ) from None
    return config


def _write(home: Path, name: str, files: Mapping[str, bytes]) -> None:
    check_name(name)
    for given, content in files.items():
        path = PurePosixPath(given)
        if path.is_absolute() or ".." in path.parts or "\0" in given or not 1 <= len(path.parts) <= 2:
            raise InvalidArgumentError(
                f"file {given[:100]!r} cannot be; expected a path such as '1/model.onnx'"
            )
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(content)
