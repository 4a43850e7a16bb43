"""Start the server, and stop it without losing a request."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import grpc

from penstock.service import health
from penstock.service.access import Access, Group
from penstock.service.control import ModelControl
from penstock.service.engine import Engine
from penstock.service.explainer import Explainer
from penstock.service.flag_metrics import FlagMetrics
from penstock.service.flags import Flags
from penstock.service.handlers import Guard
from penstock.service.health import HealthServicer
from penstock.service.listening import listen, options
from penstock.service.path_servicer import PATHS, PathServicer
from penstock.service.repository import Repository
from penstock.service.servicer import INFERENCE, InferenceServicer
from penstock.service.settings import Settings
from penstock.service.shared_memory import SharedMemory
from penstock.service.sink import Sink
from penstock.service.stores import open_store
from penstock.service.telemetry import MetricsServer, Telemetry
from penstock.service.tracing import open_tracer
from penstock.service.watchers import Watchers

log = logging.getLogger(__name__)

# After the last answer was computed, how long it may take to reach its client.
_FLUSH_SECONDS = 1.0


class Server:
    """A server and all that belongs to it; no state is shared between two of them.

    Args:
        settings: what to serve and how.

    Raises:
        PenstockError: the repository or the device cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._telemetry = Telemetry()
        self.repository = Repository(settings)
        self._tracer = open_tracer(settings.otlp_endpoint)
        self._guard = Guard(self._telemetry, Access(_token_files(settings)), self._tracer)
        self._flag_metrics = FlagMetrics(self._telemetry.registry)
        self._watchers = Watchers(settings.watch_buffer, settings.max_watchers, self._flag_metrics)
        self._explainer = Explainer(settings.model_repository)
        self._sink = _open_sink(settings, self._flag_metrics)
        self._health = HealthServicer()
        self._memory = SharedMemory(allowed=settings.system_shared_memory)
        self._control = ModelControl(self.repository, settings, self._models_changed)
        self._polling: asyncio.Task[None] | None = None
        self._grpc: grpc.aio.Server | None = None
        self._metrics: MetricsServer | None = None
        self.grpc_port = settings.grpc_port
        self.metrics_port = settings.metrics_port

    async def start(self) -> None:
        """Bind the ports, which may have been left open in the settings, and answer.

        Raises:
            ConfigurationError: a port cannot be had.
        """
        self._grpc = self._build()
        address = self._address(self._settings.grpc_port)
        self.grpc_port = listen(self._grpc, address, self._settings)
        self._metrics = MetricsServer(self._telemetry, self._settings.host, self._settings.metrics_port)
        self.metrics_port = self._metrics.port
        await self._models_changed()
        await self._grpc.start()
        if self._settings.model_control_mode == "poll":
            self._polling = asyncio.create_task(self._control.poll())

    async def stop(self) -> None:
        """Refuse new requests, finish those that run, then close; safe after a failed start."""
        if self._polling is not None:
            self._polling.cancel()
        await self._health.set_not_serving()
        await self._guard.drain(self._settings.grace_seconds)
        self._watchers.close()
        if self._grpc is not None:
            await self._grpc.stop(_FLUSH_SECONDS)
        if self._metrics is not None:
            self._metrics.close()
        self._control.close()
        self.repository.close()
        self._memory.close()
        self._explainer.close()
        await asyncio.to_thread(self._close_outlets)

    def _close_outlets(self) -> None:
        """Write and send what waits; may take a few seconds."""
        if self._sink is not None:
            self._sink.close()
        self._tracer.close()

    def summary(self) -> str:
        """One line that says what is served where; other programs read the ports from it."""
        models = sum(bool(self.repository.ready_versions(name)) for name in self.repository.names)
        return (
            f"penstock is serving {models} {'model' if models == 1 else 'models'} "
            f"at {self._address(self.grpc_port)} (metrics {self._address(self.metrics_port)})"
        )

    def _address(self, port: int) -> str:
        host = self._settings.host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # IPv6 in brackets

    def _build(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=options(self._settings))
        flags = Flags(self._flag_metrics, self._watchers, self._sink)
        engine = Engine(self.repository, self._telemetry, flags)
        inference = InferenceServicer(
            engine,
            self._guard,
            self._telemetry,
            control=self._control,
            memory=self._memory,
            name=self._settings.server_name,
        )
        paths = PathServicer(self.repository, self._watchers, self._explainer)
        server.add_generic_rpc_handlers(
            (
                self._guard.handler(INFERENCE, inference),
                self._guard.handler(PATHS, paths),
                self._guard.handler(health.SERVICE, self._health),
            )
        )
        return server

    async def _models_changed(self) -> None:
        for model in self.repository.models():
            self._telemetry.watch_queue(model.name, model.version, model.scheduler)
            if model.paths is not None:
                self._flag_metrics.show(model.name, model.version)
        if not self._guard.draining:
            await self._health.set_all(self._health_by_name())

    def _health_by_name(self) -> dict[str, bool]:
        services = dict.fromkeys(("", INFERENCE.full_name, PATHS.full_name), self.repository.ready)
        models = {name: bool(self.repository.ready_versions(name)) for name in self.repository.names}
        return models | services


def _token_files(settings: Settings) -> dict[Group, Path]:
    files = {
        Group.INFERENCE: settings.inference_tokens,
        Group.CONTROL: settings.control_tokens,
        Group.EXPLAIN: settings.explain_tokens,
    }
    return {group: file for group, file in files.items() if file is not None}


def _open_sink(settings: Settings, metrics: FlagMetrics) -> Sink | None:
    if settings.sink_folder is None:
        return None
    file_bytes, total_bytes = settings.sink_file_mib * 2**20, settings.sink_total_mib * 2**20
    store = open_store(settings.sink_format, settings.sink_folder, file_bytes, total_bytes)
    return Sink(store, settings.sink_image_share, metrics)


async def serve_until_stopped(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        settings: what to serve and how.
        announce: is called with the server's summary once it answers.

    Raises:
        PenstockError: the server cannot start.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = Server(settings)
    try:
        await server.start()
        announce(server.summary())
        await stopped.wait()
        log.info("shutting down: running requests have %g seconds", settings.grace_seconds)
    finally:
        await server.stop()
