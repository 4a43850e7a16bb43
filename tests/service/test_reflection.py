"""What a server tells tools of its calls, where it may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from penstock.service.reflection import SERVICE
from penstock.service.services import SERVICES
from tests.service.plain import FLOAT, add_model, identity

TOKENS = {group: f"{group}-0123456789abcdef" for group in ("inference", "control")}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    add_model(tmp_path / "models", "same", identity(FLOAT, ["N", 2]))
    return tmp_path / "models"


def ask(channel: grpc.Channel, *requests: Any, token: str = "") -> list[Any]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return list(stub.ServerReflectionInfo(iter(requests), metadata=metadata, timeout=30))


def test_tool_finds_services_and_calls_a_method_by_what_it_was_told(models: Path, start: Any) -> None:
    with start(models, reflection="yes") as server, grpc.insecure_channel(server.url) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        served = sorted(service.full_name for service in (*SERVICES, SERVICE))
        assert sorted(database.get_services()) == served
        assert "grpc.reflection.v1alpha.ServerReflection" in served
        pool = DescriptorPool(database)  # knows nothing but what the server says
        for name in served:
            assert pool.FindServiceByName(name).methods
        method = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name["ModelMetadata"]
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        answer: Any = call(request(name="same"))
        assert [tensor.name for tensor in answer.inputs] == ["INPUT0"]
        explain = pool.FindServiceByName("penstock.service.v1.PathService").methods_by_name["Explain"]
        assert explain.output_type.full_name == "penstock.service.v1.Explanation"


def test_unknown_symbol_ends_no_stream(models: Path, start: Any) -> None:
    asked = reflection_pb2.ServerReflectionRequest
    with start(models, reflection="yes") as server, grpc.insecure_channel(server.url) as channel:
        missing, empty, listed = ask(
            channel, asked(file_containing_symbol="no.Such"), asked(), asked(list_services="")
        )
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert empty.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert len(listed.list_services_response.service) == len(SERVICES) + 1


def test_off_by_default(models: Path, start: Any) -> None:
    with (
        start(models) as server,
        grpc.insecure_channel(server.url) as channel,
        pytest.raises(grpc.RpcError) as refusal,
    ):
        ask(channel, reflection_pb2.ServerReflectionRequest(list_services=""))
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_needs_the_token_of_inference(models: Path, start: Any, tmp_path: Path) -> None:
    settings = {}
    for group, token in TOKENS.items():
        settings[f"{group}_tokens"] = tmp_path / group
        settings[f"{group}_tokens"].write_text(token)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    with start(models, reflection="yes", **settings) as server, grpc.insecure_channel(server.url) as channel:
        for token, code in (("", "UNAUTHENTICATED"), (TOKENS["control"], "PERMISSION_DENIED")):
            with pytest.raises(grpc.RpcError) as refusal:
                ask(channel, asked, token=token)
            assert refusal.value.code().name == code
        (answer,) = ask(channel, asked, token=TOKENS["inference"])
        assert len(answer.list_services_response.service) == len(SERVICES) + 1
