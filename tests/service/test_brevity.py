"""Which runs happen in the event loop, without a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from penstock.service.brevity import BRIEF_NS, Brevity
from penstock.service.devices import CPU, Device
from penstock.service.queueing import Batching, QueuePolicy, Waiting
from penstock.service.runs import Piece, Runner
from penstock.service.scheduler import Scheduler
from penstock.service.session import Session
from tests.service.plain import FLOAT, add_model, graph, simple_string


class Job:
    """Notes the thread that does it."""

    rows, kind = 1, ""

    def __init__(self, call: Callable[[], Any] = threading.get_ident, *, brief: bool = True) -> None:
        self.call, self.brief = call, brief


def scheduler_of(ended: list[Any], batching: Batching | None = None, slots: int = 1) -> Scheduler[Job, Any]:
    def execute(jobs: Sequence[Job]) -> list[Any]:
        outcomes: list[Any] = []
        for job in jobs:
            try:
                outcomes.append(job.call())
            except Exception as error:
                outcomes.append(error)
        return outcomes

    waiting = Waiting(default=QueuePolicy(max_size=9), batching=batching)
    return Scheduler("tiny", slots, execute, waiting, ended.extend, lambda job: job.brief)


async def thread_of(scheduler: Scheduler[Job, Any], job: Job) -> Any:
    (ran,) = await scheduler.run([job])
    return ran.result


def test_trust_is_earned_and_a_hiccup_does_not_cost_it() -> None:
    known = Brevity()
    assert not known.expected(100)
    runs = 0
    while not known.expected(100):
        known.ran(100, BRIEF_NS // 10)
        runs += 1
    assert 16 < runs < 64
    for _ in range(16):
        known.ran(100, BRIEF_NS // 10)
    known.ran(100, 4 * BRIEF_NS)
    assert known.expected(100)
    known.ran(100, 100 * BRIEF_NS)
    assert not known.expected(100)


def test_runs_of_other_sizes_say_nothing() -> None:
    known = Brevity()
    for _ in range(100):
        known.ran(1000, 1000)
        known.ran(64_000, 10 * BRIEF_NS)
    assert known.expected(1000)
    assert known.expected(1023)
    assert not known.expected(64_000)
    assert not known.expected(2000)
    assert not known.expected(0)


def test_brief_run_is_done_by_the_loop_and_told_of() -> None:
    async def scenario() -> None:
        ended: list[Any] = []
        scheduler = scheduler_of(ended)
        here = threading.get_ident()
        assert await thread_of(scheduler, Job()) == here
        assert await thread_of(scheduler, Job(brief=False)) != here
        assert len(ended) == 2
        (ran,) = await scheduler.run([Job()])
        assert (ran.waited, ran.held) == (0, 0)
        with pytest.raises(ZeroDivisionError):
            await scheduler.run([Job(lambda: 1 / 0)])
        assert len(ended) == 3
        await scheduler.idle()
        scheduler.close()

    asyncio.run(scenario())


def test_brief_run_overtakes_nobody() -> None:
    async def scenario() -> None:
        scheduler, opened, order = scheduler_of([]), threading.Event(), list[str]()

        def take_long() -> None:
            assert opened.wait(30)
            order.append("long")

        long = asyncio.create_task(scheduler.run([Job(take_long, brief=False)]))
        await asyncio.sleep(0)
        waits = asyncio.create_task(scheduler.run([Job(lambda: order.append("waits"), brief=False)]))
        await asyncio.sleep(0)
        brief = asyncio.create_task(scheduler.run([Job(lambda: order.append("brief"))]))
        await asyncio.sleep(0)
        assert scheduler.waiting == 2
        opened.set()
        await asyncio.gather(long, waits, brief)
        assert order == ["long", "waits", "brief"]
        scheduler.close()

    asyncio.run(scenario())


def test_brief_run_waits_for_company_where_the_model_says_so() -> None:
    async def scenario() -> None:
        here = threading.get_ident()
        at_once = scheduler_of([], Batching(max_rows=4))
        assert await thread_of(at_once, Job()) == here
        later = scheduler_of([], Batching(max_rows=4, max_delay=0.05))
        first, second = await asyncio.gather(thread_of(later, Job()), thread_of(later, Job()))
        assert first == second != here
        for scheduler in (at_once, later):
            scheduler.close()

    asyncio.run(scenario())


def test_small_graph_earns_trust_and_one_of_texts_never_does(tmp_path: Path) -> None:
    double = graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], {"x": (FLOAT, ["N", 2])}, {"y": (FLOAT, ["N", 2])}
    )
    numbers = Piece({"x": np.ones((1, 2), dtype=np.float32)}, 1, ("y",))
    texts = Piece({f"INPUT{n}": np.full((1, 16), "1", dtype=np.object_) for n in (0, 1)}, 1, ("OUTPUT0",))
    for name, model, piece, trusted in (("n", double, numbers, True), ("t", simple_string(), texts, False)):
        file = add_model(tmp_path, name, model) / "1" / "model.onnx"
        run = Runner(Session(file, Device(CPU), threads=1), batched=True)
        assert not run.brief(piece)
        for _ in range(2000):
            run([piece])
        assert run.brief(piece) is trusted
