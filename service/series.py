"""Which models the metrics show: those that are served, and of the others those that still answer a request.

Prometheus' library keeps a series for as long as the process lives. Where versions come and go, that is a page that
grows for ever, and because the gauges of a queue ask its scheduler, every session that was ever loaded would stay in
memory. So the series of a version go with it, as Triton's do: after its last request, lest that bring them back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol, TypeVar

MODEL = ("model", "version")
"""The first labels of a metric that has series by model."""

Labels = tuple[str, str]
"""Their values."""


class ByModel(Protocol):
    """What has series by model; metrics of Prometheus' library do."""

    def remove_by_labels(self, labels: dict[str, str]) -> None:
        """Drop those of a model."""


Metric = TypeVar("Metric", bound=ByModel)


class ModelSeries:
    """All series by model of one server; for one event loop."""

    def __init__(self) -> None:
        self._metrics: list[ByModel] = []
        self._served: frozenset[Labels] = frozenset()
        self._requests: Counter[Labels] = Counter()

    def add(self, metric: Metric) -> Metric:
        """Look after a metric, whose labels begin with `MODEL`."""
        self._metrics.append(metric)
        return metric

    def keep(self, served: Iterable[Labels]) -> None:
        """Drop the series of every model but these, at once or after its last request."""
        before, self._served = self._served, frozenset(served)
        for labels in before - self._served:
            self._drop_unused(labels)

    def shows(self, labels: Labels) -> bool:
        """Whether there are series of a model."""
        return labels in self._served or self._requests[labels] > 0

    def begin(self, labels: Labels) -> None:
        """A request begins, which may count what it likes of its model until it has ended."""
        self._requests[labels] += 1

    def end(self, labels: Labels) -> None:
        """It has ended."""
        self._requests[labels] -= 1
        if labels not in self._served:
            self._drop_unused(labels)

    def _drop_unused(self, labels: Labels) -> None:
        if self._requests[labels]:
            return
        del self._requests[labels]
        for metric in self._metrics:
            metric.remove_by_labels(dict(zip(MODEL, labels, strict=True)))
