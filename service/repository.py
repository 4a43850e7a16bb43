"""The models of a repository: found, checked, loaded.

A version that cannot be loaded is remembered with the reason, so that its callers hear that it is not ready
rather than that it does not exist; the other versions and models serve on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from penstock.bundle import CONFIG_FILE, INPUT, MAX_BATCH_PARAMETER, Manifest, read_bundle, versions
from penstock.errors import BundleError, ConfigurationError, NotFoundError, PenstockError, UnavailableError
from penstock.service.devices import Device, find_device
from penstock.service.policy import FlagPolicy, policy_of, warning_of
from penstock.service.profile import ProfileWindow
from penstock.service.scheduler import Scheduler
from penstock.service.session import Session
from penstock.service.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """One version of a model, ready to answer.

    Attributes:
        name: model name.
        version: version number.
        manifest: what the bundle says of itself.
        config: ``config.pbtxt`` as it stands in the repository.
        max_batch: largest batch of one request.
        session: the graph.
        scheduler: bounds its runs.
        profile: what its recent answers looked like.
        policy: what becomes of requests with flagged images.
    """

    name: str
    version: int
    manifest: Manifest
    config: model_config_pb2.ModelConfig
    max_batch: int
    session: Session
    scheduler: Scheduler
    profile: ProfileWindow
    policy: FlagPolicy = FlagPolicy.ANNOTATE


class Repository:
    """The models by name and version.

    Args:
        settings: names the folder and says how to run.

    Raises:
        ConfigurationError: the folder is not there or cannot be read.
        UnavailableError: a GPU is required and cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
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
        self._device = _choose_device(settings)
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
                    model.scheduler.close()
                    model.session.stop()

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
            config = _read_config(home)
        except BundleError as error:
            log.error("model %s is not served: %s", home.name, error)
            return
        for number in numbers:
            try:
                self._models[home.name][number] = self._load_version(home, number, config)
                log.info("loaded model %s version %d", home.name, number)
            except (PenstockError, OSError) as error:
                log.error("model %s version %d is not served: %s", home.name, number, error)
            except Exception:  # whatever else a spoilt file may bring about, the other models serve on
                log.exception("model %s version %d is not served", home.name, number)

    def _load_version(self, home: Path, number: int, config: model_config_pb2.ModelConfig) -> Model:
        source = read_bundle(home / str(number))
        _check_tensors(config, source.manifest, home)
        max_batch = min(
            _max_batch(config, source.manifest, home), self._settings.max_batch or source.manifest.max_batch
        )
        policy = policy_of(config, self._settings.flag_policy)
        if warning := warning_of(policy, source.manifest, max_batch):
            log.warning("model %s version %d %s", home.name, number, warning)
        cores = self._settings.parallelism
        # A batched graph spreads over the cores inside one run; a graph for single images, over several runs.
        slots, threads = (cores, 1) if source.manifest.single else (1, cores)
        session = Session(source, self._device, threads)
        if self._settings.require_gpu and not session.on_cuda:
            raise UnavailableError("a GPU is required, but ONNX Runtime put the graph on the CPU")
        return Model(
            home.name,
            number,
            source.manifest,
            config,
            max_batch,
            session,
            Scheduler(home.name, slots, self._settings.max_queue),
            ProfileWindow(source.manifest, self._settings.profile_window),
            policy,
        )


def _choose_device(settings: Settings) -> Device:
    device = find_device()
    if device.why_not_cuda and settings.require_gpu:
        raise UnavailableError(
            f"a GPU is required, but {device.why_not_cuda}; start without --require-gpu for CPU"
        )
    if device.why_not_cuda:
        log.warning("running on the CPU: %s", device.why_not_cuda)
    else:
        log.info("running on CUDA")
    return device


def _read_config(home: Path) -> model_config_pb2.ModelConfig:
    file = home / CONFIG_FILE
    try:
        config = text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise BundleError(f"{file} cannot be read ({error}): export again") from error
    if config.name not in ("", home.name):
        raise BundleError(f"{file} names the model {config.name!r}; its folder is {home.name!r}")
    return config


def _check_tensors(config: model_config_pb2.ModelConfig, manifest: Manifest, home: Path) -> None:
    """Refuse a version that the model's configuration does not describe: clients believe it."""
    batch = [1] if manifest.single else []
    expected = {name: [*batch, width] for name, width in manifest.output_widths.items()}
    expected[INPUT] = [*batch, *manifest.input_shape]
    for tensor in (*config.input, *config.output):
        if list(tensor.dims) != expected.get(tensor.name):
            raise BundleError(
                f"{home / CONFIG_FILE} has dims {list(tensor.dims)} for {tensor.name!r}; "
                f"the bundle has {expected.get(tensor.name, 'no such tensor')}"
            )
    inputs = [tensor.name for tensor in config.input]
    if inputs != [INPUT]:
        raise BundleError(f"{home / CONFIG_FILE} has inputs {inputs}; expected [{INPUT!r}]")


def _max_batch(config: model_config_pb2.ModelConfig, manifest: Manifest, home: Path) -> int:
    """Largest batch of one request: the configuration may lower what the bundle allows.

    A graph for single images has no batch of its own, so a parameter tells how far to spread.
    """
    if not manifest.single:
        name, text = "max_batch_size", str(config.max_batch_size)
    elif config.max_batch_size == 0:
        name, text = MAX_BATCH_PARAMETER, str(manifest.max_batch)
        if name in config.parameters:
            text = config.parameters[name].string_value
    else:
        raise BundleError(
            f"{home / CONFIG_FILE} has max_batch_size {config.max_batch_size}; "
            "expected 0, because the graph takes single images"
        )
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= manifest.max_batch):
        raise BundleError(f"{home / CONFIG_FILE} has {name} {text!r}; expected 1 to {manifest.max_batch}")
    return int(text)
