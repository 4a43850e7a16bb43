"""One method per remote call: convert, ask the engine, convert back.

The methods' names and messages are those of the protocol. Errors are raised as they are; the guard around
every call gives them their status.
"""

from __future__ import annotations

from tritonclient.grpc import service_pb2

from penstock.service import converters
from penstock.service.engine import Engine
from penstock.service.handlers import Context, Guard
from penstock.service.requests import read_request, version_number
from penstock.service.responses import infer_response
from penstock.service.telemetry import Telemetry
from penstock.service.v1 import paths_pb2

INFERENCE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
PATHS = paths_pb2.DESCRIPTOR.services_by_name["PathService"]


class InferenceServicer:
    """The Open Inference Protocol, ``inference.GRPCInferenceService``."""

    def __init__(self, engine: Engine, guard: Guard, telemetry: Telemetry) -> None:
        self._engine = engine
        self._guard = guard
        self._telemetry = telemetry

    async def ServerLive(
        self, request: service_pb2.ServerLiveRequest, context: Context
    ) -> service_pb2.ServerLiveResponse:
        """Whether the process answers at all."""
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: service_pb2.ServerReadyRequest, context: Context
    ) -> service_pb2.ServerReadyResponse:
        """Whether requests are welcome."""
        ready = self._engine.repository.ready and not self._guard.draining
        return service_pb2.ServerReadyResponse(ready=ready)

    async def ModelReady(
        self, request: service_pb2.ModelReadyRequest, context: Context
    ) -> service_pb2.ModelReadyResponse:
        """Whether a model can answer; ``false`` for one that does not exist."""
        version = version_number(request.version)
        ready = self._engine.repository.ready_versions(request.name)
        return service_pb2.ModelReadyResponse(ready=bool(ready) if version is None else version in ready)

    async def ServerMetadata(
        self, request: service_pb2.ServerMetadataRequest, context: Context
    ) -> service_pb2.ServerMetadataResponse:
        """Who answers."""
        return converters.server_metadata()

    async def ModelMetadata(
        self, request: service_pb2.ModelMetadataRequest, context: Context
    ) -> service_pb2.ModelMetadataResponse:
        """The tensors of a model."""
        model = self._engine.repository.get(request.name, version_number(request.version))
        return converters.model_metadata(model, self._engine.repository.ready_versions(request.name))

    async def ModelConfig(
        self, request: service_pb2.ModelConfigRequest, context: Context
    ) -> service_pb2.ModelConfigResponse:
        """The configuration of a model as this server honours it."""
        model = self._engine.repository.get(request.name, version_number(request.version))
        return converters.model_config(model)

    async def ModelInfer(
        self, request: service_pb2.ModelInferRequest, context: Context
    ) -> service_pb2.ModelInferResponse:
        """Answer a batch."""
        version = version_number(request.model_version)
        model = self._engine.repository.get(request.model_name, version)
        with self._telemetry.request(model.name, model.version):
            work = read_request(request, model)
            tensors = await self._engine.infer(model, work)
            return infer_response(request, model, work, tensors)


class PathServicer:
    """What no standard protocol has, ``penstock.service.v1.PathService``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def GetPathProfile(
        self, request: paths_pb2.GetPathProfileRequest, context: Context
    ) -> paths_pb2.PathProfile:
        """What the recent inputs of a model looked like."""
        version = version_number(request.model_version)
        model = self._engine.repository.get(request.model_name, version)
        return converters.path_profile(model, model.profile.summary())
