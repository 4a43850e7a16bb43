"""What clients hear when there is too much work, and when they ask again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.errors import ConfigurationError, OverloadedError, UnavailableError
from penstock.service import client
from penstock.service.overload import PUSHBACK, Overload
from penstock.service.settings import Settings
from penstock.service.statuses import SlowReaderError, error_of
from tests.service.test_lifecycle import sample, slow, stub_of, wait_until

Images = npt.NDArray[np.float32]
Request = Callable[..., service_pb2.ModelInferRequest]

RETRYING = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@pytest.fixture
def models(repository: Path, tmp_path: Path) -> Path:
    shutil.copytree(repository / "slow", tmp_path / "models" / "slow")
    return tmp_path / "models"


def refused(url: str, request: service_pb2.ModelInferRequest) -> tuple[Any, float]:
    """The refusal of a client that has a policy to ask again, and the seconds that it took."""
    config = [("grpc.service_config", json.dumps(RETRYING))]
    with grpc.insecure_channel(url, options=config) as channel:
        begin = time.perf_counter()
        with pytest.raises(grpc.RpcError) as refusal:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
        return refusal.value, time.perf_counter() - begin


@pytest.mark.parametrize(
    ("settings", "code", "attempts", "least"),
    [
        ({}, "UNAVAILABLE", 3, 0.0),
        ({"overload_pushback_ms": 400}, "UNAVAILABLE", 3, 0.8),
        ({"overload_pushback_ms": -1}, "UNAVAILABLE", 1, 0.0),
        ({"overload_status": "resource_exhausted"}, "RESOURCE_EXHAUSTED", 1, 0.0),
    ],
    ids=["as Triton", "later", "never", "by its name"],
)
def test_client_with_a_retry_policy(
    models: Path,
    start: Any,
    request_for: Request,
    images: Images,
    settings: dict[str, object],
    code: str,
    attempts: int,
    least: float,
) -> None:
    # The run is to outlast the questions, and the server is killed in it rather than waited for.
    with (
        start(models, threads=1, max_queue=1, **settings) as running,
        grpc.insecure_channel(running.url) as channel,
    ):
        stub = stub_of(channel)
        busy = [stub.ModelInfer.future(slow(request_for, images, 30)) for _ in range(2)]
        wait_until(lambda: sample(running, "nv_inference_pending_request_count", model="slow") == 1)
        error, seconds = refused(running.url, slow(request_for, images, 0))
        assert error.code().name == code
        assert "Exceeds maximum queue size" in error.details()
        assert seconds >= least
        assert sample(running, "penstock_rpc_total", method="ModelInfer", code=code) == attempts
        with pytest.raises(OverloadedError, match="Exceeds maximum queue size"):
            client.infer(running.url, "slow", images[:1])
        for call in busy:
            call.cancel()


def test_settings_become_status_and_metadata(tmp_path: Path) -> None:
    def overload(**settings: Any) -> Overload:
        return Overload.of(Settings(model_repository=tmp_path, **settings))

    assert overload() == Overload() == Overload(grpc.StatusCode.UNAVAILABLE, 0)
    assert overload().trailing == ()
    assert overload(overload_pushback_ms=20).trailing == ((PUSHBACK, "20"),)
    assert overload(overload_status="resource_exhausted").code is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(ConfigurationError, match="overload_pushback_ms is -2"):
        overload(overload_pushback_ms=-2)
    with pytest.raises(ConfigurationError, match="must be unavailable or resource_exhausted"):
        overload(overload_status="busy")


def test_clients_tell_overload_from_other_errors_of_its_status() -> None:
    full, late = "Exceeds maximum queue size: 4 wait", "Request timeout expired: too late"
    for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        for text in (full, late):
            assert type(error_of(code, text)) is OverloadedError
    assert type(error_of(grpc.StatusCode.UNAVAILABLE, "gone")) is UnavailableError
    assert type(error_of(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")) is SlowReaderError
