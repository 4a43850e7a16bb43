"""One method per remote call: convert, ask the engine, convert back.

The methods' names and messages are those of the protocol. Errors are raised as they are; the guard around
every call gives them their status.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from tritonclient.grpc import service_pb2

from penstock.errors import InvalidArgumentError, UnavailableError, UnsupportedError
from penstock.service import converters
from penstock.service.control import ModelControl
from penstock.service.engine import Engine
from penstock.service.handlers import SHUTTING_DOWN, Context, Guard
from penstock.service.log_settings import LogSettings
from penstock.service.model import Model
from penstock.service.parameters import load_parameters, log_values
from penstock.service.requests import read_request, version_number
from penstock.service.responses import infer_response
from penstock.service.shared_memory import SharedMemory
from penstock.service.statuses import status_of
from penstock.service.streaming import in_order
from penstock.service.telemetry import Telemetry
from penstock.service.tracing import NoTracer, Tracer

INFERENCE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_STREAM_AHEAD = 64  # requests of one stream that are under way; the next is read when the first is answered

NO_CUDA_MEMORY = "CUDA shared memory is not offered by this server; send the data in the message"


class InferenceServicer:
    """The Open Inference Protocol, ``inference.GRPCInferenceService``."""

    def __init__(
        self,
        engine: Engine,
        guard: Guard,
        telemetry: Telemetry,
        *,
        control: ModelControl,
        memory: SharedMemory,
        name: str,
        tracer: Tracer | NoTracer,
    ) -> None:
        self._name = name
        self._engine = engine
        self._guard = guard
        self._telemetry = telemetry
        self._control = control
        self._memory = memory
        self._tracer = tracer
        self._log_settings = LogSettings()

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
        return converters.server_metadata(self._name, shared_memory=self._memory.allowed)

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

    async def ModelStatistics(
        self, request: service_pb2.ModelStatisticsRequest, context: Context
    ) -> service_pb2.ModelStatisticsResponse:
        """What models have done: one version, all of a model, or all."""
        return converters.statistics(self._statistics_of(request.name, version_number(request.version)))

    async def ModelInfer(
        self, request: service_pb2.ModelInferRequest, context: Context
    ) -> service_pb2.ModelInferResponse:
        """Answer a batch."""
        return await self._infer(request)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[service_pb2.ModelInferRequest], context: Context
    ) -> AsyncIterator[service_pb2.ModelStreamInferResponse]:
        """Answer each request of a stream, in order; an error belongs to its request, and the stream goes on."""
        strict = ("triton_grpc_error", "true") in (context.invocation_metadata() or ())

        async def answer(request: service_pb2.ModelInferRequest) -> service_pb2.ModelStreamInferResponse:
            try:
                with self._guard.counted(), self._tracer.phase("request"):
                    if self._guard.draining:
                        raise UnavailableError(SHUTTING_DOWN)
                    response = await self._infer(request)
            except Exception as error:
                if strict:
                    raise
                _, message = status_of(error, "ModelStreamInfer")
                failed = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
                return service_pb2.ModelStreamInferResponse(error_message=message, infer_response=failed)
            response.parameters["triton_final_response"].bool_param = True
            return service_pb2.ModelStreamInferResponse(infer_response=response)

        async for response in in_order(requests, answer, ahead=_STREAM_AHEAD):
            yield response

    async def RepositoryIndex(
        self, request: service_pb2.RepositoryIndexRequest, context: Context
    ) -> service_pb2.RepositoryIndexResponse:
        """Every model of the repository, loaded or not."""
        _only_repository(request)
        return converters.repository_index(await self._engine.repository.index(), only_ready=request.ready)

    async def RepositoryModelLoad(
        self, request: service_pb2.RepositoryModelLoadRequest, context: Context
    ) -> service_pb2.RepositoryModelLoadResponse:
        """Load a model, or load it anew."""
        _only_repository(request)
        await self._control.load(request.model_name, **load_parameters(request))
        return service_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: service_pb2.RepositoryModelUnloadRequest, context: Context
    ) -> service_pb2.RepositoryModelUnloadResponse:
        """Serve a model no more; it has no dependents, so that the parameter for them has no effect."""
        _only_repository(request)
        await self._control.unload(request.model_name)
        return service_pb2.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(
        self, request: service_pb2.SystemSharedMemoryStatusRequest, context: Context
    ) -> service_pb2.SystemSharedMemoryStatusResponse:
        """One registered region, or all."""
        return converters.shared_memory_status(self._memory.status(request.name))

    async def SystemSharedMemoryRegister(
        self, request: service_pb2.SystemSharedMemoryRegisterRequest, context: Context
    ) -> service_pb2.SystemSharedMemoryRegisterResponse:
        """Open a region that the client made."""
        self._memory.register(request.name, request.key, request.offset, request.byte_size)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: service_pb2.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> service_pb2.SystemSharedMemoryUnregisterResponse:
        """Forget one region, or all."""
        self._memory.unregister(request.name)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, request: service_pb2.CudaSharedMemoryStatusRequest, context: Context
    ) -> service_pb2.CudaSharedMemoryStatusResponse:
        """Never any region: clients ask this, or unregister all, to begin clean."""
        if request.name:
            raise UnsupportedError(NO_CUDA_MEMORY)
        return service_pb2.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(
        self, request: service_pb2.CudaSharedMemoryRegisterRequest, context: Context
    ) -> service_pb2.CudaSharedMemoryRegisterResponse:
        """Refused."""
        raise UnsupportedError(NO_CUDA_MEMORY)

    async def CudaSharedMemoryUnregister(
        self, request: service_pb2.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> service_pb2.CudaSharedMemoryUnregisterResponse:
        """No region is registered, so that none is left."""
        return service_pb2.CudaSharedMemoryUnregisterResponse()

    async def TraceSetting(
        self, request: service_pb2.TraceSettingRequest, context: Context
    ) -> service_pb2.TraceSettingResponse:
        """Refused."""
        raise UnsupportedError(
            "trace settings cannot be read or changed here: this server writes no trace files of Triton's"
        )

    async def LogSettings(
        self, request: service_pb2.LogSettingsRequest, context: Context
    ) -> service_pb2.LogSettingsResponse:
        """Read and change which log records are written."""
        self._log_settings.update(log_values(request))
        return converters.log_settings(self._log_settings.values())

    async def _infer(self, request: service_pb2.ModelInferRequest) -> service_pb2.ModelInferResponse:
        model = self._engine.repository.get(request.model_name, version_number(request.model_version))
        with self._telemetry.request(model) as count:
            with self._tracer.phase("decode"):
                work = read_request(request, model, self._memory)
            tensors, times = await self._engine.infer(model, work)
            with self._tracer.phase("encode"):
                response = infer_response(request, model, work, tensors, self._memory)
            count.answered(times)
            return response

    def _statistics_of(self, name: str, version: int | None) -> list[Model]:
        models = [
            model
            for model in self._engine.repository.models()
            if name in ("", model.name) and version in (None, model.version)
        ]
        if name and not models:  # not NOT_FOUND: Triton's one exception
            raise InvalidArgumentError(
                f"requested model {name[:200]!r} is not available, or not in version {version or 'any'}"
            )
        return models


def _only_repository(request: Any) -> None:
    if request.repository_name:
        raise UnsupportedError(
            f"'repository_name' specification {request.repository_name[:100]!r} is not supported: "
            "there is one repository; leave it empty"
        )
