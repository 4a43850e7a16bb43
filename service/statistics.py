"""What one model version has done since it was loaded, as ``ModelStatistics`` tells it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from penstock.service.runs import Run
from penstock.service.times import Times


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

    def add(self, spent: Run | Times) -> None:
        """Count one run or one request."""
        self.input.add(spent.input_ns)
        self.infer.add(spent.infer_ns)
        self.output.add(spent.output_ns)


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
        self._watcher: Callable[[int], None] = lambda count: None

    def watch(self, ran: Callable[[int], None]) -> None:
        """From now on, and instead of whom there was before, tell of runs how many ended."""
        self._watcher = ran

    def ran(self, results: Sequence[Run]) -> None:
        """Count runs by what they gave all their pieces, whatever becomes of the requests."""
        runs = [run for run in results if run.first]
        for run in runs:
            self.batches[run.rows].add(run)
        self.runs += len(runs)
        self._watcher(len(runs))

    def answered(self, times: Times) -> None:
        """Count what the answer to one request took."""
        self.rows += times.rows
        self.queue.add(times.queue_ns)
        self.phases.add(times)
