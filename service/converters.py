"""What a server and its models say of themselves, on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tritonclient.grpc import service_pb2

from penstock import __version__
from penstock.service.configuration import PLATFORM
from penstock.service.model import Model
from penstock.service.repository import Status
from penstock.service.shared_memory import Region
from penstock.service.statistics import Duration
from penstock.service.tensors import TensorSpec

# Clients switch their habits on this list: it names only what is there.
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_configuration",
    "schedule_policy",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "logging",
)


def server_metadata(name: str, *, shared_memory: bool) -> service_pb2.ServerMetadataResponse:
    """Who answers, and which parts of the protocol it has."""
    extensions = (*EXTENSIONS, *["system_shared_memory"][:shared_memory])
    return service_pb2.ServerMetadataResponse(name=name, version=__version__, extensions=extensions)


def model_metadata(model: Model, versions: list[int]) -> service_pb2.ModelMetadataResponse:
    """Tensors of a model with ``-1`` for the batch, whether its graph takes batches or single images."""
    return service_pb2.ModelMetadataResponse(
        name=model.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=_tensors(model, model.inputs),
        outputs=_tensors(model, model.outputs),
    )


def model_config(model: Model) -> service_pb2.ModelConfigResponse:
    """The configuration as this service honours it."""
    return service_pb2.ModelConfigResponse(config=model.config)


def repository_index(lines: Iterable[Status], *, only_ready: bool) -> service_pb2.RepositoryIndexResponse:
    """The models of the repository."""
    return service_pb2.RepositoryIndexResponse(
        models=[
            service_pb2.RepositoryIndexResponse.ModelIndex(
                name=line.name,
                version=str(line.version or ""),
                state="READY" if line.ready else "UNAVAILABLE" if line.version or line.reason else "",
                reason=line.reason,
            )
            for line in lines
            if line.ready or not only_ready
        ]
    )


def statistics(models: Iterable[Model]) -> service_pb2.ModelStatisticsResponse:
    """What models have done."""
    return service_pb2.ModelStatisticsResponse(model_stats=map(_model_statistics, models))


def shared_memory_status(regions: Iterable[Region]) -> service_pb2.SystemSharedMemoryStatusResponse:
    """Registered regions."""
    response = service_pb2.SystemSharedMemoryStatusResponse()
    for region in regions:
        status = response.regions[region.name]
        status.name, status.key = region.name, region.key
        status.offset, status.byte_size = region.offset, region.size
    return response


def log_settings(values: Mapping[str, bool | int | str]) -> service_pb2.LogSettingsResponse:
    """Log settings as they stand."""
    response = service_pb2.LogSettingsResponse()
    for name, value in values.items():
        if isinstance(value, bool):
            response.settings[name].bool_param = value
        elif isinstance(value, int):
            response.settings[name].uint32_param = value
        else:
            response.settings[name].string_param = value
    return response


def _model_statistics(model: Model) -> service_pb2.ModelStatistics:
    done = model.statistics
    return service_pb2.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=done.last_ms,
        inference_count=done.rows,
        execution_count=done.runs,
        inference_stats=service_pb2.InferStatistics(
            success=_duration(done.success),
            fail=_duration(done.failure),
            queue=_duration(done.queue),
            compute_input=_duration(done.phases.input),
            compute_infer=_duration(done.phases.infer),
            compute_output=_duration(done.phases.output),
        ),
        batch_stats=[
            service_pb2.InferBatchStatistics(
                batch_size=size,
                compute_input=_duration(phases.input),
                compute_infer=_duration(phases.infer),
                compute_output=_duration(phases.output),
            )
            for size, phases in sorted(done.batches.items())
        ],
    )


def _duration(value: Duration) -> service_pb2.StatisticDuration:
    return service_pb2.StatisticDuration(count=value.count, ns=value.ns)


def _tensors(
    model: Model, specs: Sequence[TensorSpec]
) -> list[service_pb2.ModelMetadataResponse.TensorMetadata]:
    batch = (-1,) if model.max_batch else ()
    return [
        service_pb2.ModelMetadataResponse.TensorMetadata(
            name=spec.name, datatype=spec.datatype.name, shape=(*batch, *spec.shape)
        )
        for spec in specs
    ]
