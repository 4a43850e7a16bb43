"""The part in Ray's proxies, which are the cluster's gRPC servers.

Ray asks for a function that adds services to a server and puts its own code in the place of every handler; `Front` lays
ours around that again. Requests go through as bytes. A replica that dies takes the requests with it that it was at; Ray
tells the client so with INTERNAL and with names of its insides. Here such a request is handed to another replica, for
every call may be made twice, and only after `DELAYS` the client hears UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from penstock.service.cluster.attempt import TRIES, Attempt
from penstock.service.flag_records import WATCHING
from penstock.service.handlers import Context
from penstock.service.services import SERVICES

log = logging.getLogger(__name__)

DELAYS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Seconds before each further try: a machine that went silent is noticed only after some time."""

LOST = "the replica that had the request is gone; ask again"


class Front(grpc.GenericRpcHandler):
    """Hands out Ray's handlers in ours.

    Attributes:
        _method_handlers: by full name; Ray puts its own there, under this name.
    """

    def __init__(self) -> None:
        self._method_handlers: dict[str, Any] = {}
        for service in SERVICES:
            for method in service.methods:
                handler: Any
                if method.client_streaming:
                    handler = grpc.stream_stream_rpc_method_handler(_nowhere)
                elif method.server_streaming:
                    handler = grpc.unary_stream_rpc_method_handler(_nowhere)
                else:
                    handler = grpc.unary_unary_rpc_method_handler(_nowhere)
                self._method_handlers[f"/{service.full_name}/{method.name}"] = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of one call; ``None`` for an unknown method."""
        handler = self._method_handlers.get(handler_call_details.method)
        if handler is None:
            return None
        return handler._replace(
            unary_unary=_once_more(handler.unary_unary),
            unary_stream=_streamed(handler.unary_stream),
            stream_stream=_streamed(handler.stream_stream),
        )


def add_services(_: Any, server: grpc.aio.Server) -> None:
    """Add all services to one of Ray's servers: what ``grpc_servicer_functions`` names."""
    server.add_generic_rpc_handlers((Front(),))


def _once_more(behaviour: Any) -> Any:
    async def call(request: bytes, context: Context) -> bytes:
        for tries, delay in enumerate((*DELAYS, None), 1):
            attempt = Attempt(context)
            response: bytes = await behaviour(request, attempt)
            if tries > 1:
                attempt.trailing = (*attempt.trailing, (TRIES, str(tries)))
            if not attempt.lost or delay is None:
                break
            log.warning("a replica was lost with a request; trying another in %g s", delay)
            await asyncio.sleep(delay)
        await _close(attempt, context)
        return response

    return call


def _streamed(behaviour: Any) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[bytes]:
        attempt = Attempt(context)
        async for response in behaviour(request, attempt):
            if attempt.code():  # the replica's last word, which has nothing but the status
                break
            if response:
                yield response
            else:  # no message, but the replica's word that a reader of `WatchFlags` has its buffer
                await context.send_initial_metadata(WATCHING)
        await _close(attempt, context)

    return call


async def _close(attempt: Attempt, context: Context) -> None:
    """Give the call the status of a try; returns if that is OK."""
    code, details = attempt.status
    if attempt.lost:
        code, details = grpc.StatusCode.UNAVAILABLE, LOST
    if code is grpc.StatusCode.OK:
        context.set_trailing_metadata(attempt.trailing)
    else:
        await context.abort(code, details, attempt.trailing)


def _nowhere(*_: Any) -> Any:
    """Holds a place that Ray fills."""
    raise NotImplementedError(
        "Ray Serve has not put its own handler here: this version of it is not supported"
    )
