"""Metrics of what happens to flagged images, for the registry of `penstock.service.telemetry`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from penstock.service.series import MODEL, ModelSeries


class FlagMetrics:
    """Counts refusals, records written and lost, and readers.

    Args:
        registry: where the metrics are shown.
        series: looks after those by model.
    """

    def __init__(self, registry: CollectorRegistry, series: ModelSeries) -> None:
        self.macs_saved = series.add(
            Counter(
                "penstock_macs_saved",
                "Multiply-accumulates of the dense network that paths left out",
                MODEL,
                registry=registry,
            )
        )
        self.rejected = series.add(
            Counter(
                "penstock_flag_rejected",
                "Requests refused because of flagged images, by policy",
                MODEL,
                registry=registry,
            )
        )
        self.sink_written = Counter(
            "penstock_sink_written", "Flagged images written to the sink", registry=registry
        )
        self.sink_lost = Counter(
            "penstock_sink_lost",
            "Flagged images that the sink lost: its queue was full, or writing failed",
            ("reason",),
            registry=registry,
        )
        self.watchers = Gauge("penstock_flag_watchers", "Readers of WatchFlags", registry=registry)
        self.watchers_dropped = Counter(
            "penstock_flag_watchers_dropped", "Readers of WatchFlags that were too slow", registry=registry
        )
        for reason in ("queue", "error"):
            self.sink_lost.labels(reason)

    def show(self, model: str, version: int) -> None:
        """Show a model in every figure from now on, at zero."""
        for metric in (self.macs_saved, self.rejected):
            metric.labels(model, str(version))
