"""The services on a cluster of Ray's: the answers of a single server, also while a machine is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.errors import ConfigurationError, NotFoundError
from penstock.service.client import PathClient
from tests.service.scale import Record, long, scaled

pytest.importorskip("ray.serve", reason="Ray is an optional extra: pip install 'penstock[ray]'")

CLUSTER = Path(__file__).with_name("ray_cluster.py")
CALLS, AT_ONCE = scaled(20_000, 400), 16

Images = npt.NDArray[np.float32]


@dataclass
class RunningCluster:
    """A cluster and where it listens."""

    process: subprocess.Popen[str]
    url: str

    def tell(self, order: str) -> None:
        """Give an order and wait until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        self.wait_for("done")

    def wait_for(self, begin: str) -> str:
        """The next line that begins so; Ray says things of its own, too."""
        assert self.process.stdout is not None
        found = next((line for line in self.process.stdout if line.startswith(begin)), None)
        assert found is not None, "the cluster has ended"
        return found.removeprefix(begin).strip()


@pytest.fixture(scope="module")
def cluster(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Two machines with a replica each, behind the proxy of a third."""
    log = tmp_path_factory.mktemp("ray") / "cluster.log"
    environ = os.environ | {"RAY_SERVE_LOG_TO_STDERR": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, str(CLUSTER), str(repository), "2", "2"]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environ
        ) as process,
    ):
        try:
            running = RunningCluster(process, "")
            running.url = f"127.0.0.1:{running.wait_for('port ')}"
            yield running
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=60) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()


Stubs = tuple[Any, Any]  # whose module has no types


@pytest.fixture
def stubs(server: Any, cluster: RunningCluster) -> Iterator[Stubs]:
    """Of a single server and of the cluster."""
    with grpc.insecure_channel(server.url) as one, grpc.insecure_channel(cluster.url) as many:
        stub = service_pb2_grpc.GRPCInferenceServiceStub
        yield stub(one), stub(many)


@pytest.mark.parametrize("model", ["batched", "single"])
def test_answers_are_the_single_servers(stubs: Stubs, request_for: Any, images: Images, model: str) -> None:
    request = request_for(model, images)
    one, many = (stub.ModelInfer(request) for stub in stubs)
    assert many == one
    metadata, config = (
        service_pb2.ModelMetadataRequest(name=model),
        service_pb2.ModelConfigRequest(name=model),
    )
    assert len({stub.ModelMetadata(metadata).SerializeToString(deterministic=True) for stub in stubs}) == 1
    assert len({stub.ModelConfig(config).SerializeToString(deterministic=True) for stub in stubs}) == 1
    assert len({str(stub.ServerMetadata(service_pb2.ServerMetadataRequest())) for stub in stubs}) == 1


def test_both_replicas_answer(stubs: Stubs, request_for: Any, images: Images) -> None:
    names = set()
    for _ in range(64):
        _, call = stubs[1].ModelInfer.with_call(request_for("batched", images))
        names.add(dict(call.trailing_metadata())["penstock-replica"])
    assert len(names) == 2


def test_refusals_are_the_single_servers(stubs: Stubs, request_for: Any, images: Images) -> None:
    unknown, wrong, brittle = (request_for(name, images) for name in ("nobody", "batched", "brittle"))
    wrong.raw_input_contents[0] = b"123"
    brittle.raw_input_contents[0] = (images + 1).tobytes()
    for request, expected in ((unknown, "NOT_FOUND"), (wrong, "INVALID_ARGUMENT"), (brittle, "INTERNAL")):
        errors = []
        for stub in stubs:
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(request)
            errors.append(refused.value)
        assert [error.code().name for error in errors] == [expected] * 2
        if expected != "INTERNAL":  # there the text is a request id
            assert errors[0].details() == errors[1].details()
        assert "ray" not in str(errors[1].details()).lower()


def test_bytes_that_are_no_message(cluster: RunningCluster) -> None:
    with grpc.insecure_channel(cluster.url) as channel:
        ask: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as refused:
            ask(b"\xff\xff")
    assert (refused.value.code().name, refused.value.details()) == ("INTERNAL", "Unable to parse request")


def test_streams(stubs: Stubs, request_for: Any, images: Images) -> None:
    requests = [
        request_for(name, images[:rows]) for rows, name in ((1, "batched"), (2, "nobody"), (3, "single"))
    ]
    one, many = ([str(answer) for answer in stub.ModelStreamInfer(iter(requests))] for stub in stubs)
    assert len(many) == 3
    assert many == one


def test_stock_client_health_and_paths(cluster: RunningCluster, images: Images) -> None:
    with tritonclient.grpc.InferenceServerClient(cluster.url) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("batched")
    with grpc.insecure_channel(cluster.url) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(service="batched")).status == 1
        watching = health.Watch(health_pb2.HealthCheckRequest(service="single"))
        assert next(watching).status == 1
        watching.cancel()
    with PathClient(cluster.url) as paths:
        assert paths.path_profile("batched").window >= 0
        with pytest.raises(NotFoundError):
            paths.watch_flags("nobody")


def test_no_flag_is_missed_once_a_replica_watches(
    stubs: Stubs, cluster: RunningCluster, request_for: Any, images: Images
) -> None:
    asked: dict[str, list[str]] = {}
    with PathClient(cluster.url) as paths:
        records = paths.watch_flags("batched")
        for number in range(64):
            request = request_for("batched", images)
            request.id = str(number)
            _, call = stubs[1].ModelInfer.with_call(request)
            asked.setdefault(dict(call.trailing_metadata())["penstock-replica"], []).append(request.id)
        first = next(records).request_id
    assert first in [ids[0] for ids in asked.values()], "the first that the replica was asked"


async def under_load(cluster: RunningCluster, request: Any, expected: bytes) -> Counter[str]:
    """Ask all the time, lose a machine on the way, and compare every answer."""
    outcomes: Counter[str] = Counter()

    async def client(stub: Any, order: str) -> None:
        for number in range(CALLS // AT_ONCE):
            if order and number == CALLS // AT_ONCE // 4:
                await asyncio.to_thread(cluster.tell, order)
            call = stub.ModelInfer(request, timeout=60)
            try:
                answer = await call
            except grpc.aio.AioRpcError as error:
                outcomes[f"{error.code().name}: {error.details()}"] += 1
                continue
            same = answer.SerializeToString(deterministic=True) == expected
            outcomes["right" if same else "wrong"] += 1
            trailing = dict(await call.trailing_metadata())
            outcomes[trailing["penstock-replica"]] += 1
            outcomes["again"] += "penstock-tries" in trailing

    async with grpc.aio.insecure_channel(cluster.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await asyncio.gather(*(client(stub, "kill" if index == 0 else "") for index in range(AT_ONCE)))
    return outcomes


@long
def test_a_killed_machine_loses_no_request(
    stubs: Stubs, cluster: RunningCluster, request_for: Any, images: Images, record_property: Record
) -> None:
    slow = images[:1].copy()
    slow[0, 0, 0, 0] = (
        0.02  # some milliseconds, so that the machine dies with requests that are being answered
    )
    request = request_for("slow", slow)
    expected = stubs[0].ModelInfer(request).SerializeToString(deterministic=True)
    outcomes = asyncio.run(under_load(cluster, request, expected))
    record_property("requests answered rightly", f"{outcomes['right']:,}")
    record_property("asked again after the kill", outcomes["again"])
    assert outcomes.pop("right") == CALLS // AT_ONCE * AT_ONCE, outcomes
    assert outcomes.pop("again"), "the machine died with requests that it was at"
    assert len(outcomes) == 2, f"both replicas answered: {outcomes}"
    cluster.tell("add")  # another machine: Ray starts the missing replica there
    names: set[str] = set()
    end = time.monotonic() + 120
    while time.monotonic() < end and not names - outcomes.keys():
        _, call = stubs[1].ModelInfer.with_call(request)
        names.add(dict(call.trailing_metadata())["penstock-replica"])
    assert names - outcomes.keys(), "the new machine answers"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model_control_mode", "explicit"),
        ("system_shared_memory", "yes"),
        ("reflection", "yes"),
        ("replicas", "0"),
        ("cpus", "many"),
    ],
)
def test_settings_without_meaning_in_a_cluster_are_refused(tmp_path: Path, setting: str, value: str) -> None:
    from penstock.service.cluster.app import app

    with pytest.raises(ConfigurationError, match=setting):
        app({"model_repository": str(tmp_path), setting: value})
