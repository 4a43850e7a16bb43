"""Start the server, and stop it without losing a request."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import grpc

from penstock.service.arrivals import CountingService
from penstock.service.listening import listen, options
from penstock.service.loops import loop_factory
from penstock.service.services import Services
from penstock.service.settings import Settings
from penstock.service.telemetry import MetricsServer
from penstock.service.tracing import Tracer

log = logging.getLogger(__name__)

# After the last answer was computed, how long it may take to reach its client.
_FLUSH_SECONDS = 1.0


class Server:
    """A server and all that belongs to it; no state is shared between two of them.

    Args:
        settings: what to serve and how.
        tracer: for programs with OpenTelemetry of their own; by default what the settings say.

    Raises:
        PenstockError: the repository or the device cannot be used.
    """

    def __init__(self, settings: Settings, tracer: Tracer | None = None) -> None:
        self._settings = settings
        self._services = Services(settings, tracer)
        self.repository = self._services.repository
        self._grpc: grpc.aio.Server | None = None
        self._metrics: MetricsServer | None = None
        self.grpc_port = settings.grpc_port
        self.metrics_port = settings.metrics_port

    async def start(self) -> None:
        """Bind the ports, which may have been left open in the settings, and answer.

        Raises:
            ConfigurationError: a port cannot be had.
        """
        telemetry = self._services.telemetry
        self._grpc = grpc.aio.server(options=options(self._settings))
        self._grpc.add_generic_rpc_handlers((CountingService(self._services.calls(), telemetry.missed),))
        address = self._address(self._settings.grpc_port)
        self.grpc_port = listen(self._grpc, address, self._settings, telemetry.handshake)
        self._metrics = MetricsServer(telemetry, self._settings.host, self._settings.metrics_port)
        self.metrics_port = self._metrics.port
        await self._services.start()
        await self._grpc.start()

    async def stop(self) -> None:
        """Refuse new requests, finish those that run, then close; safe after a failed start."""
        await self._services.drain()
        if self._grpc is not None:
            await self._grpc.stop(_FLUSH_SECONDS)
        if self._metrics is not None:
            self._metrics.close()
        await self._services.close()

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


def serve_until_stopped(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    While models are loaded nobody is served whom that would hurt: a signal ends the process as soon as ONNX Runtime
    is done with the graph that it is at.

    Args:
        settings: what to serve and how.
        announce: is called with the server's summary once it answers.

    Raises:
        PenstockError: the server cannot start.
    """
    # The first process of a container has no default for SIGTERM, and one in the background may ignore SIGINT.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Outside of the loop, which would hear of no signal before all models are loaded.
    server = Server(settings)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_until_stopped(server, settings.grace_seconds, announce))


async def _until_stopped(server: Server, grace: float, announce: Callable[[str], None]) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        await server.start()
        # Modules and models are here to stay, and to look through them for garbage takes tens of milliseconds.
        gc.collect()
        gc.freeze()
        announce(server.summary())
        await stopped.wait()
        log.info("shutting down: running requests have %g seconds", grace)
    finally:
        await server.stop()


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)  # as a shell tells that a signal ended a process
