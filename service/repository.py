"""The models of a repository: found, loaded, replaced, and dropped.

A version that cannot be loaded is remembered with the reason, so that its callers hear that it is not ready
rather than that it does not exist; the other versions and models serve on. When a model is loaded again, the new
versions are made first and then take the place of the old ones in one step; if one of them fails, the old ones stay.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.bundle import versions
from penstock.errors import BundleError, ConfigurationError, NotFoundError, PenstockError, UnavailableError
from penstock.service.configuration import ModelConfig, read_config, wanted_versions
from penstock.service.contents import Contents, Found
from penstock.service.loading import Loader
from penstock.service.model import Model
from penstock.service.settings import Settings

log = logging.getLogger(__name__)

Versions = dict[int, Model | str]
"""The versions of a model: loaded, or the reason why not."""


UNLOADED = "unloaded"
"""The reason of a version that was asked to be served no more."""

# Folders of absolute paths, and how ONNX Runtime begins its messages. A path begins after a blank or a quote; the
# name of a node, such as /layer1/conv1/Conv, stands in parentheses.
_PRIVATE = re.compile(r"""(?<![^\s"':])/[^\s"']*/|\[ONNXRuntimeError\] : \d+ : \w+ : """)


@dataclass(frozen=True)
class Status:
    """A line of the repository's index; version 0 for a model of which none was loaded."""

    name: str
    version: int
    ready: bool
    reason: str


class Repository:
    """The models by name and version.

    Args:
        settings: names the folder and says how to run.

    Attributes:
        folder: where they are.
        contents: looks at it.
        first: how it was before the first model was read: what changes from then on is news.

    Raises:
        ConfigurationError: the folder is not there.
        UnavailableError: it cannot be read, or a GPU is required and cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.model_repository
        self._models: dict[str, Versions] = {}
        self._on_change: list[Callable[[], None]] = []
        if not self.folder.is_dir():
            raise ConfigurationError(f"model repository {str(self.folder)!r} is not a folder")
        self.contents = Contents(self.folder, lambda name: bool(self.ready_versions(name)))
        self.first = self.contents.look()
        found = list(self.first.models)
        self._loader = Loader(settings)
        if settings.model_control_mode == "explicit" and "*" not in settings.load_model:
            missing = set(settings.load_model) - set(found)
            if missing:
                raise ConfigurationError(f"load_model names {sorted(missing)}; the repository has {found}")
            found = sorted(settings.load_model)
        elif not found:
            log.warning("model repository %s holds no models", self.folder)
        for name in found:
            self.replace(name, self.load(self.folder / name, {}))

    @property
    def names(self) -> list[str]:
        """Every model that was loaded or tried, ready or not."""
        return list(self._models)

    @property
    def ready(self) -> bool:
        """Whether a model can answer, or none was meant to."""
        tried = [name for name, known in self._models.items() if UNLOADED not in known.values()]
        return not tried or any(self.ready_versions(name) for name in tried)

    def found(self) -> Found:
        """What the folder holds as it stands.

        Raises:
            UnavailableError: it cannot be read, such as a volume that is not mounted any more.
        """
        return self.contents.found()

    def ready_versions(self, name: str) -> list[int]:
        """Versions of a model that can answer, ascending; none for an unknown model."""
        return sorted(number for number, model in self.versions(name).items() if isinstance(model, Model))

    def versions(self, name: str) -> Versions:
        """All versions of a model; none for an unknown one."""
        return dict(self._models.get(name, {}))

    def models(self) -> Iterator[Model]:
        """Everything that can answer."""
        for known in self._models.values():
            yield from (model for model in known.values() if isinstance(model, Model))

    def get(self, name: str, version: int | None = None) -> Model:
        """A model by name and version; the latest ready version by default.

        Raises:
            NotFoundError: there is no such model or version.
            UnavailableError: it is there but not loaded.
        """
        if name not in self._models:
            raise NotFoundError(f"Request for unknown model: {name[:200]!r} is not found")
        known = self._models[name]
        if version is None:
            ready = self.ready_versions(name)
            if not ready:
                raise UnavailableError(f"Model {name!r} is not at ready state: it has no available versions")
            version = ready[-1]
        if version not in known:
            raise NotFoundError(f"Request for unknown model: {name!r} version {version} is not found")
        model = known[version]
        if not isinstance(model, Model):
            raise UnavailableError(f"Model {name!r} version {version} is not at ready state")
        return model

    async def index(self) -> list[Status]:
        """Every model, loaded or only found in the folder; what is loaded serves on without the folder."""
        lines = []
        try:
            found = (await asyncio.to_thread(self.found)).models
        except UnavailableError as error:
            log.warning("the index lists loaded models only: %s", error)
            found = []
        for name in sorted({*self._models, *found}):
            known = self._models.get(name)
            if not known:
                lines.append(Status(name, 0, False, "" if known is None else "it has no versions"))
                continue
            for number, model in sorted(known.items()):
                ready = isinstance(model, Model)
                lines.append(Status(name, number, ready, "" if isinstance(model, Model) else model))
        return lines

    def load(self, home: Path, present: Versions, config: ModelConfig | None = None) -> Versions:
        """Load a model, without serving it yet; may take long, and may run in a thread of its own.

        Args:
            home: its folder.
            present: its versions that are served; those whose files have not changed are taken over.
            config: instead of the one in the folder.

        Returns:
            The versions that the configuration asks for.

        Raises:
            OSError: its folder cannot be read.
        """
        numbers = versions(home)
        if not numbers:
            log.error("model %s is not served: it has no version folders", home.name)
        try:
            config = read_config(home) if config is None else config
        except BundleError as error:
            log.error("model %s is not served: %s", home.name, error)
            return dict.fromkeys(numbers, _public(error, home))
        return {
            number: self._load_version(home, number, config, present.get(number))
            for number in wanted_versions(config, numbers)
        }

    def replace(self, name: str, new: Versions) -> list[Model]:
        """Serve these versions of a model from now on, in one step.

        Returns:
            What is not served any more; to be closed once nobody uses it.
        """
        old = self._models.get(name, {})
        self._models[name] = new
        for changed in self._on_change:
            changed()
        kept = {id(model) for model in new.values()}
        return [model for model in old.values() if isinstance(model, Model) and id(model) not in kept]

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call this from now on whenever other versions of a model are served, in the thread that changes them."""
        self._on_change.append(changed)

    def close(self) -> None:
        """End all runs and take no more."""
        for model in self.models():
            model.close()

    def _load_version(
        self, home: Path, number: int, config: ModelConfig, present: Model | str | None
    ) -> Model | str:
        if isinstance(present, Model) and present.stamp == self._loader.stamp(home, number, config):
            return present
        try:
            model = self._loader.load(home, number, config)
        except (PenstockError, OSError) as error:
            log.error("model %s version %d is not served: %s", home.name, number, error)
            return _public(error, home)
        except Exception:  # whatever else a spoilt file may bring about, the other models serve on
            log.exception("model %s version %d is not served", home.name, number)
            return "internal error, see the server's log"
        log.info("loaded model %s version %d", home.name, number)
        return model


def _public(error: Exception, home: Path) -> str:
    """A reason that strangers may read: without the place of a model's folder, or any other, on this machine."""
    text = error.strerror or "" if isinstance(error, OSError) else str(error)
    for place in (home, home.resolve()):
        text = text.replace(str(place), home.name)
    return _PRIVATE.sub("", text)[:300]
