"""How long a request took in the queue and in its runs: worked out once for statistics, metrics and traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from penstock.service.queues import Ran
from penstock.service.runs import Run


class Times(NamedTuple):
    """Of one request, whose pieces may have run side by side: the times of its runs add up all the same.

    Attributes:
        arrived_ns: when it began to wait, of `time.perf_counter_ns`.
        rows: size of its batch.
        runs: what each of its pieces was given, in their order.
        queue_ns: nanoseconds until the first of its pieces began to run; the others may wait while it runs.
        held_ns: those of them in which it could have run, and waited for company.
        input_ns: spent on laying inputs together.
        infer_ns: on the graph.
        output_ns: on taking outputs apart.
    """

    arrived_ns: int
    rows: int
    runs: tuple[Run, ...]
    queue_ns: int
    held_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int

    @classmethod
    def of(cls, arrived_ns: int, rows: int, parts: Sequence[Ran[Run]]) -> Times:
        """The times of a request with these pieces."""
        first = parts[0]
        input_ns = infer_ns = output_ns = 0
        for part in parts:
            if part.waited < first.waited:
                first = part
            input_ns += part.result.input_ns
            infer_ns += part.result.infer_ns
            output_ns += part.result.output_ns
        return cls(
            arrived_ns=arrived_ns,
            rows=rows,
            runs=tuple([part.result for part in parts]),
            queue_ns=_nanoseconds(first.waited),
            held_ns=_nanoseconds(first.held),
            input_ns=input_ns,
            infer_ns=infer_ns,
            output_ns=output_ns,
        )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
