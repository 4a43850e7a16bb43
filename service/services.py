"""All that a server is but for its ports: models, engine, servicers and what watches them.

`penstock.service.server` puts a gRPC server in front of it; `penstock.service.cluster` puts Ray Serve there.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from penstock.service import health, reflection
from penstock.service.access import Access, Group
from penstock.service.control import ModelControl
from penstock.service.engine import Engine
from penstock.service.explainer import Explainer
from penstock.service.flag_metrics import FlagMetrics
from penstock.service.flags import Flags
from penstock.service.handlers import Guard
from penstock.service.health import HealthServicer
from penstock.service.overload import Overload
from penstock.service.path_servicer import PATHS, PathServicer
from penstock.service.polling import Polling
from penstock.service.repository import Repository
from penstock.service.servicer import INFERENCE, InferenceServicer
from penstock.service.settings import Settings
from penstock.service.shared_memory import SharedMemory
from penstock.service.sink import Sink
from penstock.service.stores import open_store
from penstock.service.telemetry import Telemetry
from penstock.service.tracing import Tracer, open_tracer
from penstock.service.watchers import Watchers

SERVICES: tuple[ServiceDescriptor, ...] = (INFERENCE, PATHS, health.SERVICE)
"""What is always answered."""


class Services:
    """The services and all that belongs to them; no state is shared between two of these.

    Args:
        settings: what to serve and how.
        tracer: makes the spans; by default what the settings say.

    Raises:
        PenstockError: the repository or the device cannot be used.
    """

    def __init__(self, settings: Settings, tracer: Tracer | None = None) -> None:
        self._settings = settings
        self.telemetry = Telemetry()
        self.repository = Repository(settings)
        self.telemetry.watch_unreadable(lambda: self.repository.contents.unreadable)
        self._tracer = tracer or open_tracer(settings.otlp_endpoint)
        self._guard = Guard(
            self.telemetry, Access(_token_files(settings)), self._tracer, Overload.of(settings)
        )
        self._flag_metrics = FlagMetrics(self.telemetry.registry, self.telemetry.series)
        self._watchers = Watchers(settings.watch_buffer, settings.max_watchers, self._flag_metrics)
        self._explainer = Explainer(settings.model_repository)
        self._sink = _open_sink(settings, self._flag_metrics)
        self._health = HealthServicer()
        self._memory = SharedMemory(allowed=settings.system_shared_memory)
        self._control = ModelControl(self.repository, settings, self._models_changed)
        self._follower = (
            Polling(self.repository, self._control, settings.repository_poll_secs, self.telemetry.lost)
            if settings.model_control_mode == "poll"
            else None
        )
        self._polling: asyncio.Task[None] | None = None

    def calls(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """A handler for every remote call, by its full name, ``/package.Service/Method``."""
        flags = Flags(self._flag_metrics, self._watchers, self._sink)
        inference = InferenceServicer(
            Engine(self.repository, self.telemetry, flags, self._tracer),
            self._guard,
            self.telemetry,
            control=self._control,
            memory=self._memory,
            name=self._settings.server_name,
            tracer=self._tracer,
        )
        paths = PathServicer(self.repository, self._watchers, self._explainer)
        servicers: list[object] = [inference, paths, self._health]
        served = list(SERVICES)
        if self._settings.reflection:
            servicers.append(reflection.reflection_of(SERVICES))
            served.append(reflection.SERVICE)
        calls: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for service, servicer in zip(served, servicers, strict=True):
            calls |= self._guard.handlers(service, servicer)
        return calls

    async def start(self) -> None:
        """Say that the models are served, and begin to watch the folder where that is asked for."""
        await self._models_changed()
        if self._follower is not None:
            self._polling = asyncio.create_task(self._follower.run())

    async def drain(self) -> None:
        """Refuse new requests, and finish those that run."""
        if self._polling is not None:
            self._polling.cancel()
        self._guard.refuse()  # first, so that nobody who hears that nothing is served is served all the same
        await self._health.set_not_serving()
        await self._guard.drain(self._settings.grace_seconds)
        self._watchers.close()

    async def close(self) -> None:
        """Let go of everything; what still runs is ended."""
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

    async def _models_changed(self) -> None:
        self.telemetry.show(self.repository.models())
        for model in self.repository.models():
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
