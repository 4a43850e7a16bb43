"""How many runs of a model happen at once, and how many requests may wait.

A request is one or more *jobs*: one, where the graph takes a batch; one per image, where it does not. Each
job takes a slot while it runs, first come, first served. A request that may not even wait is refused at once;
one whose caller gives up while it waits is dropped without running.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from penstock.errors import UnavailableError

T = TypeVar("T")


class Scheduler:
    """Bounded waiting in front of a bounded pool of threads; for one event loop.

    Args:
        name: model name, for messages and thread names.
        slots: jobs that run at once.
        max_queue: requests that may wait.
    """

    def __init__(self, name: str, slots: int, max_queue: int) -> None:
        self._name = name
        self._max_queue = max_queue
        self._slots = asyncio.Semaphore(slots)
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix=name)
        self._waiting = 0
        self._running = 0

    @property
    def running(self) -> int:
        """Jobs in progress, those that nobody waits for any more included."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests none of whose jobs has begun."""
        return self._waiting

    async def run(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run the jobs of one request, at least one.

        Returns:
            The results in the order of the jobs.

        Raises:
            UnavailableError: too many requests are waiting.
        """
        await self._take_first_slot()
        first = self._start(jobs[0])
        try:
            async with asyncio.TaskGroup() as group:
                rest = [group.create_task(self._run(job)) for job in jobs[1:]]
                await asyncio.shield(first)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the group only adds that the others were stopped
        return [first.result(), *(task.result() for task in rest)]

    def close(self) -> None:
        """Take no more jobs; those that run are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _take_first_slot(self) -> None:
        if self._slots.locked() and self._waiting >= self._max_queue:
            raise UnavailableError(
                f"Exceeds maximum queue size: {self._waiting} requests for model {self._name!r} are waiting; "
                "try again later"
            )
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    async def _run(self, job: Callable[[], T]) -> T:
        await self._slots.acquire()
        return await asyncio.shield(self._start(job))

    def _start(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Start a job whose slot is taken.

        A thread cannot be stopped: the slot stays taken until the job ends, whether or not anyone still waits
        for it. Awaiting the future therefore needs a shield.
        """
        running = asyncio.get_running_loop().run_in_executor(self._pool, job)
        self._running += 1
        running.add_done_callback(self._free_slot)
        return running

    def _free_slot(self, ended: asyncio.Future[T]) -> None:
        self._running -= 1
        self._slots.release()
        if not ended.cancelled():
            ended.exception()  # seen, so that asyncio does not report it when the caller has gone
