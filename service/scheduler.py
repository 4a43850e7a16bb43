"""How many runs of a model happen at once, and which request's turn it is.

Runs begin in the order of priority and then of arrival. A request that may not even wait is refused at once; one whose
caller gives up while it waits is dropped without running. A brief run that finds nothing before it happens where it is
asked for, without a thread.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Generic

from penstock.errors import OverloadedError, UnavailableError
from penstock.service.queueing import QUEUE_FULL, TOO_LATE, Waiting
from penstock.service.queues import Entry, P, Queue, R, Ran, Request, gather


class Scheduler(Generic[P, R]):
    """Bounded waiting in front of a bounded pool of threads; for one event loop.

    Args:
        name: model name, for messages and thread names.
        slots: runs at once.
        execute: runs pieces together, in a thread of the pool; results in their order, an exception for what failed.
        waiting: who waits how long, and who shares a run.
        ended: is told the results of every run, whether or not anyone still waits for them; by default nobody is.
        brief: tells of a piece whether running it takes no longer than handing it to a thread; by default none does.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        execute: Callable[[Sequence[P]], Sequence[R | Exception]],
        waiting: Waiting,
        ended: Callable[[Sequence[R]], None] = lambda results: None,
        brief: Callable[[P], bool] = lambda piece: False,
    ) -> None:
        self._name = name
        self._free = slots
        self._execute = execute
        self._rules = waiting
        self._ended = ended
        self._brief = brief
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix=name)
        # By level: those in time, in the order of arrival, and behind them those that are late.
        self._queues: dict[int, tuple[Queue[P, R], Queue[P, R]]] = {}
        self._waiting: dict[int, int] = {}
        self._running = 0
        self._closed = False
        self._wake: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()

    @property
    def running(self) -> int:
        """Runs in progress, those that nobody waits for any more included."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests none of whose pieces has begun."""
        return sum(self._waiting.values())

    async def run(self, pieces: Sequence[P], *, priority: int = 0, timeout: float = 0.0) -> list[Ran[R]]:
        """Run the pieces of one request, at least one.

        Args:
            pieces: what to run.
            priority: level, 1 first; 0 for the model's default.
            timeout: seconds that the request may wait, where the model lets a request say so; 0: as the model says.

        Returns:
            The results in the order of the pieces.

        Raises:
            OverloadedError: too many requests are waiting, or this one has waited too long.
        """
        if len(pieces) == 1 and self._runs_here(pieces[0]):
            return [self._run_here(pieces[0])]
        level = self._rules.level_of(priority)
        policy = self._rules.policy_of(level)
        waiting = self._waiting.setdefault(level, 0)
        if waiting >= policy.max_size:
            raise OverloadedError(
                f"{QUEUE_FULL}: {waiting} requests for model {self._name!r} are waiting; try again later"
            )
        loop = asyncio.get_running_loop()
        request: Request[R] = Request(level, loop.create_future(), [None] * len(pieces))
        in_time, _ = self._queues.setdefault(level, (Queue(), Queue()))
        in_time[request] = deque(Entry(request, index, piece) for index, piece in enumerate(pieces))
        self._waiting[level] += 1
        self._idle.clear()
        limit = policy.timeout_of(timeout)
        if limit:
            self._expire_at(request, request.arrived + limit, policy.delays_late)
        self._dispatch()
        try:
            return await request.future
        finally:
            if not request.started:
                self._waiting[level] -= 1
                request.start()
            for queue in self._queues[level]:  # what was refused or given up holds its tensors no longer
                queue.pop(request, None)
            self._settle()

    async def idle(self) -> None:
        """Wait until nothing runs or waits."""
        while self._running or self.waiting:
            self._idle.clear()
            await self._idle.wait()

    def close(self) -> None:
        """Take no more pieces; those that run are not waited for."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _runs_here(self, piece: P) -> bool:
        """Whether a piece that has just come is run at once by the loop."""
        batching = self._rules.batching
        in_company = batching is not None and batching.max_delay > 0
        free = self._free > 0 and not self.waiting and not self._closed
        return free and not in_company and self._brief(piece)

    def _run_here(self, piece: P) -> Ran[R]:
        self._running += 1
        try:
            (outcome,) = self._execute([piece])
        finally:
            self._running -= 1
        if isinstance(outcome, Exception):
            raise outcome
        self._ended([outcome])
        return Ran(outcome, waited=0.0, held=0.0)

    def _expire_at(self, request: Request[R], end: float, delays: bool) -> None:
        left = end - perf_counter()
        loop = asyncio.get_running_loop()
        request.timer = loop.call_later(_whole(left), self._expire, request, end, delays)

    def _expire(self, request: Request[R], end: float, delays: bool) -> None:
        if request.started or request.future.done():
            return
        if perf_counter() < end:  # timers of uvloop may fire a little early
            self._expire_at(request, end, delays)
            return
        if not delays:
            request.fail(OverloadedError(f"{TOO_LATE}: it waited too long for its turn"))
            return
        in_time, late = self._queues[request.level]
        late[request] = in_time.pop(request)

    def _dispatch(self) -> None:
        """Begin all runs that can begin now."""
        while self._free:
            batch = self._next_batch()
            if not batch:
                return
            self._start(batch)

    def _next_batch(self) -> list[Entry[P, R]]:
        """Take what runs next out of the queues; nothing if all that waits had better wait for company.

        What waits for company leaves the slot to those behind it, and goes first again when it has waited enough.
        """
        waits: list[float] = []
        for level in sorted(self._queues):
            for queue in self._queues[level]:
                first = next(queue.entries(), None)
                if first is None:
                    continue
                batch, seconds = self._together(queue, first)
                if not seconds:
                    queue.take(batch)
                    return batch
                waits.append(seconds)
        if waits:
            self._wake_in(min(waits))
        return []

    def _together(self, queue: Queue[P, R], first: Entry[P, R]) -> tuple[list[Entry[P, R]], float]:
        """Those at the head of a queue that run together, and the seconds that they had better wait for more."""
        rules = self._rules.batching
        if rules is None:
            return [first], 0.0
        now = perf_counter()
        batch, seconds = gather(queue.entries(), rules, now)
        if seconds:
            for entry in batch:
                if entry.request.held is None:
                    entry.request.held = now
        return batch, seconds

    def _wake_in(self, seconds: float) -> None:
        """Look again then, and not at the time that was set before: what waited so may have run."""
        if self._wake is not None:
            self._wake.cancel()
        self._wake = asyncio.get_running_loop().call_later(_whole(seconds), self._dispatch)

    def _start(self, batch: list[Entry[P, R]]) -> None:
        """Begin a run.

        A thread cannot be stopped: the slot stays taken until the run ends, whether or not anyone still waits.
        """
        for entry in batch:
            if not entry.request.started:
                self._waiting[entry.request.level] -= 1
                entry.request.start()
        self._free -= 1
        self._running += 1
        began = perf_counter()
        pieces = [entry.piece for entry in batch]
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._execute, pieces)
        running.add_done_callback(lambda ended: self._end(batch, began, ended))

    def _end(
        self, batch: list[Entry[P, R]], began: float, ended: asyncio.Future[Sequence[R | Exception]]
    ) -> None:
        self._free += 1
        self._running -= 1
        outcomes = self._outcomes(ended, len(batch))
        self._ended([outcome for outcome in outcomes if not isinstance(outcome, BaseException)])
        for entry, outcome in zip(batch, outcomes, strict=True):
            request = entry.request
            if isinstance(outcome, BaseException):
                request.fail(outcome)
            else:
                held = 0.0 if request.held is None else began - request.held
                request.give(entry.index, Ran(outcome, began - request.arrived, held))
        self._dispatch()
        self._settle()

    def _outcomes(
        self, ended: asyncio.Future[Sequence[R | Exception]], count: int
    ) -> Sequence[R | BaseException]:
        """What became of each piece of a run."""
        if ended.cancelled():
            return [UnavailableError(f"model {self._name!r} is being closed")] * count
        error = ended.exception()
        return ended.result() if error is None else [error] * count

    def _settle(self) -> None:
        if not self._running and not self.waiting:
            self._idle.set()


def _whole(seconds: float) -> float:
    """Up to the next millisecond, which is as fine as timers are: uvloop's would round to the nearest."""
    return math.ceil(seconds * 1000) / 1000
