"""What stands around every remote call.

The handlers are built from the services' descriptors rather than by the generated code, for two reasons: a
request that cannot be parsed gets a clean status instead of gRPC's UNKNOWN with the parser's words, and a
method of the protocol that a servicer does not have is refused by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from penstock.errors import OverloadedError, UnavailableError, UnsupportedError
from penstock.service.access import Access
from penstock.service.logs import request_id, request_id_of
from penstock.service.overload import Overload
from penstock.service.statuses import UnparsableError, status_of
from penstock.service.telemetry import Telemetry
from penstock.service.tracing import NoTracer, Tracer

Context = grpc.aio.ServicerContext[Any, Any]

# Questions about the server's state are answered until the very end.
_ANSWERED_WHILE_DRAINING = {"ServerLive", "ServerReady", "ModelReady", "Check", "Watch"}

SHUTTING_DOWN = "the server is shutting down and has stopped accepting new requests"

_UNPARSABLE = object()


class Guard:
    """Admits calls, counts those that run, and turns errors into statuses.

    Args:
        telemetry: counts the calls by status.
        access: tells who may call what; by default everyone everything.
        tracer: makes a span of every call; by default none.
        overload: what those hear for whom there is no room; by default UNAVAILABLE.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        access: Access | None = None,
        tracer: Tracer | NoTracer | None = None,
        overload: Overload | None = None,
    ) -> None:
        self.telemetry = telemetry
        self.access = access or Access({})
        self.tracer = tracer or NoTracer()
        self.overload = overload or Overload()
        self._draining = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def draining(self) -> bool:
        """Whether new work is refused."""
        return self._draining

    def refuse(self) -> None:
        """Refuse new work from now on."""
        self._draining = True

    async def drain(self, grace: float) -> None:
        """Refuse new work, and wait up to ``grace`` seconds for what runs."""
        self.refuse()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one piece of work, around the block that does it; draining waits for it."""
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if self._running == 0:
                self._idle.set()

    def handlers(
        self, service: ServiceDescriptor, servicer: object
    ) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Handlers for all methods of a service, by full name; those that ``servicer`` lacks answer UNIMPLEMENTED."""
        return {
            f"/{service.full_name}/{method.name}": self._method_handler(method, servicer)
            for method in service.methods
        }

    def _method_handler(self, method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
        name, service = method.name, method.containing_service.full_name
        behaviour = getattr(servicer, name, None)
        call: Any
        if method.client_streaming:
            make = grpc.stream_stream_rpc_method_handler
            call = self._streaming(service, name, _parsing(behaviour))
        elif method.server_streaming:
            make, call = grpc.unary_stream_rpc_method_handler, self._streaming(service, name, behaviour)
        else:
            make, call = grpc.unary_unary_rpc_method_handler, self._unary(service, name, behaviour)
        request_class = message_factory.GetMessageClass(method.input_type)
        response_class = message_factory.GetMessageClass(method.output_type)
        return make(call, _deferred(request_class), response_class.SerializeToString)

    def _unary(self, service: str, name: str, behaviour: Any) -> Callable[[Any, Context], Any]:
        async def call(request: Any, context: Context) -> Any:
            with self.counted():
                under_way = _Call(self, service, name, context)
                with under_way:
                    under_way.admit(behaviour, request)
                    return await behaviour(request, context)
                await under_way.refuse()

        return call

    def _streaming(
        self, service: str, name: str, behaviour: Any
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            under_way = _Call(self, service, name, context)
            with under_way:
                under_way.admit(behaviour, request)
                async for response in behaviour(request, context):
                    yield response
            await under_way.refuse()

        return call


class _Call:
    """One remote call, around the block that answers it; an error ends the block, and becomes a status behind it.

    Args:
        guard: whose call it is.
        service: full name.
        method: name without the service's.
        context: gRPC's.
    """

    def __init__(self, guard: Guard, service: str, method: str, context: Context) -> None:
        self._guard, self._method, self._context = guard, method, context
        self._metadata = context.invocation_metadata() or ()
        self._span = guard.tracer.call(service, method, self._metadata)
        self._code, self._refusal = grpc.StatusCode.OK, ""
        self._trailing: tuple[tuple[str, str], ...] = ()

    def __enter__(self) -> None:
        request_id.set(request_id_of(self._metadata))  # the call's task is its own: there is nothing to reset
        self._finish = self._span.__enter__()

    def admit(self, behaviour: Any, request: Any) -> None:
        """Let the call through, or raise why not."""
        self._guard.access.check(self._method, self._metadata)
        if behaviour is None:
            raise UnsupportedError(f"{self._method} is not offered by this server")
        if self._guard.draining and self._method not in _ANSWERED_WHILE_DRAINING:
            raise UnavailableError(SHUTTING_DOWN)
        if request is _UNPARSABLE:
            raise UnparsableError("Unable to parse request")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            overload = self._guard.overload
            self._code, self._refusal = status_of(error, self._method, overload.code)
            if isinstance(error, OverloadedError):
                self._trailing = overload.trailing
        elif error is not None:  # the client gave up, or its deadline passed
            self._code = grpc.StatusCode.CANCELLED
        code = self._code.name
        self._finish(code)
        self._guard.telemetry.called(self._method, code)
        self._span.__exit__(None, None, None)  # it has the status, which says more than the error
        return isinstance(error, Exception)

    async def refuse(self) -> None:
        """Tell the client, after a block that ended with an error: whoever has heard it finds it counted."""
        if self._code is not grpc.StatusCode.OK:
            await self._context.abort(self._code, self._refusal, self._trailing)


def _parsing(behaviour: Any) -> Any:
    """The behaviour of a call with a stream of requests, whose iterator raises at one that is no message."""
    if behaviour is None:
        return None

    async def parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request is _UNPARSABLE:
                raise UnparsableError("Unable to parse request")
            yield request

    return lambda requests, context: behaviour(parsed(requests), context)


def _deferred(request_class: type[Message]) -> Callable[[bytes], Any]:
    """A parser that does not raise, so that the failure is answered by the guard rather than by gRPC."""

    def parse(data: bytes) -> Any:
        try:
            return request_class.FromString(data)
        except DecodeError:
            return _UNPARSABLE

    return parse
