"""Load one version of a model: a Penstock bundle with all its checks, or a plain ONNX model."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from penstock.bundle import CONFIG_FILE, LOGITS, MANIFEST_FILE, read_bundle
from penstock.errors import BundleError, UnavailableError
from penstock.service import contract
from penstock.service.configuration import (
    ModelConfig,
    completed,
    instances,
    limit_batch,
    model_file,
    on_cpu,
    read_labels,
    specs,
    threads,
)
from penstock.service.devices import CPU, Device, find_device
from penstock.service.model import Model, Paths
from penstock.service.policy import policy_of, warning_of
from penstock.service.profile import ProfileWindow
from penstock.service.queueing import waiting_of
from penstock.service.runs import Runner
from penstock.service.scheduler import Scheduler
from penstock.service.session import Session
from penstock.service.settings import Settings
from penstock.service.statistics import Statistics
from penstock.service.warmup import warm_up

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
        self._cores = settings.parallelism
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
        stamp = self.stamp(home, version, config)  # before the files are read, lest a change be missed
        if (home / str(version) / MANIFEST_FILE).exists():
            return self._load_bundle(home, version, config, stamp)
        return self._load_plain(home, version, config, stamp)

    def stamp(self, home: Path, version: int, config: ModelConfig) -> str:
        """Says whether a version would load as it did before: its files and its configuration."""
        return f"{folder_stamp(home / str(version))} {_files(home)} {config}"

    def _load_bundle(self, home: Path, version: int, config: ModelConfig, stamp: str) -> Model:
        source = read_bundle(home / str(version))
        manifest = source.manifest
        if not (home / CONFIG_FILE).exists():
            raise BundleError(f"{home / CONFIG_FILE} cannot be read (it is not there): export again")
        full = contract.honoured_config(config, manifest, home.name, home / CONFIG_FILE)
        limit_batch(full, self._settings.max_batch)
        policy = policy_of(full, self._settings.flag_policy)
        contract.hide_outputs(full, policy.hidden_outputs, home / CONFIG_FILE)
        session = self._session(source.model_file, full, 1 if manifest.single else self._cores)
        contract.check_graph(session, manifest, source.model_file)
        if warning := warning_of(policy, manifest, full.max_batch_size):
            log.warning("model %s version %d %s", home.name, version, warning)
        profile = ProfileWindow(manifest, self._settings.profile_window)
        return self._model(
            home,
            version,
            full,
            stamp=stamp,
            session=session,
            labels={LOGITS: manifest.class_names},
            paths=Paths(manifest=manifest, profile=profile, policy=policy),
        )

    def _load_plain(self, home: Path, version: int, config: ModelConfig, stamp: str) -> Model:
        file = model_file(config, home / str(version))
        session = self._session(file, config, self._cores)
        if contract.is_contract(
            session
        ):  # without its manifest, nobody knows whether its flags mean anything
            raise BundleError(f"{file.parent} has no {MANIFEST_FILE}: the bundle is incomplete, export again")
        full = completed(config, home.name, session.inputs, session.outputs)
        limit_batch(full, self._settings.max_batch)
        return self._model(
            home, version, full, stamp=stamp, session=session, labels=read_labels(full, home), paths=None
        )

    def _model(
        self,
        home: Path,
        version: int,
        config: ModelConfig,
        *,
        stamp: str,
        session: Session,
        labels: dict[str, tuple[str, ...]],
        paths: Paths | None,
    ) -> Model:
        single = paths is not None and paths.manifest.single
        inputs = specs(config.input)
        warm_up(session, config, inputs, home, single=single)
        # A batched graph spreads over the cores inside one run; a graph for single images, over several runs.
        slots = instances(config, self._cores if single else 1)
        waiting = waiting_of(config, self._settings.max_queue)
        if single:  # its graph takes no two rows
            waiting = replace(waiting, batching=None)
        runner = Runner(session, batched=config.max_batch_size > 0)
        statistics = Statistics()
        return Model(
            name=home.name,
            version=version,
            config=config,
            inputs=inputs,
            outputs=specs(config.output),
            max_batch=config.max_batch_size,
            single=single,
            labels=labels,
            stamp=stamp,
            session=session,
            scheduler=Scheduler(home.name, slots, runner, waiting, statistics.ran, runner.brief),
            statistics=statistics,
            paths=paths,
        )

    def _session(self, file: Path, config: ModelConfig, cores: int) -> Session:
        device = Device(CPU) if on_cpu(config) else self._device
        session = Session(file, device, threads(config, cores), shrinks=self._settings.shrink_arenas)
        if self._settings.require_gpu and device.provider != CPU and not session.on_cuda:
            raise UnavailableError("a GPU is required, but ONNX Runtime put the graph on the CPU")
        return session


def folder_stamp(folder: Path) -> str:
    """Changes when a file of a folder, or of a folder therein, is written, added or removed."""
    inner = [entry for entry in _entries(folder) if entry.is_dir()]
    return " ".join(_files(place) for place in (folder, *inner))


def _files(folder: Path) -> str:
    marks = []
    for entry in _entries(folder):
        try:
            state = entry.stat()
        except OSError:  # gone meanwhile; the next look will tell
            continue
        if entry.is_file():
            marks.append(f"{entry.name}:{state.st_mtime_ns}:{state.st_size}:{state.st_ino}")
    return ",".join(marks)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


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
    return replace(device, memory_mib=settings.gpu_memory_mib)
