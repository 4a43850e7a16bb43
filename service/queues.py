"""Requests that wait for a run, and which of them share one.

A request is one or more *pieces*, each of which one run can take: one, where the graph takes a batch; one per
image, where it does not. A run takes one piece, or several of the same kind if the model batches.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Generic, NamedTuple, Protocol, TypeVar

from penstock.service.queueing import Batching


class Piece(Protocol):
    """What one run can take."""

    @property
    def rows(self) -> int:
        """Size of its batch."""

    @property
    def kind(self) -> Hashable:
        """Pieces of the same kind can be run together."""


P = TypeVar("P", bound=Piece)
R = TypeVar("R")


class Ran(NamedTuple, Generic[R]):
    """How a piece was run.

    Attributes:
        result: of the piece.
        waited: seconds until its run began.
        held: those of them in which it could have run, and waited for company.
    """

    result: R
    waited: float
    held: float


@dataclass(eq=False)
class Request(Generic[R]):
    """One request from its arrival to its last result.

    Attributes:
        level: of its priority.
        future: what its caller waits for.
        results: of its pieces, in their order; ``None`` where there is none yet.
        arrived: when, of `time.perf_counter`.
        held: since when it waits for company; ``None`` if it never did.
        started: whether the first of its pieces has begun, or it waits no more for another reason.
        timer: ends its waiting.
    """

    level: int
    future: asyncio.Future[list[Ran[R]]]
    results: list[Ran[R] | None]
    arrived: float = field(default_factory=perf_counter)
    held: float | None = None
    started: bool = False
    timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Its waiting is over."""
        self.started = True
        if self.timer is not None:
            self.timer.cancel()

    def fail(self, error: BaseException) -> None:
        """Tell its caller, if that waits still."""
        if not self.future.done():
            self.future.set_exception(error)

    def give(self, index: int, ran: Ran[R]) -> None:
        """The result of one piece; the last one ends it."""
        self.results[index] = ran
        done = [result for result in self.results if result is not None]
        if len(done) == len(self.results) and not self.future.done():
            self.future.set_result(done)


@dataclass(eq=False)
class Entry(Generic[P, R]):
    """One piece that waits."""

    request: Request[R]
    index: int
    piece: P


class Queue(OrderedDict[Request[R], deque[Entry[P, R]]], Generic[P, R]):
    """Requests in their order, each with those of its pieces that have not begun."""

    def entries(self) -> Iterator[Entry[P, R]]:
        """The pieces in their order, but for those of requests that were refused or given up a moment ago."""
        for request, entries in self.items():
            if not request.future.done():
                yield from entries

    def take(self, batch: Iterable[Entry[P, R]]) -> None:
        """Remove pieces, of each request its first ones."""
        for entry in batch:
            entries = self[entry.request]
            entries.popleft()
            if not entries:
                del self[entry.request]


def gather(waiting: Iterator[Entry[P, R]], rules: Batching, now: float) -> tuple[list[Entry[P, R]], float]:
    """Those at the head of a queue that run together.

    Args:
        waiting: pieces in their order, at least one.
        rules: how many, and how long they wait for more.
        now: of `time.perf_counter`.

    Returns:
        The pieces, and the seconds that they had better wait for company; 0 to run at once.
    """
    batch = [next(waiting)]
    rows, kind = batch[0].piece.rows, batch[0].piece.kind
    best = int(rows in rules.preferred)
    full = False
    for entry in waiting:
        if rows + entry.piece.rows > rules.max_rows or entry.piece.kind != kind:
            full = True
            break
        batch.append(entry)
        rows += entry.piece.rows
        if rows in rules.preferred:
            best = len(batch)
    if best:
        return batch[:best], 0.0
    left = batch[0].request.arrived + rules.max_delay - now
    return batch, 0.0 if full or rows >= rules.max_rows else max(0.0, left)
