"""The generator of load: what it counts, and what is not in its times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flood
import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc


class Halves(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Every second request is refused."""

    def __init__(self) -> None:
        self._asked = itertools.count()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        if next(self._asked) % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "full")
        return service_pb2.ModelInferResponse()


@pytest.fixture
def url() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Halves(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_all_are_counted_by_what_became_of_them(url: str) -> None:
    found = flood.flood(url, service_pb2.ModelInferRequest(), seconds=0.5, rate=100)
    assert found.times.keys() == {"OK", "UNAVAILABLE: full"}
    counts = [len(times) for times in found.times.values()]
    assert 40 <= sum(counts) <= 50
    assert abs(counts[0] - counts[1]) <= 1


def test_how_late_the_client_looks_is_not_in_the_times(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flood.flood(url, service_pb2.ModelInferRequest(), seconds=0.1, rate=100)  # whatever is slow but once
    monkeypatch.setattr(flood, "TICK", 0.4)
    found = flood.flood(url, service_pb2.ModelInferRequest(), seconds=1, rate=10)
    times = sorted(itertools.chain(*found.times.values()))
    assert len(times) >= 7
    assert times[len(times) // 2] < 0.2
    assert found.late > 0.2, "that, the client says of itself"
