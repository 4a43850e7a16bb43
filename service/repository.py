"""The models of a repository: found, checked, loaded.

A version that cannot be loaded is remembered with the reason, so that its callers hear that it is not ready
rather than that it does not exist; the other versions and models serve on.
"""

from __future__ import annotations

import logging
from pathlib import Path

from penstock.bundle import CONFIG_FILE, versions
from penstock.errors import BundleError, ConfigurationError, NotFoundError, PenstockError, UnavailableError
from penstock.service.configuration import read_config, wanted_versions
from penstock.service.loading import Loader
from penstock.service.model import Model
from penstock.service.settings import Settings

log = logging.getLogger(__name__)


class Repository:
    """The models by name and version.

    Args:
        settings: names the folder and says how to run.

    Raises:
        ConfigurationError: the folder is not there or cannot be read.
        UnavailableError: a GPU is required and cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._models: dict[str, dict[int, Model | None]] = {}
        folder = settings.model_repository
        if not folder.is_dir():
            raise ConfigurationError(f"model repository {str(folder)!r} is not a folder")
        try:
            homes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
        except OSError as error:
            raise ConfigurationError(
                f"model repository {str(folder)!r} cannot be read ({error.strerror})"
            ) from error
        self._loader = Loader(settings)
        for home in homes:
            if not home.name.startswith("."):
                self._load_model(home)
        if not self._models:
            log.warning("model repository %s holds no models", folder)

    @property
    def names(self) -> list[str]:
        """Every model found, ready or not."""
        return list(self._models)

    @property
    def ready(self) -> bool:
        """Whether at least one of the models found can answer."""
        return not self._models or any(self.ready_versions(name) for name in self._models)

    def ready_versions(self, name: str) -> list[int]:
        """Versions of a model that can answer, ascending; none for an unknown model."""
        return sorted(number for number, model in self._models.get(name, {}).items() if model is not None)

    def get(self, name: str, version: int | None = None) -> Model:
        """A model by name and version; the latest ready version by default.

        Raises:
            NotFoundError: there is no such model or version.
            UnavailableError: it is there but could not be loaded.
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
        if model is None:
            raise UnavailableError(f"Model {name!r} version {version} is not at ready state")
        return model

    def close(self) -> None:
        """End all runs and take no more."""
        for known in self._models.values():
            for model in known.values():
                if model is not None:
                    model.close()

    def _load_model(self, home: Path) -> None:
        try:
            numbers = versions(home)
            if not numbers and not (home / CONFIG_FILE).exists():
                return  # some other folder, not a model
        except OSError as error:  # such as the lost+found of a volume, which only its owner may read
            log.warning("folder %s is passed over: it cannot be read (%s)", home, error.strerror)
            return
        self._models[home.name] = dict.fromkeys(numbers)
        if not numbers:
            log.error("model %s is not served: it has no version folders", home.name)
        try:
            config = read_config(home)
        except BundleError as error:
            log.error("model %s is not served: %s", home.name, error)
            return
        self._models[home.name] = dict.fromkeys(wanted_versions(config, numbers))
        for number in self._models[home.name]:
            try:
                self._models[home.name][number] = self._loader.load(home, number, config)
                log.info("loaded model %s version %d", home.name, number)
            except (PenstockError, OSError) as error:
                log.error("model %s version %d is not served: %s", home.name, number, error)
            except Exception:  # whatever else a spoilt file may bring about, the other models serve on
                log.exception("model %s version %d is not served", home.name, number)
