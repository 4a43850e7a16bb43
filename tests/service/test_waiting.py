"""What configurations say about waiting, and what requests ask for, through a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from grpc import StatusCode
from tritonclient.grpc import service_pb2

from penstock.model_config import BATCHING
from penstock.service.brevity import CREDIT
from tests.service.test_lifecycle import pending, sample, slow, stub_of, wait_until

Images = npt.NDArray[np.float32]
Request = Callable[..., service_pb2.ModelInferRequest]

LEVELS = """dynamic_batching {
  priority_levels: 2 default_priority_level: 2
  default_queue_policy { default_timeout_microseconds: 60000000 allow_timeout_override: true }
}
"""
TWO = "instance_group { count: 2 kind: KIND_CPU }\n"


@pytest.fixture
def models(add_model: Any, tmp_path: Path) -> Path:
    add_model(tmp_path / "models", "slow", work="slow")
    return tmp_path / "models"


def configure(models: Path, text: str) -> None:
    file = models / "slow" / "config.pbtxt"
    before = file.read_text()
    assert BATCHING in before
    file.write_text(before.replace(BATCHING, text))


class Order:
    """Asks, and notes in which order the answers came."""

    def __init__(self, stub: Any) -> None:
        self._stub, self._lock = stub, threading.Lock()
        self.names: list[str] = []
        self.calls: list[Any] = []

    def ask(self, name: str, request: service_pb2.ModelInferRequest, **parameters: int) -> None:
        for key, value in parameters.items():
            request.parameters[key].int64_param = value
        call = self._stub.ModelInfer.future(request, timeout=60)
        call.add_done_callback(lambda _: self._note(name))
        self.calls.append(call)

    def _note(self, name: str) -> None:
        with self._lock:
            self.names.append(name)


def test_priority_goes_first_and_a_request_may_shorten_its_timeout(
    models: Path, start: Any, request_for: Request, images: Images
) -> None:
    configure(models, LEVELS)
    with start(models, threads=1) as running, grpc.insecure_channel(running.url) as channel:
        order = Order(stub_of(channel))
        order.ask("runs", slow(request_for, images, 4))
        wait_until(lambda: sample(running, "penstock_running") == 1)
        order.ask("second", slow(request_for, images, 0))
        wait_until(lambda: pending(running) == 1)
        order.ask("first", slow(request_for, images, 0), priority=1)
        wait_until(lambda: pending(running) == 2)
        hasty = slow(request_for, images, 0)
        hasty.parameters["timeout"].int64_param = 2000
        with pytest.raises(grpc.RpcError, match="Request timeout expired") as refused:
            stub_of(channel).ModelInfer(hasty, timeout=60)
        assert refused.value.code() is StatusCode.UNAVAILABLE
        for call in order.calls:
            assert call.result(timeout=60).id == "42"
        wait_until(lambda: len(order.names) == 3)
        assert order.names == ["runs", "first", "second"]


@pytest.mark.parametrize(("action", "answered"), [("DELAY", True), ("REJECT", False)])
def test_late_request_is_answered_or_refused_as_the_model_says(
    models: Path, start: Any, request_for: Request, images: Images, action: str, answered: bool
) -> None:
    policy = f"default_timeout_microseconds: 300000 timeout_action: {action}"
    configure(models, f"dynamic_batching {{ default_queue_policy {{ {policy} }} }}\n")
    with start(models, threads=1) as running, grpc.insecure_channel(running.url) as channel:
        stub = stub_of(channel)
        runs = stub.ModelInfer.future(slow(request_for, images, 6), timeout=60)
        wait_until(lambda: sample(running, "penstock_running") == 1)
        late = stub.ModelInfer.future(slow(request_for, images, 0), timeout=60)
        time.sleep(1)
        assert not runs.done(), "the run was to outlast the wait"
        assert late.done() is not answered
        assert runs.result(timeout=60).id == "42"
        if answered:
            assert late.result(timeout=60).id == "42"
        else:
            assert late.exception().code() is StatusCode.UNAVAILABLE


def test_two_instances_run_at_once(models: Path, start: Any, request_for: Request, images: Images) -> None:
    configure(models, TWO)
    with start(models, threads=1) as running, grpc.insecure_channel(running.url) as channel:
        stub = stub_of(channel)
        calls = [stub.ModelInfer.future(slow(request_for, images, 3), timeout=60) for _ in range(3)]
        wait_until(lambda: sample(running, "penstock_running") == 2)
        wait_until(lambda: pending(running) == 1)
        assert [call.result(timeout=60).id for call in calls] == ["42"] * 3


def test_loop_that_was_brief_so_far_holds_nobody_up(
    models: Path, start: Any, request_for: Request, images: Images
) -> None:
    with start(models, threads=1) as running, grpc.insecure_channel(running.url) as channel:
        stub = stub_of(channel)
        for _ in range(2 * CREDIT):
            stub.ModelInfer(slow(request_for, images, 0), timeout=60)
        long = stub.ModelInfer.future(slow(request_for, images, 5), timeout=60)
        wait_until(lambda: sample(running, "penstock_running") == 1)
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=30).live
        assert not long.done(), "the question was to be answered first"
        assert long.result(timeout=60).id == "42"


def test_connection_ends_at_its_age_and_its_requests_do_not(
    models: Path, start: Any, request_for: Request, images: Images
) -> None:
    settings = {"max_connection_age_seconds": 1, "max_connection_age_grace_seconds": 60}
    with start(models, threads=1, **settings) as running, grpc.insecure_channel(running.url) as channel:
        seen: list[grpc.ChannelConnectivity] = []
        channel.subscribe(seen.append, try_to_connect=True)
        call = stub_of(channel).ModelInfer.future(slow(request_for, images, 8), timeout=60)
        ready = grpc.ChannelConnectivity.READY
        wait_until(lambda: ready in seen and seen[-1] is not ready)
        assert call.result(timeout=60).id == "42"
