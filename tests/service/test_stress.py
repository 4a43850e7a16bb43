"""Many clients at once, some of which give up: nothing leaks, and nobody gets another's answer."""

from __future__ import annotations

import asyncio
import os
import random
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.service.scale import long, scaled

Images = npt.NDArray[np.float32]
Request = Callable[..., service_pb2.ModelInferRequest]

CALLS = scaled(20_000, 600)
AT_ONCE = 32


def scores(response: service_pb2.ModelInferResponse) -> list[float]:
    return [float(text) for text in response.parameters["penstock_anomaly_score"].string_param.split(",")]


def metrics(running: Any) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{running.metrics}/metrics", timeout=10) as page:
        lines = [line.rpartition(" ") for line in page.read().decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


def resident_mib(running: Any) -> float:
    with open(f"/proc/{running.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def one_call(stub: Any, request: Any, expected: list[float], rng: random.Random) -> str:
    """Ask and compare; now and then give up, by a deadline or by cancelling."""
    fate = rng.choice(["patient"] * 6 + ["deadline", "cancel"])
    timeout = rng.uniform(0.0005, 0.02) if fate == "deadline" else 60
    call = stub.ModelInfer(request, timeout=timeout)
    if fate == "cancel":
        asyncio.get_running_loop().call_later(rng.uniform(0, 0.02), call.cancel)
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    except asyncio.CancelledError:
        return "CANCELLED"
    np.testing.assert_allclose(scores(response), expected, rtol=1e-5)
    return "OK"


async def many_calls(url: str, images: Images, request_for: Request, seed: int) -> Counter[str]:
    rng = random.Random(seed)
    sums = images.mean(axis=(2, 3)).sum(axis=1)
    outcomes: Counter[str] = Counter()

    async def client(stub: Any) -> None:
        for _ in range(CALLS // AT_ONCE):
            rows = [rng.randrange(len(images)) for _ in range(rng.randint(1, 8))]
            request = request_for(rng.choice(["batched", "single"]), images[rows])
            outcomes[await one_call(stub, request, sums[rows].tolist(), rng)] += 1

    async with grpc.aio.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await asyncio.gather(*[client(stub) for _ in range(AT_ONCE)])
    return outcomes


@long
def test_clients_that_give_up(repository: Any, start: Any, images: Images, request_for: Request) -> None:
    with start(repository, threads=2, log_level="warning") as running:
        outcomes = asyncio.run(many_calls(running.url, images, request_for, seed=1))
        assert outcomes.keys() <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED"}, outcomes
        assert outcomes["OK"] >= CALLS / 2
        before = resident_mib(running)
        asyncio.run(many_calls(running.url, images, request_for, seed=2))
        assert resident_mib(running) < before + 64
        values = metrics(running)
        for name in ("penstock_running", "nv_inference_pending_request_count"):
            assert all(value == 0 for key, value in values.items() if key.startswith(name + "{"))
        assert running.stop() == 0
        assert running.log.read_text().count("\n") <= 1, "only the fallback to the CPU is worth a warning"
