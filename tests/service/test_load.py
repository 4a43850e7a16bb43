"""Long load: a soak at 80 % of what the server can do, and five times as much as it can."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from flood import flood
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.service.line_limit import LINES
from tests.service.bundles import add_bundle
from tests.service.scale import FULL, Record, long, scaled
from tests.service.test_stress import Questions, metrics, one_call, resident_mib, told

Images = npt.NDArray[np.float32]
Request = Callable[..., service_pb2.ModelInferRequest]
Send = Callable[[], Any]

SOAK_SECONDS = scaled(1800, 60)
WARM_UP_SECONDS = scaled(120, 14)
GROWTH = 1.03  # of memory after warming up, beside what gRPC loses
LOST = 64  # bytes of a call that its client gives up: https://github.com/grpc/grpc/issues/43360
OVERLOAD_SECONDS = scaled(60, 3)
LONG = 0.012  # pixel of the slow model in the soak: requests for it wait for each other, and share runs
UNDER_WAY = 64  # in the soak: fewer than may wait
QUEUE = 16
SHAPE = (3, 32, 32)  # of what is sent when there is too much of it
PIXEL = 0.02  # of the slow model: a run takes some milliseconds, so that a generator in Python can outdo it

pytestmark = pytest.mark.alone


async def closed_loop(send: Send, seconds: float, at_once: int) -> float:
    """Requests per second of ``at_once`` clients that ask one after the other."""
    end = time.monotonic() + seconds
    count = 0

    async def client() -> None:
        nonlocal count
        while time.monotonic() < end:
            await send()
            count += 1

    await asyncio.gather(*(client() for _ in range(at_once)))
    return count / seconds


async def open_loop(send: Send, seconds: float, rate: float, under_way: float = math.inf) -> None:
    """Send at a rate, whether or not there were answers; then wait for them all.

    With ``under_way``, a request more than that many is not sent until there is an answer: where the machine falls
    behind for a while, because others use it, that is no overload.
    """
    begin = time.monotonic()
    tasks: set[asyncio.Task[Any]] = set()
    sent = 0
    failures: list[BaseException] = []

    def finished(task: asyncio.Task[Any]) -> None:
        tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            failures.append(task.exception() or RuntimeError())

    while (now := time.monotonic() - begin) < seconds and not failures:
        for _ in range(int(now * rate) - sent):
            if len(tasks) >= under_way:
                sent = int(now * rate)
                break
            task = asyncio.create_task(send())
            tasks.add(task)
            task.add_done_callback(finished)
            sent += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks, return_exceptions=True)
    if failures:
        raise failures[0]


def malformed(request: service_pb2.ModelInferRequest, rng: random.Random) -> service_pb2.ModelInferRequest:
    """A request that cannot be right."""
    match rng.randrange(4):
        case 0:
            request.inputs[0].shape[1] = 4
        case 1:
            request.raw_input_contents[0] = request.raw_input_contents[0][:-1]
        case 2:
            request.inputs[0].datatype = "INT8"
        case _:
            request.inputs[0].name = "image"
    return request


class Soak:
    """Valid requests, of which some are given up, and malformed ones."""

    def __init__(self, stub: Any, images: Images, request_for: Request) -> None:
        self.outcomes: Counter[str] = Counter()
        self._stub, self._images, self._request_for = stub, images, request_for
        self._questions = Questions(images, request_for, seed=0, pixel=LONG)
        self._rng = random.Random(0)

    @property
    def given_up(self) -> int:
        """Calls that had no answer because their client did not wait for it."""
        return self.outcomes["CANCELLED"] + self.outcomes["DEADLINE_EXCEEDED"]

    async def valid(self) -> None:
        self.outcomes[await one_call(self._stub, self._questions.any(), self._rng)] += 1

    async def mixed(self) -> None:
        if self._rng.random() < 0.9:
            await self.valid()
            return
        request = malformed(self._request_for("batched", self._images), self._rng)
        try:
            await self._stub.ModelInfer(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            self.outcomes[f"malformed: {error.code().name}"] += 1
        else:
            self.outcomes["malformed: OK"] += 1


@long
def test_soak(
    repository: Any, start: Any, images: Images, request_for: Request, record_property: Record
) -> None:
    async def scenario(running: Any) -> tuple[Soak, float, float, int]:
        async with grpc.aio.insecure_channel(running.url) as channel:
            soak = Soak(service_pb2_grpc.GRPCInferenceServiceStub(channel), images, request_for)
            rate = 0.8 * await closed_loop(soak.mixed, scaled(10, 2), at_once=8)
            # The busiest moment that there can be, too: memory that it takes is none that the soak adds.
            await closed_loop(soak.mixed, 0.75 * WARM_UP_SECONDS, at_once=UNDER_WAY)
            await open_loop(soak.mixed, 0.25 * WARM_UP_SECONDS, rate, UNDER_WAY)
            before, given_up = await asyncio.to_thread(resident_mib, running), soak.given_up
            await open_loop(soak.mixed, SOAK_SECONDS, rate, UNDER_WAY)
            after = await asyncio.to_thread(resident_mib, running)
            return soak, before, after, soak.given_up - given_up

    with start(repository, threads=1, log_level="error") as running:
        soak, before, after, given_up = asyncio.run(scenario(running))
        outcomes = soak.outcomes
        record_property("minutes at 80 %", SOAK_SECONDS / 60)
        record_property("requests by outcome", told(outcomes))
        record_property("memory after / before", f"{after / before:.3f}")
        record_property("MiB grown by, and calls given up meanwhile", f"{after - before:.1f}, {given_up:,}")
        allowed = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "malformed: INVALID_ARGUMENT"}
        assert outcomes.keys() == allowed, outcomes
        assert outcomes["OK"] > outcomes.total() / 2, outcomes
        assert after - LOST * given_up / 2**20 < GROWTH * before, (before, after, given_up)
        values = metrics(running)
        for name in ("penstock_running", "nv_inference_pending_request_count"):
            assert all(value == 0 for key, value in values.items() if key.startswith(name + "{"))
        runs, answers = (
            values[f'nv_inference_{name}{{model="slow",version="1"}}']
            for name in ("exec_count", "request_success")
        )
        record_property("answers per run of the slow model", f"{answers / runs:.2f}")
        assert runs < answers, "requests shared runs"
        assert running.stop() == 0
        assert not running.log.read_text()


@pytest.fixture
def cores() -> Iterator[tuple[set[int], set[int]]]:
    """Those of the server and those of the load, which has one of its own where there are two."""
    found = sorted(os.sched_getaffinity(0))
    yield set(found[1:] or found), set(found[:1])
    os.sched_setaffinity(0, found)


@long
def test_overload(
    tmp_path: Path,
    start: Any,
    request_for: Request,
    cores: tuple[set[int], set[int]],
    record_property: Record,
) -> None:
    """The queue is full all the time: who is accepted waits no longer than it is deep, and the rest hear so at once.

    The full form judges the times too, which takes a core for the server and one for the load. `flood` says what is in
    them of the client: of refusals the largest is judged where nothing but the load runs beside, in ``benchmarks``.
    """
    add_bundle(tmp_path / "models", "slow", single=True, work="slow", shape=SHAPE)
    image = np.zeros((1, *SHAPE), np.float32)
    image[0, 0, 0, 0] = PIXEL
    request = request_for("slow", image)

    async def capacity_of(running: Any) -> float:
        async with grpc.aio.insecure_channel(running.url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return await closed_loop(lambda: stub.ModelInfer(request, timeout=60), scaled(5, 1.5), at_once=4)

    os.sched_setaffinity(0, cores[0])  # a process that is started inherits it
    with start(tmp_path / "models", threads=1, max_queue=QUEUE) as running:
        os.sched_setaffinity(0, cores[1])
        capacity = asyncio.run(capacity_of(running))
        flood(running.url, request, scaled(10, 1), 5 * capacity)
        before = resident_mib(running)
        times = flood(running.url, request, OVERLOAD_SECONDS, 5 * capacity).times
        growth = resident_mib(running) / before
        with grpc.insecure_channel(running.url) as channel:
            begin = time.perf_counter()
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
            assert time.perf_counter() - begin < max(1.0, 5 / capacity), "recovers at once"
        assert running.stop() == 0
        lines = running.log.read_text().count(" refused with ")
    refusal = next((outcome for outcome in times if outcome != "OK"), "")
    assert times.keys() == {"OK", refusal}, times.keys()
    assert refusal.startswith("UNAVAILABLE: ")
    assert "Exceeds maximum queue size" in refusal
    accepted, refused = (len(times[outcome]) for outcome in ("OK", refusal))
    longest = (QUEUE + 1) / capacity
    record_property("accepted", f"{accepted:,}")
    record_property("refused", f"{refused:,}")
    record_property("p99 of the accepted / full queue", f"{np.percentile(times['OK'], 99) / longest:.2f}")
    record_property("p99 of refusals, ms", f"{1000 * np.percentile(times[refusal], 99):.1f}")
    record_property("memory after / before", f"{growth:.3f}")
    assert refused > accepted, (accepted, refused)
    assert accepted > 0.5 * capacity * OVERLOAD_SECONDS, "overload does not eat up what the server can do"
    assert growth < scaled(1.03, 1.10)
    assert 0 < lines <= LINES * (OVERLOAD_SECONDS + 30), "the log is no bottleneck"
    if FULL:
        assert np.percentile(times["OK"], 99) < 2 * longest
        assert np.percentile(times[refusal], 99) < 0.05
