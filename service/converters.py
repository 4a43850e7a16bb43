"""What a server and its models say of themselves, on the wire."""

from __future__ import annotations

from collections.abc import Sequence

from tritonclient.grpc import service_pb2

from penstock import __version__
from penstock.service.configuration import PLATFORM
from penstock.service.model import Model
from penstock.service.profile import Profile
from penstock.service.tensors import TensorSpec
from penstock.service.v1 import paths_pb2

# Clients switch their habits on this list: it names only what is there.
EXTENSIONS = ("model_configuration", "parameters")


def server_metadata() -> service_pb2.ServerMetadataResponse:
    """Who answers, and which parts of the protocol it has."""
    return service_pb2.ServerMetadataResponse(name="penstock", version=__version__, extensions=EXTENSIONS)


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


def path_profile(model: Model, profile: Profile) -> paths_pb2.PathProfile:
    """A profile on the wire."""
    return paths_pb2.PathProfile(
        model_name=model.name,
        model_version=str(model.version),
        window=profile.window,
        active_macs=profile.active_macs,
        flag_rate=profile.flag_rate,
        layers=[
            paths_pb2.LayerProfile(name=name, density=density)
            for name, density in profile.layer_density.items()
        ],
        classes=[
            paths_pb2.ClassProfile(name=entry.name, count=entry.count, flag_rate=entry.flag_rate)
            for entry in profile.classes
        ],
    )


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
