"""What one model version has done since it was loaded, as ``ModelStatistics`` tells it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from penstock.service.runs import Run
from penstock.service.scheduler import Ran


@dataclass
class Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count it."""
        self.count += count
        self.ns += ns


@dataclass
class Phases:
    """The times of runs, or of the requests in them."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def add(self, runs: Sequence[Run]) -> None:
        """Count one request or one run; its pieces may have run side by side, and then the times add up."""
        self.input.add(sum(run.input_ns for run in runs))
        self.infer.add(sum(run.infer_ns for run in runs))
        self.output.add(sum(run.output_ns for run in runs))


class Statistics:
    """Counts of requests, rows and runs, and the times of their phases.

    Attributes:
        success: requests that were answered, from their arrival to their answer.
        failure: requests that were not.
        queue: waiting of answered requests.
        phases: of answered requests.
        rows: that were answered.
        runs: of the graph.
        batches: phases of runs by size of the batch.
        last_ms: when the last request came, milliseconds since the epoch.
    """

    def __init__(self) -> None:
        self.success, self.failure, self.queue = Duration(), Duration(), Duration()
        self.phases = Phases()
        self.rows = 0
        self.runs = 0
        self.batches: dict[int, Phases] = defaultdict(Phases)
        self.last_ms = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one request and how it ended, around the block that serves it."""
        self.last_ms = time.time_ns() // 1_000_000
        begin = time.perf_counter_ns()
        try:
            yield
        except BaseException:
            self.failure.add(time.perf_counter_ns() - begin)
            raise
        self.success.add(time.perf_counter_ns() - begin)

    def answered(self, rows: int, parts: Sequence[Ran[Run]]) -> None:
        """Count what the pieces of one request took."""
        self.rows += rows
        self.queue.add(round(max(part.waited for part in parts) * 1e9))
        self.phases.add([part.result for part in parts])
        for part in parts:
            if part.result.first:
                self.runs += 1
                self.batches[part.result.rows].add([part.result])
