"""Load one version of a model: a Penstock bundle with all its checks, or a plain ONNX model."""

from __future__ import annotations

import logging
from pathlib import Path

from penstock.bundle import CONFIG_FILE, LOGITS, MANIFEST_FILE, read_bundle
from penstock.errors import BundleError, UnavailableError
from penstock.service import contract
from penstock.service.configuration import ModelConfig, completed, model_file, read_labels, specs
from penstock.service.devices import Device, find_device
from penstock.service.model import Model, Paths
from penstock.service.profile import ProfileWindow
from penstock.service.scheduler import Scheduler
from penstock.service.session import Session
from penstock.service.settings import Settings

log = logging.getLogger(__name__)


class Loader:
    """Makes models of version folders.

    Args:
        settings: say where and how to run.

    Raises:
        UnavailableError: a GPU is required and cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._device = _choose_device(settings)

    def load(self, home: Path, version: int, config: ModelConfig) -> Model:
        """Load a version; takes as long as ONNX Runtime needs for the graph.

        Args:
            home: the model's folder.
            version: its folder therein.
            config: the model's configuration as written.

        Raises:
            PenstockError: it cannot be served; the message, which names files, says why.
        """
        if (home / str(version) / MANIFEST_FILE).exists():
            return self._load_bundle(home, version, config)
        return self._load_plain(home, version, config)

    def _load_bundle(self, home: Path, version: int, config: ModelConfig) -> Model:
        source = read_bundle(home / str(version))
        manifest = source.manifest
        if not (home / CONFIG_FILE).exists():
            raise BundleError(f"{home / CONFIG_FILE} cannot be read (it is not there): export again")
        full = contract.honoured_config(config, manifest, home.name, home / CONFIG_FILE)
        cores = self._settings.parallelism
        # A batched graph spreads over the cores inside one run; a graph for single images, over several runs.
        slots, threads = (cores, 1) if manifest.single else (1, cores)
        session = self._session(source.model_file, threads)
        contract.check_graph(session, manifest, source.model_file)
        return Model(
            name=home.name,
            version=version,
            config=full,
            inputs=specs(full.input),
            outputs=specs(full.output),
            max_batch=full.max_batch_size,
            single=manifest.single,
            labels={LOGITS: manifest.class_names},
            session=session,
            scheduler=Scheduler(home.name, slots, self._settings.max_queue),
            paths=Paths(manifest=manifest, profile=ProfileWindow(manifest, self._settings.profile_window)),
        )

    def _load_plain(self, home: Path, version: int, config: ModelConfig) -> Model:
        file = model_file(config, home / str(version))
        session = self._session(file, self._settings.parallelism)
        if contract.is_contract(
            session
        ):  # without its manifest, nobody knows whether its flags mean anything
            raise BundleError(f"{file.parent} has no {MANIFEST_FILE}: the bundle is incomplete, export again")
        full = completed(config, home.name, session.inputs, session.outputs)
        return Model(
            name=home.name,
            version=version,
            config=full,
            inputs=specs(full.input),
            outputs=specs(full.output),
            max_batch=full.max_batch_size,
            labels=read_labels(full, home),
            session=session,
            scheduler=Scheduler(home.name, 1, self._settings.max_queue),
        )

    def _session(self, file: Path, threads: int) -> Session:
        session = Session(file, self._device, threads)
        if self._settings.require_gpu and not session.on_cuda:
            raise UnavailableError("a GPU is required, but ONNX Runtime put the graph on the CPU")
        return session


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
