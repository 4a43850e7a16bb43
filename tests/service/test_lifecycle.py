"""Starting, overload, giving up, and stopping without losing a request."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.service.devices import CPU, driver_problem, find_device, provider_problem

Images = npt.NDArray[np.float32]
Request = Callable[..., service_pb2.ModelInferRequest]


def stub_of(channel: grpc.Channel) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def sample(running: Any, name: str, **labels: str) -> float:
    """Sum of a metric over the series that carry these labels."""
    with urllib.request.urlopen(f"http://{running.metrics}/metrics", timeout=10) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.02)


def slow(request_for: Request, images: Images, pixel: float) -> service_pb2.ModelInferRequest:
    image = images[:1].copy()
    image[0, 0, 0, 0] = pixel
    return request_for("slow", image)


@pytest.fixture
def slow_repository(repository: Path, tmp_path: Path) -> Path:
    """A repository with the slow model alone."""
    folder = tmp_path / "models"
    shutil.copytree(repository / "slow", folder / "slow")
    return folder


@pytest.fixture
def narrow(slow_repository: Path, start: Any) -> Iterator[Any]:
    """A server where one request runs and one may wait."""
    # On a busy machine the slow requests take longer than the grace period is by default.
    with start(slow_repository, threads=1, max_queue=1, grace_seconds=120) as running:
        yield running


def pending(running: Any) -> float:
    return sample(running, "nv_inference_pending_request_count", model="slow")


def test_overload_and_giving_up(narrow: Any, request_for: Request, images: Images) -> None:
    with grpc.insecure_channel(narrow.url) as channel:
        stub = stub_of(channel)
        running = stub.ModelInfer.future(slow(request_for, images, 10))
        wait_until(lambda: sample(narrow, "penstock_running") == 1)
        queued = stub.ModelInfer.future(slow(request_for, images, 1))
        wait_until(lambda: pending(narrow) == 1)

        with pytest.raises(grpc.RpcError, match="Exceeds maximum queue size") as refused:
            stub.ModelInfer(slow(request_for, images, 0), timeout=30)
        assert refused.value.code() is StatusCode.UNAVAILABLE

        # Questions are answered while a run takes its time.
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=30).live
        assert stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="slow"), timeout=30).name == "slow"

        queued.cancel()
        wait_until(lambda: pending(narrow) == 0)
        with pytest.raises(grpc.RpcError) as late:
            stub.ModelInfer(slow(request_for, images, 1), timeout=0.1)
        assert late.value.code() is StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: pending(narrow) == 0)
        assert not running.done(), "the first request was to outlast the others"

        assert running.result(timeout=60).id == "42"
    # Neither the request that was cancelled nor the one whose deadline passed was run.
    assert sample(narrow, "nv_inference_exec_count") == 1
    assert sample(narrow, "nv_inference_request_failure", reason="REJECTED") == 1
    assert sample(narrow, "nv_inference_request_failure", reason="CANCELED") == 2
    assert sample(narrow, "nv_inference_request_success") == 1


def test_run_whose_request_was_given_up_is_a_run(
    repository: Path, start: Any, request_for: Request, images: Images
) -> None:
    with start(repository, threads=1) as running, grpc.insecure_channel(running.url) as channel:
        stub = stub_of(channel)
        given_up = stub.ModelInfer.future(slow(request_for, images, 2))
        wait_until(lambda: sample(running, "penstock_running", model="slow") == 1)
        given_up.cancel()
        wait_until(lambda: sample(running, "nv_inference_request_failure", model="slow") == 1)
        wait_until(lambda: sample(running, "penstock_running", model="slow") == 0)
        assert sample(running, "nv_inference_exec_count", model="slow") == 1
        figures = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="slow")).model_stats[0]
        assert (figures.execution_count, figures.inference_count) == (1, 0)
        assert [batch.compute_infer.count for batch in figures.batch_stats] == [1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain_finishes_what_runs_and_refuses_what_comes(
    narrow: Any, request_for: Request, images: Images, number: int
) -> None:
    with grpc.insecure_channel(narrow.url) as channel:
        stub = stub_of(channel)
        accepted = [stub.ModelInfer.future(slow(request_for, images, 4)) for _ in range(2)]
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="slow"))
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        wait_until(lambda: pending(narrow) == 1)
        narrow.process.send_signal(number)
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING

        with pytest.raises(grpc.RpcError, match="shutting down") as refused:
            stub.ModelInfer(slow(request_for, images, 0), timeout=30)
        assert refused.value.code() is StatusCode.UNAVAILABLE
        assert not stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=30).ready
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=30).live

        assert [call.result(timeout=60).id for call in accepted] == ["42", "42"]
    assert narrow.process.wait(timeout=60) == 0


def test_drain_ends_when_its_time_is_over(
    slow_repository: Path, start: Any, request_for: Request, images: Images
) -> None:
    with (
        start(slow_repository, grace_seconds=0.2) as running,
        grpc.insecure_channel(running.url) as channel,
    ):
        endless = stub_of(channel).ModelInfer.future(slow(request_for, images, 1000))
        wait_until(lambda: sample(running, "penstock_running") == 1)
        assert running.stop() == 0
        with pytest.raises(grpc.RpcError):
            endless.result(timeout=60)


def test_stop_ends_what_runs_on_a_model_that_was_unloaded(
    slow_repository: Path, start: Any, request_for: Request, images: Images
) -> None:
    with (
        start(
            slow_repository, model_control_mode="explicit", load_model="slow", grace_seconds=0.2
        ) as running,
        grpc.insecure_channel(running.url) as channel,
    ):
        stub = stub_of(channel)
        endless = stub.ModelInfer.future(slow(request_for, images, 1000))
        wait_until(lambda: sample(running, "penstock_running") == 1)
        stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="slow"), timeout=30)
        assert not endless.done(), "what runs goes on"
        assert running.stop() == 0
        with pytest.raises(grpc.RpcError):
            endless.result(timeout=60)


def test_message_limit(slow_repository: Path, start: Any, request_for: Request) -> None:
    with (
        start(slow_repository, max_message_mib=1) as running,
        grpc.insecure_channel(running.url) as channel,
    ):
        large = request_for("slow", np.zeros((2000, 3, 8, 8), dtype=np.float32))
        with pytest.raises(grpc.RpcError) as refused:
            stub_of(channel).ModelInfer(large, timeout=30)
        assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED
        assert stub_of(channel).ServerLive(service_pb2.ServerLiveRequest(), timeout=30).live


WITHOUT_END = """
model_warmup { name: "endless" batch_size: 1 count: 1000000
  inputs { key: "images" value { data_type: TYPE_FP32 dims: [ 3, 8, 8 ] input_data_file: "sample" } } }
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)]
)
def test_signal_ends_a_server_that_loads_models(
    slow_repository: Path, tmp_path: Path, server_command: Any, images: Images, number: int, code: int
) -> None:
    home = slow_repository / "slow"
    with (home / "config.pbtxt").open("a") as config:
        config.write(WITHOUT_END)
    (home / "warmup").mkdir()
    (home / "warmup" / "sample").write_bytes(images[0].tobytes())
    arguments, environ = server_command({"PENSTOCK_MODEL_REPOSITORY": str(slow_repository)})
    log = tmp_path / "server.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(arguments, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            wait_until(lambda: "running on" in log.read_text())  # said before the first model is read
            process.send_signal(number)
            assert process.wait(timeout=60) == code
            assert process.stdout is not None
            assert process.stdout.read() == ""
        finally:
            if process.poll() is None:
                process.kill()


def failed_start(server_command: Any, **environment: str) -> str:
    arguments, environ = server_command(environment)
    ended = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return str(ended.stderr)


def test_missing_gpu_is_refused_on_request(slow_repository: Path, server_command: Any) -> None:
    if not find_device().why_not_cuda:
        pytest.skip("this machine has a usable CUDA device")
    error = failed_start(
        server_command, PENSTOCK_MODEL_REPOSITORY=str(slow_repository), PENSTOCK_REQUIRE_GPU="1"
    )
    assert error.startswith("error: a GPU is required, but ")
    assert len(error.splitlines()) == 1, "ONNX Runtime is to keep quiet"


def test_search_for_a_device_is_quiet_and_says_what_is_missing(capfd: pytest.CaptureFixture[str]) -> None:
    if not driver_problem():
        pytest.skip("this machine has a CUDA device")
    device = find_device()
    assert device.provider == CPU
    assert device.why_not_cuda == driver_problem()
    # Without the driver's help ONNX Runtime itself is asked, which would rather print.
    assert provider_problem().startswith("ONNX Runtime cannot ")
    assert capfd.readouterr() == ("", "")


def test_missing_repository(server_command: Any, tmp_path: Path) -> None:
    error = failed_start(server_command, PENSTOCK_MODEL_REPOSITORY=str(tmp_path / "nowhere"))
    assert "nowhere' is not a folder" in error


@pytest.mark.parametrize("kind", ["grpc", "metrics"])
def test_port_in_use(slow_repository: Path, server_command: Any, kind: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        variables = {f"PENSTOCK_{kind.upper()}_PORT": str(port)}
        error = failed_start(server_command, PENSTOCK_MODEL_REPOSITORY=str(slow_repository), **variables)
    assert f"127.0.0.1:{port}" in error
    assert f"choose another with --{kind}-port" in error


def test_empty_repository_serves_nothing_and_says_so(tmp_path: Path, start: Any) -> None:
    (tmp_path / "models" / "notes").mkdir(parents=True)
    with start(tmp_path / "models") as running, grpc.insecure_channel(running.url) as channel:
        assert stub_of(channel).ServerReady(service_pb2.ServerReadyRequest(), timeout=30).ready
        assert "holds no models" in running.log.read_text()
