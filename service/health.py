"""The standard health service, ``grpc.health.v1``, per model.

Names: ``""`` for the server as a whole, each service's full name, and each model's name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from grpc_health.v1 import health_pb2

from penstock.errors import NotFoundError
from penstock.service.handlers import Context

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer:
    """Answers whether a name is served, once (`Check`) or at every change (`Watch`)."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._changed = asyncio.Condition()

    async def set_all(self, serving: dict[str, bool]) -> None:
        """Replace what is known and tell the watchers."""
        async with self._changed:
            self._serving = dict(serving)
            self._changed.notify_all()

    async def set_not_serving(self) -> None:
        """Turn every name to NOT_SERVING."""
        await self.set_all(dict.fromkeys(self._serving, False))

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status of one name; NOT_FOUND for an unknown one, as the standard asks."""
        if request.service not in self._serving:
            raise NotFoundError(f"no service or model {request.service[:200]!r} is known here")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and at every change, for ever."""
        sent = None
        while True:
            async with self._changed:
                while self._status(request.service) == sent:
                    await self._changed.wait()
                sent = self._status(request.service)
            yield health_pb2.HealthCheckResponse(status=sent)

    def _status(self, name: str) -> int:
        if name not in self._serving:
            return int(_UNKNOWN)
        return int(_SERVING if self._serving[name] else _NOT_SERVING)
