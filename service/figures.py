"""Triton's figures of models: plain numbers while requests are answered, metrics when Prometheus asks.

A metric of Prometheus' library takes a lock and a look-up at every step, which together took a sixth of the time of a
small request. These figures change in one thread, the event loop's, and are read by another as they stand.

They are not `penstock.service.statistics`: those belong to a version as it was loaded, and begin anew with the next
load; metrics go on where a version takes another's place, as counters must.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from penstock.service.series import MODEL, Labels
from penstock.service.times import Times

_SPENT = "Microseconds of answered requests"


@dataclass
class Figures:
    """What one model version has done while it was shown.

    Attributes:
        success: requests answered.
        failures: requests failed, by reason.
        images: rows answered.
        runs: of the graph.
        ns: nanoseconds spent on answered requests, waiting included.
        queue_ns: those of them spent in the queue.
        input_ns: on laying inputs together.
        infer_ns: in the graph.
        output_ns: on taking outputs apart.
    """

    success: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    images: int = 0
    runs: int = 0
    ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    def answered(self, times: Times) -> None:
        """Count the rows of one answer, and the time of each phase."""
        self.images += times.rows
        self.queue_ns += times.queue_ns
        self.input_ns += times.input_ns
        self.infer_ns += times.infer_ns
        self.output_ns += times.output_ns


_METRICS: tuple[tuple[str, str, Callable[[Figures], float]], ...] = (
    ("request_success", "Requests answered", lambda of: of.success),
    ("count", "Images answered", lambda of: of.images),
    ("exec_count", "Runs of the graph", lambda of: of.runs),
    (
        "request_duration_us",
        "Microseconds spent on answered requests, waiting included",
        lambda of: of.ns / 1e3,
    ),
    ("queue_duration_us", f"{_SPENT} in the queue", lambda of: of.queue_ns / 1e3),
    ("compute_input_duration_us", f"{_SPENT} laying inputs together", lambda of: of.input_ns / 1e3),
    ("compute_infer_duration_us", f"{_SPENT} in the graph", lambda of: of.infer_ns / 1e3),
    ("compute_output_duration_us", f"{_SPENT} taking outputs apart", lambda of: of.output_ns / 1e3),
)


class ModelFigures(Collector):
    """The figures of all models that are shown, for a registry."""

    def __init__(self) -> None:
        self._of: dict[Labels, Figures] = {}

    def of(self, labels: Labels) -> Figures:
        """The figures of a model, which is shown from now on."""
        found = self._of.get(labels)
        if found is None:
            found = self._of[labels] = Figures()
        return found

    def remove_by_labels(self, labels: dict[str, str]) -> None:
        """Show a model no more."""
        self._of.pop((labels[MODEL[0]], labels[MODEL[1]]), None)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The names, for a registry that is asked for some of them."""
        return ModelFigures().collect()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures as they stand."""
        shown = dict(self._of)
        for name, text, value in _METRICS:
            family = GaugeMetricFamily(f"nv_inference_{name}", text, labels=MODEL)
            for labels, figures in shown.items():
                family.add_metric(labels, value(figures))
            yield family
        failures = GaugeMetricFamily(
            "nv_inference_request_failure", "Requests failed, by reason", labels=(*MODEL, "reason")
        )
        for labels, figures in shown.items():
            for reason, count in dict(figures.failures).items():
                failures.add_metric((*labels, reason), count)
        yield failures
