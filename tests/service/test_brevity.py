"""Which runs happen in the event loop, without a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from penstock.service.brevity import BRIEF_NS, CREDIT, Brevity
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


def test_trust_is_earned_by_brief_runs_of_the_same_shapes() -> None:
    known = Brevity()
    for _ in range(CREDIT):
        assert not known.expected("small")
        known.ran("small", BRIEF_NS)
    assert known.expected("small")
    assert not known.expected("other")
    known.ran("other", 100 * BRIEF_NS)
    assert known.expected("small"), "others' long runs say nothing of it"
    known.ran("small", BRIEF_NS + 1)
    assert not known.expected("small")


def test_a_few_longer_runs_among_brief_ones_cost_no_trust() -> None:
    known = Brevity()
    for number in range(100 * CREDIT):
        known.ran("x", 3 * BRIEF_NS if number % 10 == 5 else 1)
        assert known.expected("x") or number < 2 * CREDIT
    for _ in range(CREDIT + 1):
        known.ran("x", BRIEF_NS + 1)
    assert not known.expected("x"), "however long it was brief"


def test_a_graph_that_takes_long_for_some_images_is_not_trusted() -> None:
    known = Brevity()
    for number in range(100 * CREDIT):
        known.ran("x", 9 * BRIEF_NS if number % 10 == 5 else 1)
        assert not known.expected("x")


def test_whoever_betrays_trust_again_and_again_gets_it_ever_later() -> None:
    known, betrayals = Brevity(), 0
    for _ in range(100 * CREDIT):
        if known.expected("x"):
            known.ran("x", 1000 * BRIEF_NS)
            betrayals += 1
        known.ran("x", 1)
    assert 5 <= betrayals <= 7
    for _ in range(3):  # what takes long in a thread betrays nobody
        known.ran("y", 1000 * BRIEF_NS)
    fresh = Brevity()
    for _ in range(3):
        fresh.ran("y", 1000 * BRIEF_NS)
    for _ in range(CREDIT):
        fresh.ran("y", 1)
    assert fresh.expected("y")


def test_shapes_that_are_remembered_are_not_without_end() -> None:
    known = Brevity()
    for number in range(10_000):
        known.ran(number, 1)
    assert len(known._credits) < 1000
    for _ in range(CREDIT):
        known.ran("x", 1)
    assert known.expected("x")


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


def test_brief_run_needs_a_free_slot() -> None:
    async def scenario() -> None:
        scheduler, opened, order = scheduler_of([]), threading.Event(), list[str]()

        def take_long() -> None:
            assert opened.wait(30)
            order.append("long")

        long = asyncio.create_task(scheduler.run([Job(take_long, brief=False)]))
        await asyncio.sleep(0)
        brief = asyncio.create_task(scheduler.run([Job(lambda: order.append("brief"))]))
        await asyncio.sleep(0)
        assert (scheduler.running, scheduler.waiting) == (1, 1)
        opened.set()
        await asyncio.gather(long, brief)
        assert order == ["long", "brief"]
        scheduler.close()

    asyncio.run(scenario())


def test_brief_run_counts_as_running_and_none_begins_once_all_is_closed() -> None:
    async def scenario() -> None:
        scheduler = scheduler_of([])
        assert await thread_of(scheduler, Job(lambda: scheduler.running)) == 1
        assert scheduler.running == 0
        with pytest.raises(ZeroDivisionError):
            await scheduler.run([Job(lambda: 1 / 0)])
        assert scheduler.running == 0
        scheduler.close()
        with pytest.raises(RuntimeError, match="after shutdown"):
            await scheduler.run([Job()])

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
        run = runner_of(tmp_path, name, model)
        assert not run.brief(piece)
        for _ in range(50 * CREDIT):
            run([piece])
        assert run.brief(piece) is trusted


def test_long_run_that_fails_is_taken_note_of(tmp_path: Path) -> None:
    width = 2047  # odd, so that an odd number of rows is no two halves
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["y"]),
    ]
    weights = numpy_helper.from_array(np.ones((width, width), dtype=np.float32), "w")
    constants = [weights, numpy_helper.from_array(np.array([2, -1]), "shape")]
    run = runner_of(
        tmp_path, "halves", graph(nodes, {"x": (FLOAT, ["N", width])}, {"y": (FLOAT, [2, "M"])}, constants)
    )
    odd = Piece({"x": np.ones((7, width), dtype=np.float32)}, 7, ("y",))
    for _ in range(CREDIT):
        run._brevity.ran(((7, width),), 1)
    assert run.brief(odd)
    (outcome,) = run([odd])
    assert isinstance(outcome, Exception)
    assert not run.brief(odd)


def runner_of(folder: Path, name: str, model: onnx.ModelProto) -> Runner:
    file = add_model(folder, name, model) / "1" / "model.onnx"
    return Runner(Session(file, Device(CPU), threads=1), batched=True)
