"""Server reflection, ``grpc.reflection.v1alpha``: tools such as ``grpcurl`` ask it what they can call, and with what.

Answered only where the settings say so. The descriptors are the process's own, those that messages are parsed by.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2

SERVICE: ServiceDescriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


def reflection_of(services: Iterable[ServiceDescriptor]) -> object:
    """A servicer that lists these services and itself."""
    return reflection.aio.ReflectionServicer([service.full_name for service in (*services, SERVICE)])
