"""Real servers in processes of their own, and what tests ask them with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.bundle import INPUT
from tests.service.bundles import SHAPE, TABLES, add_bundle

_SERVE = """
import os, sys
from penstock.errors import PenstockError
from penstock.service.commands import serve
from penstock.service.settings import Settings
try:
    sys.exit(serve(Settings.read(os.environ)))
except PenstockError as error:
    sys.exit(f"error: {error}")
"""


@dataclass
class RunningServer:
    """A server process and where it listens."""

    process: subprocess.Popen[str]
    url: str
    metrics: str
    log: Path

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


def command(environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a server process; ports are any free ones unless told."""
    variables = {"PENSTOCK_GRPC_PORT": "0", "PENSTOCK_METRICS_PORT": "0", **environment}
    return [sys.executable, "-c", _SERVE], os.environ | variables


@contextmanager
def run_server(repository: Path, folder: Path, **settings: object) -> Iterator[RunningServer]:
    """Start a server process, wait until it answers, and end it afterwards if it still runs."""
    environment = {f"PENSTOCK_{name.upper()}": str(value) for name, value in settings.items()}
    arguments, environ = command({"PENSTOCK_MODEL_REPOSITORY": str(repository), **environment})
    log = folder / "server.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            arguments, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=folder
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            ports = re.fullmatch(r"penstock is serving \d+ models? at (\S+) \(metrics (\S+)\)\n", line)
            assert ports, f"unexpected first line {line!r}; log: {log.read_text()}"
            yield RunningServer(process, ports[1], ports[2], log)
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that answer: ``batched`` (versions 1 and 2), ``single``, ``slow``, ``brittle``, ``pixels`` (of bytes)."""
    folder = tmp_path_factory.mktemp("served") / "models"
    add_bundle(folder, "batched")
    add_bundle(folder, "batched")
    add_bundle(folder, "single", single=True)
    add_bundle(folder, "slow", work="slow")
    add_bundle(folder, "brittle", work="brittle")
    add_bundle(folder, "pixels", input_type="uint8")
    return folder


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests that leave it as they found it."""
    with run_server(repository, tmp_path_factory.mktemp("server"), threads=2) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def client(server: RunningServer) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    """A stock client of the shared server."""
    with tritonclient.grpc.InferenceServerClient(server.url) as stock:
        yield stock


@pytest.fixture
def server_command() -> Callable[[dict[str, str]], tuple[list[str], dict[str, str]]]:
    """For tests that expect a server not to start."""
    return command


Start = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """``start(repository, **settings)``: a server of the test's own."""

    def start_here(repository: Path, **settings: object) -> AbstractContextManager[RunningServer]:
        return run_server(repository, tmp_path_factory.mktemp("server"), **settings)

    return start_here


Images = npt.NDArray[np.float32]


@pytest.fixture
def images() -> Images:
    """``[5, 3, 8, 8]`` in 0..1, no two with the same answer; only the last one is flagged."""
    values = np.random.default_rng(3).uniform(0, 0.5, size=(5, *SHAPE)).astype(np.float32)
    values[:, 0] *= np.linspace(0.2, 1.8, 5, dtype=np.float32)[:, None, None]
    values[4] += 0.1
    return values


Request = Callable[..., service_pb2.ModelInferRequest]


@pytest.fixture
def request_for() -> Request:
    """``request_for(model, images)``: a right request, for a test to spoil."""

    def build(model: str, images: Images) -> service_pb2.ModelInferRequest:
        tensor = service_pb2.ModelInferRequest.InferInputTensor(
            name=INPUT, datatype="FP32", shape=images.shape
        )
        return service_pb2.ModelInferRequest(
            model_name=model, id="42", inputs=[tensor], raw_input_contents=[images.tobytes()]
        )

    return build


@pytest.fixture
def stub(server: RunningServer) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """The bare protocol, for requests that no client library would send."""
    with grpc.insecure_channel(server.url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="session")
def add_model() -> Callable[..., Path]:
    """`add_bundle`, for tests with a repository of their own."""
    return add_bundle


@pytest.fixture(scope="session")
def tables() -> dict[str, npt.NDArray[np.float32]]:
    """The detector of the models that were made with ``detector=True``."""
    return TABLES
