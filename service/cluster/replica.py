"""The part in Ray's replicas: all services, without ports.

Ray wants a class with a method for every remote call. Each gives the bytes to the handler that a server of ours would
have, and gives back bytes: errors, tokens, statistics and spans are the same code as there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import grpc
from ray import serve

from penstock.service import logs
from penstock.service.cluster.attempt import REPLICA
from penstock.service.cluster.own_sink import with_own_sink
from penstock.service.services import SERVICES, Services
from penstock.service.settings import Settings
from penstock.service.telemetry import MetricsServer

log = logging.getLogger(__name__)


class Replica:
    """One of the copies that answer.

    Args:
        settings: what to serve and how.
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        logs.set_up(settings.log_level, settings.log_format)
        self._name = serve.get_replica_context().replica_id.unique_id
        self._held = ExitStack()
        self._services = Services(with_own_sink(settings, self._held))
        self._calls = self._services.calls()
        self._metrics = MetricsServer(self._services.telemetry, settings.host, settings.metrics_port)
        await self._services.start()
        self._open = True
        log.info("replica %s: metrics at %s:%d", self._name, settings.host, self._metrics.port)

    def __del__(self) -> Any:
        """Ray calls this when it ends a replica, and awaits what it gives; Python, later, finds nothing to do."""
        if getattr(self, "_open", False):
            self._open = False
            return self._stop()
        return None

    async def _stop(self) -> None:
        """Finish what runs, then close."""
        await self._services.drain()
        self._metrics.close()
        await self._services.close()
        self._held.close()

    async def unary(self, method: str, request: bytes, context: Any) -> Encoded:
        """Answer a call of one message; with a status other than OK the bytes mean nothing."""
        handler: Any = self._calls[method]
        call = _Call(context, self._name)
        try:
            answer = await handler.unary_unary(handler.request_deserializer(request), call)
        except _RefusedError:
            return Encoded(b"")
        return Encoded(handler.response_serializer(answer))

    async def stream(self, method: str, request: Any, context: Any) -> AsyncIterator[Encoded]:
        """Answer a call whose answer is a stream.

        Empty bytes are no message: with a status other than OK they are the last that comes, and without they say that
        the initial metadata are to be sent, which only the proxy can.
        """
        handler: Any = self._calls[method]
        handed: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def hand(data: bytes) -> None:
            """Goes on when Ray has taken them: the context travels along and must not change until then."""
            handed.put_nowait(data)
            await handed.join()

        async def answer() -> None:
            try:
                async for each in answers:
                    await hand(handler.response_serializer(each))
            except _RefusedError:
                await hand(b"")
            finally:
                handed.put_nowait(None)

        call = _Call(context, self._name, hand)
        parse = handler.request_deserializer
        if handler.request_streaming:
            answers = handler.stream_stream((parse(each) async for each in request), call)
        else:
            answers = handler.unary_stream(parse(request), call)
        # A task, because the handler sends its initial metadata before it waits for its first message.
        answering = asyncio.create_task(answer())
        try:
            while (data := await handed.get()) is not None:
                yield Encoded(data)
                handed.task_done()
            await answering
        finally:
            answering.cancel()


class Encoded:
    """A message in bytes, for Ray, which serialises what it is given."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:
        """The bytes."""
        return self._data


class _RefusedError(Exception):
    """The call has its status."""


class _Call:
    """What the handlers need of gRPC's context, on top of Ray's, which travels back with the answer."""

    def __init__(
        self, context: Any, replica: str, hand: Callable[[bytes], Awaitable[None]] | None = None
    ) -> None:
        self._context = context
        self._hand = hand
        self._trailing = ((REPLICA, replica),)
        context.set_trailing_metadata([*self._trailing])

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return tuple(self._context.invocation_metadata())

    async def send_initial_metadata(self, _: Any) -> None:
        """Tell the proxy to, which knows them: only `WatchFlags` has any."""
        if self._hand is not None:
            await self._hand(b"")

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, str]] = ()
    ) -> NoReturn:
        self._context.set_trailing_metadata([*self._trailing, *trailing])
        self._context.set_code(code)
        self._context.set_details(details)
        raise _RefusedError


def _add_methods() -> None:
    """Give the class a method for every remote call, of the name and the kind that Ray looks for."""

    def unary(method: str) -> Any:
        async def call(self: Replica, request: bytes, grpc_context: Any) -> Encoded:
            return await self.unary(method, request, grpc_context)

        return call

    def stream(method: str) -> Any:
        async def call(self: Replica, request: Any, grpc_context: Any) -> AsyncIterator[Encoded]:
            async for answer in self.stream(method, request, grpc_context):
                yield answer

        return call

    for service in SERVICES:
        for method in service.methods:
            make = stream if method.server_streaming else unary
            setattr(Replica, method.name, make(f"/{service.full_name}/{method.name}"))


_add_methods()
