"""The scheduler alone, with jobs that wait for the test."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from penstock.errors import OverloadedError, UnavailableError
from penstock.service.loops import loop_factory
from penstock.service.queueing import Batching, QueuePolicy, Waiting
from penstock.service.queues import Entry, Request, gather
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


class Job:
    """A piece of work that calls something; of a kind and a size."""

    def __init__(self, call: Callable[[], Any], rows: int = 1, kind: str = "") -> None:
        self.call, self.rows, self.kind = call, rows, kind


class Plain:
    """A scheduler of jobs without what tells how they were run."""

    def __init__(self, waiting: Waiting, slots: int) -> None:
        self.batches: list[int] = []
        self.ended: list[list[Any]] = []
        self.made: Scheduler[Job, Any] = Scheduler(
            "tiny", slots, self._execute, waiting, lambda results: self.ended.append([*results])
        )

    def _execute(self, jobs: Sequence[Job]) -> list[Any]:
        self.batches.append(len(jobs))
        return [job.call() for job in jobs]

    @property
    def running(self) -> int:
        return self.made.running

    @property
    def waiting(self) -> int:
        return self.made.waiting

    async def run(self, calls: Sequence[Callable[[], Any] | Job], **how: Any) -> list[Any]:
        jobs = [call if isinstance(call, Job) else Job(call) for call in calls]
        return [ran.result for ran in await self.made.run(jobs, **how)]


@asynccontextmanager
async def scheduler(slots: int, max_queue: int, **rules: Any) -> AsyncIterator[Plain]:
    policy = rules.pop("policy", QueuePolicy(max_size=max_queue))
    plain = Plain(Waiting(default=policy, **rules), slots)
    made = plain
    try:
        yield made
    finally:
        made.made.close()


async def settle() -> None:
    """Let everything that can go on in the event loop go on."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_results_come_in_the_order_of_the_jobs() -> None:
    async def scenario() -> list[int]:
        async with scheduler(slots=3, max_queue=1) as made:
            return await made.run([lambda number=number: number for number in range(50)])  # type: ignore[misc]

    assert asyncio.run(scenario()) == list(range(50))


def test_run_is_told_of_although_its_first_request_was_given_up() -> None:
    async def scenario(gate: Gate) -> tuple[list[int], list[list[Any]]]:
        async with scheduler(slots=1, max_queue=9, batching=Batching(max_rows=4, max_delay=30)) as made:
            calls = [
                asyncio.create_task(made.run([lambda number=number: gate.job(number)]))  # type: ignore[misc]
                for number in range(4)
            ]
            await settle()
            calls[0].cancel()
            await settle()
            gate.opened.set()
            answers = await asyncio.gather(*calls[1:])
            with pytest.raises(ZeroDivisionError):
                await made.run([Job(lambda: 1 / 0, rows=4)])
            return [number for (number,) in answers], made.ended

    assert asyncio.run(scenario(Gate())) == ([1, 2, 3], [[0, 1, 2, 3], []])


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
    async def scenario(gate: Gate) -> list[Any]:
        async with scheduler(slots=2, max_queue=3) as made:
            calls = [asyncio.create_task(made.run([lambda: gate.job(0)])) for _ in range(8)]
            await settle()
            gate.opened.set()
            return list(await asyncio.gather(*calls, return_exceptions=True))

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


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_what_is_given_up_or_refused_is_not_held_in_the_queue(timeout: float) -> None:
    """While a run takes long and a level above waits, nothing looks at the head of the queue."""

    async def ask_and_give_up(made: Plain) -> list[weakref.ref[Job]]:
        jobs = [Job(lambda: 2) for _ in range(4)]
        calls = [asyncio.create_task(made.run([job], timeout=timeout)) for job in jobs]
        await settle()
        await asyncio.sleep(5 * timeout)
        for call in calls:
            call.cancel()  # without effect where it was refused
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, UnavailableError if timeout else asyncio.CancelledError)
        return [weakref.ref(job) for job in jobs]

    async def scenario(gate: Gate) -> None:
        policy = QueuePolicy(max_size=4, allows_override=True)
        async with scheduler(slots=1, max_queue=4, policy=policy, levels=2, default_level=2) as made:
            running = asyncio.create_task(made.run([lambda: gate.job(0)]))
            above = asyncio.create_task(made.run([lambda: gate.job(1)], priority=1))
            await settle()
            held = [await ask_and_give_up(made) for _ in range(5)]
            gc.collect()
            *earlier, _ = held  # the last round may live on in the traceback of the last error
            assert [job for jobs in earlier for job in jobs if job() is not None] == []
            assert made.waiting == 1
            gate.opened.set()
            assert [await running, await above] == [[0], [1]]

    asyncio.run(scenario(Gate()))


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


def test_requests_that_waited_together_run_together() -> None:
    async def scenario(gate: Gate) -> list[int]:
        async with scheduler(slots=1, max_queue=99, batching=Batching(max_rows=4)) as made:
            first = asyncio.create_task(made.run([lambda: gate.job(0)]))
            await settle()
            jobs = [
                Job(lambda: 1),
                Job(lambda: 2, rows=2),
                Job(lambda: 3, rows=2),
                Job(lambda: 4, kind="other"),
            ]
            others = [asyncio.create_task(made.run([job])) for job in jobs]
            await settle()
            gate.opened.set()
            assert await first == [0]
            assert await asyncio.gather(*others) == [[1], [2], [3], [4]]
            return made.batches

    assert asyncio.run(scenario(Gate())) == [1, 2, 1, 1]


def test_failure_of_one_piece_is_that_of_its_request_alone() -> None:
    async def scenario(gate: Gate) -> list[Any]:
        async with scheduler(slots=1, max_queue=99, batching=Batching(max_rows=4)) as made:
            first = asyncio.create_task(made.run([lambda: gate.job(0)]))
            await settle()
            outcomes = (1, ValueError("no such filter"), 3)
            others = [asyncio.create_task(made.run([lambda each=each: each])) for each in outcomes]  # type: ignore[misc]
            await settle()
            gate.opened.set()
            await first
            answers = await asyncio.gather(*others, return_exceptions=True)
            assert made.batches == [1, 3]
            return answers

    one, failed, three = asyncio.run(scenario(Gate()))
    assert (one, three) == ([1], [3])
    assert isinstance(failed, ValueError)


def test_small_batch_waits_for_company_but_not_for_long() -> None:
    async def scenario() -> list[int]:
        rules = Batching(max_rows=8, preferred=(2,), max_delay=0.2)
        async with scheduler(slots=1, max_queue=99, batching=rules) as made:
            began = time.perf_counter()
            await asyncio.gather(*[made.run([lambda: 1]) for _ in range(2)])
            assert time.perf_counter() - began < 0.15, "the preferred size is not to wait"
            began = time.perf_counter()
            await made.run([lambda: 1])
            assert time.perf_counter() - began >= 0.19
            return made.batches

    assert asyncio.run(scenario()) == [2, 1]


def test_batch_that_is_ready_waits_for_no_company_of_a_level_above() -> None:
    async def scenario() -> list[int]:
        rules = Batching(max_rows=2, max_delay=30)
        async with scheduler(slots=1, max_queue=9, levels=2, default_level=2, batching=rules) as made:
            above = asyncio.create_task(made.run([lambda: 1], priority=1))
            await settle()
            below = [made.run([lambda: 2]) for _ in range(2)]
            assert await asyncio.wait_for(asyncio.gather(*below), 20) == [[2], [2]]
            assert not above.done()
            assert await made.run([lambda: 3], priority=1) == [3]
            assert await above == [1]
            return made.batches

    assert asyncio.run(scenario()) == [2, 2]


def test_level_that_waited_for_company_goes_first_once_it_is_ready() -> None:
    async def scenario(gate: Gate) -> None:
        rules = Batching(max_rows=2, max_delay=30)
        async with scheduler(slots=1, max_queue=9, levels=2, default_level=2, batching=rules) as made:
            calls = []
            for number, priority in ((1, 1), (2, 2), (2, 2), (3, 2), (3, 2), (1, 1)):
                calls.append(asyncio.create_task(made.run([partial(gate.job, number)], priority=priority)))
                await settle()
            assert (made.running, made.waiting) == (1, 4)
            gate.opened.set()
            await asyncio.gather(*calls)

    gate = Gate()
    asyncio.run(scenario(gate))
    assert gate.ran == [2, 2, 1, 1, 3, 3]


def test_level_waits_no_longer_because_one_below_waits_too() -> None:
    async def scenario() -> list[int]:
        rules = Batching(max_rows=8, max_delay=1)
        async with scheduler(slots=1, max_queue=9, levels=2, default_level=2, batching=rules) as made:
            began = time.perf_counter()
            above = asyncio.create_task(made.run([lambda: 1], priority=1))
            await asyncio.sleep(0.6)
            below = asyncio.create_task(made.run([lambda: 2]))
            await above
            assert 0.95 < time.perf_counter() - began < 1.4
            await below
            return made.batches

    assert asyncio.run(scenario()) == [1, 1]


def test_priority_overtakes_and_a_late_request_falls_back_or_is_refused() -> None:
    async def scenario(gate: Gate, policy: QueuePolicy) -> list[Any]:
        async with scheduler(slots=1, max_queue=9, policy=policy, levels=2, default_level=2) as made:
            first = asyncio.create_task(made.run([lambda: gate.job(0)]))
            await settle()
            asked: list[dict[str, Any]] = [{"timeout": 0.01}, {"priority": 7}, {"priority": 1}]
            calls = [
                asyncio.create_task(made.run([lambda number=number: gate.job(number)], **how))  # type: ignore[misc]
                for number, how in enumerate(asked, 1)
            ]
            await asyncio.sleep(0.1)
            gate.opened.set()
            await first
            return list(await asyncio.gather(*calls, return_exceptions=True))

    refusing, delaying = (
        QueuePolicy(max_size=9, allows_override=True, delays_late=late) for late in (False, True)
    )
    gate = Gate()
    late, *others = asyncio.run(scenario(gate, refusing))
    assert isinstance(late, UnavailableError)
    assert "Request timeout expired" in str(late)
    assert (others, gate.ran) == ([[2], [3]], [0, 3, 2])
    gate = Gate()
    assert asyncio.run(scenario(gate, delaying)) == [[1], [2], [3]]
    assert gate.ran == [0, 3, 2, 1]


def test_idle_comes_when_nothing_runs_or_waits() -> None:
    async def scenario(gate: Gate) -> None:
        async with scheduler(slots=1, max_queue=9) as made:
            await made.made.idle()
            calls = [asyncio.create_task(made.run([lambda: gate.job(0)])) for _ in range(2)]
            await settle()
            idle = asyncio.create_task(made.made.idle())
            await settle()
            assert not idle.done()
            gate.opened.set()
            await asyncio.gather(*calls)
            await asyncio.wait_for(idle, 10)

    asyncio.run(scenario(Gate()))


@pytest.mark.parametrize(
    ("sizes", "kinds", "arrived", "together", "wait"),
    [
        ([1], "a", 9.5, 1, 1.5),
        ([1], "a", 7.0, 1, 0),  # has waited long enough
        ([1, 1, 1], "aaa", 9.5, 2, 0),  # two are preferred
        ([1, 3], "aa", 9.5, 2, 0),  # full
        ([1, 4], "aa", 9.5, 1, 0),  # the next does not fit in
        ([3, 1], "ab", 9.5, 1, 0),  # nor does this
        ([1, 2], "aa", 9.5, 2, 1.5),
    ],
)
def test_who_shares_a_run_and_how_long_it_waits_for_more(
    sizes: list[int], kinds: str, arrived: float, together: int, wait: float
) -> None:
    async def scenario() -> tuple[list[Any], float]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        request: Request[Any] = Request(0, future, [None] * len(sizes), arrived=arrived)
        jobs = [Job(int, rows, kind) for rows, kind in zip(sizes, kinds, strict=True)]
        entries = [Entry(request, index, job) for index, job in enumerate(jobs)]
        return gather(iter(entries), Batching(max_rows=4, preferred=(2,), max_delay=2), now=10)

    batch, seconds = asyncio.run(scenario())
    assert [entry.index for entry in batch] == [*range(together)]
    assert seconds == wait


def test_nobody_is_refused_before_the_time_is_up() -> None:
    async def scenario(gate: Gate, timeout: float) -> None:
        policy = QueuePolicy(max_size=9, timeout=timeout)
        async with scheduler(slots=1, max_queue=9, policy=policy) as made:
            running = asyncio.create_task(made.run([lambda: gate.job(0)]))
            await settle()
            for _ in range(20):
                begin = time.perf_counter()
                with pytest.raises(OverloadedError):
                    await made.run([lambda: gate.job(1)])
                assert time.perf_counter() - begin >= timeout
            gate.opened.set()
            await running

    for timeout in (0.0001, 0.0006, 0.0014, 0.0026):
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(scenario(Gate(), timeout))
