"""Certificates, tokens and limits: who is turned away, with which status, and that it is counted."""

from __future__ import annotations

import gzip
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.cli import main
from penstock.errors import ConfigurationError, ForbiddenError, UnauthenticatedError, UnavailableError
from penstock.service import client
from penstock.service.access import Access, Group, group_of
from penstock.service.client import PathClient
from penstock.service.credentials import Credentials
from penstock.service.path_servicer import PATHS
from penstock.service.probe import main as probe
from penstock.service.reflection import SERVICE as REFLECTION
from penstock.service.servicer import INFERENCE

Images = npt.NDArray[np.float32]
MEMORY_CALLS = ("Status", "Register", "Unregister")
TOKENS = {group: f"{group}-" + "0123456789abcdef" for group in ("inference", "control", "explain")}


@dataclass
class Authority:
    """Signs certificates; each is a pair of PEM files."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path) -> Authority:
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed("authority", key, "authority", key, authority=True)
        (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, key, certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate = _signed(name, key, "authority", self.key, authority=False)
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


def _signed(name: str, key: Any, issuer: str, issuer_key: Any, *, authority: bool) -> x509.Certificate:
    now = datetime.now(UTC)
    names = [x509.IPAddress(ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, start: Any, repository: Path) -> Iterator[Any]:
    """A server that asks for a client's certificate and for tokens, and what a rightful client brings."""
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority.make(folder / "ours")
    certificate, key = authority.issue("server")
    own, own_key = authority.issue("client")
    files = {}
    for group, token in TOKENS.items():
        files[group] = folder / f"{group}.tokens"
        files[group].write_text(f"# {group}\n{token}\n")
    settings = {f"{group}_tokens": file for group, file in files.items()}
    settings |= {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": folder / "ours" / "ca.pem"}
    with start(repository, log_format="json", **settings) as running:
        right = {"authority": folder / "ours" / "ca.pem", "certificate": own, "key": own_key}
        yield running, right, files


def rpcs(server: Any, method: str, code: str) -> float:
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    name = f'penstock_rpc_total{{code="{code}",method="{method}"}} '
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)


def handshakes(server: Any) -> float:
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    name = "penstock_tls_handshakes_total "
    return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def test_rightful_client_is_served(secured: Any, images: Images) -> None:
    server, right, files = secured
    credentials = Credentials(**right, token_file=files["inference"])
    assert client.model_info(server.url, "batched", credentials=credentials).max_batch == 8
    assert len(client.infer(server.url, "batched", images, credentials=credentials)) == 5
    with PathClient(server.url, credentials=Credentials(**right, token_file=files["explain"])) as paths:
        assert paths.path_profile("batched").window >= 5
    with credentials.channel(server.url) as channel:  # probes have no token
        assert (
            service_pb2_grpc.GRPCInferenceServiceStub(channel)
            .ServerLive(service_pb2.ServerLiveRequest())
            .live
        )


def test_wrong_token_is_unauthenticated_and_missing_right_denied(
    secured: Any, images: Images, tmp_path: Path
) -> None:
    server, right, files = secured
    (tmp_path / "guessed").write_text("guessed-0123456789abcdef")
    denied = rpcs(server, "ModelInfer", "PERMISSION_DENIED")
    for token_file in (tmp_path / "guessed", None):
        with pytest.raises(UnauthenticatedError, match="authorization: Bearer TOKEN"):
            client.infer(
                server.url, "batched", images, credentials=Credentials(**right, token_file=token_file)
            )
    credentials = Credentials(**right, token_file=files["explain"])
    with pytest.raises(ForbiddenError, match="needs a token for 'inference'"):
        client.infer(server.url, "batched", images, credentials=credentials)
    with (
        PathClient(server.url, credentials=Credentials(**right, token_file=files["inference"])) as paths,
        pytest.raises(ForbiddenError, match="needs a token for 'explain'"),
    ):
        paths.watch_flags()
    with Credentials(**right).channel(server.url) as channel:
        load = service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryModelLoad
        token = (("authorization", f"Bearer {TOKENS['inference']}"),)
        with pytest.raises(grpc.RpcError) as refusal:
            load(service_pb2.RepositoryModelLoadRequest(model_name="batched"), metadata=token)
        assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert rpcs(server, "ModelInfer", "UNAUTHENTICATED") == 2
    assert rpcs(server, "ModelInfer", "PERMISSION_DENIED") == denied + 1
    assert rpcs(server, "RepositoryModelLoad", "PERMISSION_DENIED") == 1


def test_probe_brings_credentials(secured: Any, tmp_path: Path) -> None:
    """By flag or from the environment; the server's own certificate is authority enough for a probe beside it."""
    server, right, files = secured
    server_certificate = right["authority"].parent / "server.pem"
    own = ["--certificate", str(right["certificate"]), "--key", str(right["key"])]
    for authority in (right["authority"], server_certificate):
        assert probe([server.url, "batched", "--authority", str(authority), *own], {}) == 0
    environ = {f"PENSTOCK_PROBE_{name.upper()}": str(file) for name, file in right.items()}
    environ["PENSTOCK_PROBE_TOKEN_FILE"] = str(files["inference"])
    environ["PENSTOCK_PROBE_SERVER_NAME"] = ""
    assert probe([server.url], environ) == 0
    assert probe([server.url, "nobody"], environ) == 1
    stranger = environ | {"PENSTOCK_PROBE_SERVER_NAME": "elsewhere"}
    assert probe([server.url, "--timeout", "2"], stranger) == 1
    assert probe([server.url, "--timeout", "2"], {}) == 1, "plain text"
    assert probe([server.url], environ | {"PENSTOCK_PROBE_KEY": str(tmp_path / "nowhere")}) == 2
    assert probe([server.url], environ | {"PENSTOCK_PROBE_KEY": ""}) == 2


def test_every_client_looks_for_the_name_that_it_was_told(
    secured: Any, images: Images, tmp_path: Path
) -> None:
    server, right, files = secured
    stranger = Credentials(**right, token_file=files["inference"], server_name="elsewhere")
    with pytest.raises(UnavailableError):
        client.model_info(server.url, "batched", credentials=stranger, timeout=2)
    with pytest.raises(UnavailableError):
        client.infer(server.url, "batched", images, credentials=stranger, timeout=2)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "black.png")
    command = ["infer", "--url", server.url, "--model", "batched", "--token-file", str(files["inference"])]
    command += [part for name, file in right.items() for part in (f"--{name}", str(file))]
    image = str(tmp_path / "black.png")
    assert main([*command, "--server-name", "127.0.0.1", image]) == 0
    assert main([*command, "--server-name", "elsewhere", "--timeout", "2", image]) != 0


def test_wrong_certificates_do_not_connect(secured: Any, tmp_path: Path, images: Images) -> None:
    server, right, files = secured
    stranger, stranger_key = Authority.make(tmp_path / "theirs").issue("client")
    token_file = files["inference"]
    for wrong in (
        Credentials(authority=right["authority"], token_file=token_file),
        Credentials(
            authority=right["authority"], certificate=stranger, key=stranger_key, token_file=token_file
        ),
        Credentials(authority=tmp_path / "theirs" / "ca.pem", token_file=token_file),
        Credentials(token_file=token_file),
    ):
        begun = handshakes(server)
        with pytest.raises(UnavailableError):
            client.infer(server.url, "batched", images, credentials=wrong, timeout=5)
        assert handshakes(server) > begun, "a client that is turned away is counted"


def test_log_lines_are_json_with_the_callers_request_id(
    secured: Any, request_for: Any, images: Images
) -> None:
    server, right, _ = secured
    metadata = (("authorization", f"Bearer {TOKENS['inference']}"), ("x-request-id", "trace-me-7"))
    with Credentials(**right).channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(request_for("brittle", np.ones((1, 3, 8, 8), np.float32)), metadata=metadata)
    assert refusal.value.details() == "internal error, request id trace-me-7"
    # gRPC's core writes lines of its own, about failed handshakes, which nobody but the process can form.
    ours = [line for line in server.log.read_text().splitlines() if line.startswith("{")]
    lines = [json.loads(line) for line in ours]
    about = [line for line in lines if line.get("request_id") == "trace-me-7"]
    assert [(line["level"], "Traceback" in line["exception"]) for line in about] == [("error", True)]


def test_group_without_a_file_is_open_and_files_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("0123456789abcdef\n")
    access = Access({Group.CONTROL: file})
    access.check("ModelInfer", ())
    with pytest.raises(UnauthenticatedError):
        access.check("RepositoryModelLoad", ())
    access.check("RepositoryModelLoad", (("authorization", "bearer 0123456789abcdef"),))
    file.write_text("short\n")
    with pytest.raises(ConfigurationError, match="fewer than 16 characters"):
        Access({Group.CONTROL: file})
    file.write_text("# nothing\n")
    with pytest.raises(ConfigurationError, match="hold none"):
        Access({Group.CONTROL: file})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Access({Group.CONTROL: tmp_path / "nowhere"})


def test_open_groups_beside_closed_ones_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    file.write_text("0123456789abcdef\n")
    Access({})
    Access(dict.fromkeys(Group, file))
    assert not caplog.records, "all are open, or none is"
    Access({Group.INFERENCE: file, Group.CONTROL: file})
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert "no token is needed for calls of explain," in warning.getMessage()
    assert warning.getMessage().endswith("close them with --explain-tokens")
    Access({Group.CONTROL: file})
    assert "--inference-tokens and --explain-tokens" in caplog.text


@pytest.mark.parametrize(
    ("service", "group", "methods"),
    [
        (INFERENCE, None, {"ServerLive", "ServerReady"}),
        (
            INFERENCE,
            Group.INFERENCE,
            {
                *("ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig"),
                *("ModelInfer", "ModelStreamInfer", "ModelStatistics"),
            },
        ),
        (
            INFERENCE,
            Group.CONTROL,
            {
                *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
                *(f"{kind}SharedMemory{call}" for kind in ("System", "Cuda") for call in MEMORY_CALLS),
                *("TraceSetting", "LogSettings"),
            },
        ),
        (PATHS, Group.EXPLAIN, {"GetPathProfile", "WatchFlags", "Explain"}),
        (REFLECTION, Group.INFERENCE, {"ServerReflectionInfo"}),
    ],
)
def test_every_call_belongs_to_a_group(service: Any, group: Group | None, methods: set[str]) -> None:
    assert {method.name for method in service.methods if group_of(method.name) == group} == methods


def test_control_needs_its_own_token_and_streams_that_of_inference(
    secured: Any, images: Images, request_for: Any
) -> None:
    server, right, _ = secured
    control, inference = (
        (("authorization", f"Bearer {TOKENS[group]}"),) for group in ("control", "inference")
    )
    with Credentials(**right).channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        ask = service_pb2.RepositoryIndexRequest()
        assert len(stub.RepositoryIndex(ask, metadata=control).models) > 1
        with pytest.raises(grpc.RpcError) as refusal:
            stub.RepositoryIndex(ask, metadata=inference)
        assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
        for metadata, code in ((control, "PERMISSION_DENIED"), ((), "UNAUTHENTICATED")):
            with pytest.raises(grpc.RpcError) as refusal:
                list(stub.ModelStreamInfer(iter([request_for("batched", images)]), metadata=metadata))
            assert refusal.value.code().name == code
            assert rpcs(server, "ModelStreamInfer", code) == 1
        answers = list(stub.ModelStreamInfer(iter([request_for("batched", images)]), metadata=inference))
        assert [answer.error_message for answer in answers] == [""]
        # The right token is let through to what the server's mode then refuses.
        with pytest.raises(grpc.RpcError) as refusal:
            stub.RepositoryModelLoad(
                service_pb2.RepositoryModelLoadRequest(model_name="batched"), metadata=control
            )
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


def test_compressed_message_may_not_unfold_beyond_the_limit(repository: Path, start: Any) -> None:
    """64 MiB of zeros are 64 KiB on the way; the limit is on what they become."""
    bomb = service_pb2.ModelInferRequest(model_name="batched", raw_input_contents=[bytes(2**26)])
    assert len(gzip.compress(bomb.SerializeToString(), 1)) < 2**20
    with (
        start(repository, max_message_mib=1) as server,
        grpc.insecure_channel(server.url, options=[("grpc.max_send_message_length", -1)]) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression):
            with pytest.raises(grpc.RpcError) as refusal:
                stub.ModelInfer(bomb, compression=compression)
            assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(service_pb2.ModelInferRequest(model_name="nobody"))
        with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=30) as page:
            assert 'penstock_rpc_unread_total{method="ModelInfer"} 3.0' in page.read().decode().splitlines()


@pytest.mark.parametrize(
    "name", ["../models/batched", "/etc", "batched/../single", "batched/1", "..", "a\\..\\b", "\0"]
)
def test_names_are_no_paths(server: Any, images: Images, request_for: Any, name: str) -> None:
    """Of models and of versions; each refusal is counted."""
    before = rpcs(server, "ModelInfer", "NOT_FOUND"), rpcs(server, "ModelInfer", "INVALID_ARGUMENT")
    with grpc.insecure_channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(request_for(name, images))
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
        request = request_for("batched", images)
        request.model_version = name
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(request)
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not stub.ModelReady(service_pb2.ModelReadyRequest(name=name)).ready
    after = rpcs(server, "ModelInfer", "NOT_FOUND"), rpcs(server, "ModelInfer", "INVALID_ARGUMENT")
    assert after == (before[0] + 1, before[1] + 1)
