"""Calls whose message never arrives: larger than the limit, badly compressed, or given up on the way.

gRPC ends such calls by itself, and no code of ours runs for them. But it asks for a handler before it reads the
message, and gets one that notices if it is thrown away unused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CountingService(grpc.GenericRpcHandler):
    """Hands out handlers, and reports the calls whose message was never parsed.

    Args:
        handlers: by full method name, ``/package.Service/Method``.
        missed: is told the full name of the method, from whatever thread.
    """

    def __init__(self, handlers: Mapping[str, Handler], missed: Callable[[str], None]) -> None:
        self._handlers = handlers
        self._missed = missed

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of one call; ``None`` for an unknown method."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None or handler.request_streaming:  # an empty stream is no missing message
            return handler
        parser = _Parser(handler.request_deserializer, lambda: self._missed(method))
        return cast(Handler, handler._replace(request_deserializer=parser))  # type: ignore[attr-defined]  # a tuple


class _Parser:
    """Parses one message, or reports that there was none."""

    def __init__(self, parse: Any, missed: Callable[[], None]) -> None:
        self._parse = parse
        self._missed: Callable[[], None] | None = missed

    def __call__(self, data: bytes) -> Any:
        self._missed = None
        return self._parse(data)

    def __del__(self) -> None:
        if self._missed is not None:
            self._missed()
