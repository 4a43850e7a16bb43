"""The lines with ``grpcurl`` on the page about the protocol, by what a server tells of its calls, and as they stand.

``PENSTOCK_GRPCURL=/path/to/grpcurl`` runs them as they stand; the program is no part of this repository.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from penstock.service.reflection import SERVICE
from penstock.service.services import SERVICES
from tests.service.bundles import add_bundle

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
GRPCURL = os.environ.get("PENSTOCK_GRPCURL", "")
TOKEN = "inference-0123456789abcdef"


def lines(url: str) -> list[list[str]]:
    """The page's lines, of this server."""
    found = [line for line in PAGE.read_text().splitlines() if line.startswith("    grpcurl ")]
    assert all("127.0.0.1:8001" in line for line in found)
    return [shlex.split(line.replace("127.0.0.1:8001", url))[1:] for line in found]


@pytest.fixture(scope="module")
def url(start: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a model of the name that the page uses, which wants a token."""
    folder = tmp_path_factory.mktemp("grpcurl")
    add_bundle(folder / "models", "resnet20")
    (folder / "tokens").write_text(TOKEN)
    with start(folder / "models", reflection="yes", inference_tokens=folder / "tokens") as server:
        yield server.url


def test_lines_fit_what_the_server_tells(url: str) -> None:
    class Authorized(grpc.AuthMetadataPlugin):
        def __call__(self, context: Any, callback: Any) -> None:
            callback((("authorization", f"Bearer {TOKEN}"),), None)

    local = grpc.local_channel_credentials()
    credentials = grpc.composite_channel_credentials(local, grpc.metadata_call_credentials(Authorized()))
    with grpc.secure_channel(url, credentials) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        (option, *listing), (plain, d, given, _, call) = lines(url)
        assert (option, plain, d, listing) == ("-plaintext", "-plaintext", "-d", [url, "list"])
        service, method = call.split("/")
        assert service in database.get_services()
        described = pool.FindServiceByName(service).methods_by_name[method]
        request = json_format.Parse(given, GetMessageClass(described.input_type)())
        ask: Any = channel.unary_unary(
            f"/{call}",
            request_serializer=GetMessageClass(described.input_type).SerializeToString,
            response_deserializer=GetMessageClass(described.output_type).FromString,
        )
        assert ask(request, timeout=30).name == "resnet20"


@pytest.mark.skipif(not GRPCURL, reason="no grpcurl: PENSTOCK_GRPCURL names one")
def test_lines_as_they_stand(url: str) -> None:
    def run(arguments: list[str], token: str) -> subprocess.CompletedProcess[str]:
        command = [GRPCURL, "-H", f"authorization: Bearer {token}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    listing, asking = lines(url)
    listed = run(listing, TOKEN)
    assert listed.stdout.split() == sorted(service.full_name for service in (*SERVICES, SERVICE))
    asked = run(asking, TOKEN)
    assert json.loads(asked.stdout)["name"] == "resnet20", asked.stderr
    for arguments in (listing, asking):
        refused = run(arguments, "nobody")
        assert refused.returncode
        assert "Unauthenticated" in refused.stderr
