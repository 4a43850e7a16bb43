"""The scheduler alone, with jobs that wait for the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from penstock.errors import UnavailableError
from penstock.service.scheduler import Scheduler


class Gate:
    """A job that notes that it ran, and ends when the gate is opened."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.opened = threading.Event()

    def job(self, number: int) -> int:
        self.ran.append(number)
        assert self.opened.wait(timeout=30)
        return number


@asynccontextmanager
async def scheduler(slots: int, max_queue: int) -> AsyncIterator[Scheduler]:
    made = Scheduler("tiny", slots, max_queue)
    try:
        yield made
    finally:
        made.close()


async def settle() -> None:
    """Let everything that can go on in the event loop go on."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_results_come_in_the_order_of_the_jobs() -> None:
    async def scenario() -> list[int]:
        async with scheduler(slots=3, max_queue=1) as made:
            return await made.run([lambda number=number: number for number in range(50)])  # type: ignore[misc]

    assert asyncio.run(scenario()) == list(range(50))


def test_requests_run_in_the_order_in_which_they_came() -> None:
    async def scenario(gate: Gate) -> None:
        async with scheduler(slots=1, max_queue=9) as made:
            calls = []
            for number in range(5):
                calls.append(asyncio.create_task(made.run([lambda number=number: gate.job(number)])))  # type: ignore[misc]
                await settle()
            assert (made.running, made.waiting) == (1, 4)
            gate.opened.set()
            await asyncio.gather(*calls)
            await settle()
            assert (made.running, made.waiting) == (0, 0)

    gate = Gate()
    asyncio.run(scenario(gate))
    assert gate.ran == [0, 1, 2, 3, 4]


def test_burst_fills_slots_and_queue_exactly() -> None:
    async def scenario(gate: Gate) -> list[object]:
        async with scheduler(slots=2, max_queue=3) as made:
            calls = [asyncio.create_task(made.run([lambda: gate.job(0)])) for _ in range(8)]
            await settle()
            gate.opened.set()
            return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(scenario(Gate()))
    assert [isinstance(result, UnavailableError) for result in results] == [False] * 5 + [True] * 3


def test_cancelled_while_waiting_never_runs() -> None:
    async def scenario(gate: Gate) -> None:
        async with scheduler(slots=1, max_queue=9) as made:
            first, second, third = (
                asyncio.create_task(made.run([lambda number=number: gate.job(number)]))  # type: ignore[misc]
                for number in range(3)
            )
            await settle()
            second.cancel()
            await settle()
            assert made.waiting == 1
            gate.opened.set()
            assert await first == [0]
            assert await third == [2]

    gate = Gate()
    asyncio.run(scenario(gate))
    assert gate.ran == [0, 2]


def test_cancelled_while_running_keeps_its_slot_until_the_thread_ends() -> None:
    async def scenario(gate: Gate) -> None:
        async with scheduler(slots=1, max_queue=9) as made:
            first = asyncio.create_task(made.run([lambda: gate.job(0), lambda: gate.job(1)]))
            await settle()
            first.cancel()
            await settle()
            assert first.cancelled()
            second = asyncio.create_task(made.run([lambda: gate.job(2)]))
            await settle()
            assert (made.running, made.waiting) == (1, 1)
            gate.opened.set()
            assert await second == [2]

    gate = Gate()
    asyncio.run(scenario(gate))
    assert gate.ran == [0, 2]


def test_failing_job_stops_its_siblings_and_frees_the_slots() -> None:
    ran = []

    def fail() -> None:
        raise ValueError("no such filter")

    async def scenario() -> None:
        async with scheduler(slots=1, max_queue=9) as made:
            with pytest.raises(ValueError, match="no such filter"):
                await made.run([fail, *[lambda: ran.append(1)] * 20])
            assert await made.run([lambda: 3]) == [3]
            assert (made.running, made.waiting) == (0, 0)

    asyncio.run(scenario())
    assert len(ran) <= 1
