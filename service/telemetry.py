"""Metrics for Prometheus, with Triton's names where they mean the same.

Triton's counters carry no ``_total``, which the client library adds to every counter: they are gauges here,
and ``rate()`` works on them all the same. Labels come from loaded models only, never from what a client sent,
so that no client can blow up the number of series; they go when their model is served no more.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable
from threading import Thread
from types import TracebackType
from typing import Self
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from penstock.errors import (
    ConfigurationError,
    FlaggedError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from penstock.service.answers import Answer
from penstock.service.figures import Figures, ModelFigures
from penstock.service.model import Model
from penstock.service.series import MODEL, Labels, ModelSeries
from penstock.service.statistics import Statistics
from penstock.service.times import Times

_MACS_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)


class Telemetry:
    """The figures of one server, in a registry of its own.

    Attributes:
        registry: all metrics.
        series: those by model.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.series = ModelSeries()
        self._figures = self.series.add(ModelFigures())
        self.registry.register(self._figures)
        self._pending = self._gauge("nv_inference_pending_request_count", "Requests that wait for a run")
        self._running = self._gauge("penstock_running", "Runs of the graph in progress")
        self._flagged = self.series.add(
            Counter("penstock_flagged", "Images flagged as adversarial", MODEL, registry=self.registry)
        )
        self._macs = self.series.add(
            Histogram(
                "penstock_active_macs",
                "Share of the dense network's multiply-accumulates that an image asked for",
                MODEL,
                buckets=_MACS_BUCKETS,
                registry=self.registry,
            )
        )
        self._calls = Counter(
            "penstock_rpc", "Remote calls by method and status", ("method", "code"), registry=self.registry
        )
        self._counters: dict[tuple[str, str], Counter] = {}
        self._missed = Counter(
            "penstock_rpc_unread",
            "Remote calls whose message never arrived: larger than the limit, badly compressed, or given up",
            ("method",),
            registry=self.registry,
        )
        self._handshakes = Counter(
            "penstock_tls_handshakes",
            "Connections with TLS that clients began; those that fail have no calls",
            registry=self.registry,
        )

        self._repository_lost = Counter(
            "penstock_repository_lost",
            "Times that the polled repository could not be read any more or was empty, so that all models were kept",
            registry=self.registry,
        )

        self._unreadable = Gauge(
            "penstock_repository_unreadable_folders",
            "Folders of the repository that could not be read when it was last looked",
            registry=self.registry,
        )

    def watch_unreadable(self, count: Callable[[], int]) -> None:
        """Show how many folders of the repository cannot be read."""
        self._unreadable.set_function(count)

    def lost(self) -> None:
        """Count that the polled repository has gone."""
        self._repository_lost.inc()

    def handshake(self) -> None:
        """Count a connection that a client begins, whatever becomes of it."""
        self._handshakes.inc()

    def show(self, models: Iterable[Model]) -> None:
        """Show these models and no others from now on: at zero where they are new, their queues as they stand."""
        served = {_labels(model.name, model.version): model for model in models}
        self.series.keep(served)
        for labels, model in served.items():
            self._figures.of(labels)
            for metric in (self._flagged, self._macs):
                metric.labels(*labels)
            self._watch_runs(labels, model)

    def request(self, model: Model) -> RequestCount:
        """Counts one inference request, and how it ended, around the block that serves it."""
        labels = _labels(model.name, model.version)
        return RequestCount(self.series, labels, self._figures.of(labels), model.statistics)

    def flagged(self, model: str, version: int, answer: Answer) -> None:
        """Count what was found about the images of one answer."""
        labels = _labels(model, version)
        self._flagged.labels(*labels).inc(int(answer.adversarial.sum()))
        for share in answer.active_macs[:, 0]:
            self._macs.labels(*labels).observe(float(share))

    def called(self, method: str, code: str) -> None:
        """Count one remote call by its status."""
        counter = self._counters.get((method, code))
        if counter is None:  # kept, for the library looks one up anew every time
            counter = self._counters[method, code] = self._calls.labels(method, code)
        counter.inc()

    def missed(self, method: str) -> None:
        """Count one remote call whose message never arrived."""
        self._missed.labels(method.rpartition("/")[2]).inc()

    def _watch_runs(self, labels: Labels, model: Model) -> None:
        def ran(count: int) -> None:
            if self.series.shows(labels):  # the last run may end after the last request, which was given up
                self._figures.of(labels).runs += count

        model.statistics.watch(ran)
        # A gauge that asks is part of a circle, in which a model would wait for the garbage collector.
        scheduler = weakref.ref(model.scheduler)
        self._pending.labels(*labels).set_function(lambda: getattr(scheduler(), "waiting", 0))
        self._running.labels(*labels).set_function(lambda: getattr(scheduler(), "running", 0))

    def _gauge(self, name: str, text: str) -> Gauge:
        return self.series.add(Gauge(name, text, MODEL, registry=self.registry))


class RequestCount:
    """Counts one inference request in metrics and statistics alike.

    Args:
        series: keeps those of its model until it has ended.
        labels: of its model.
        figures: of its model.
        statistics: of its model.
    """

    def __init__(self, series: ModelSeries, labels: Labels, figures: Figures, statistics: Statistics) -> None:
        self._series, self._labels = series, labels
        self._figures, self._statistics = figures, statistics
        self._begin = time.perf_counter_ns()

    def __enter__(self) -> Self:
        self._series.begin(self._labels)
        self._statistics.last_ms = time.time_ns() // 1_000_000
        return self

    def answered(self, times: Times) -> None:
        """Count what its answer took."""
        self._figures.answered(times)
        self._statistics.answered(times)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        spent = time.perf_counter_ns() - self._begin
        if error is None:
            self._figures.success += 1
            self._figures.ns += spent
            self._statistics.success.add(spent)
        else:
            self._figures.failures[_reason(error)] += 1
            self._statistics.failure.add(spent)
        self._series.end(self._labels)


class MetricsServer:
    """Serves the metrics over HTTP from a thread of its own.

    Args:
        telemetry: what to show.
        host: address to listen on.
        port: 0 takes any free port.

    Raises:
        ConfigurationError: the port cannot be had.
    """

    def __init__(self, telemetry: Telemetry, host: str, port: int) -> None:
        self._server: WSGIServer
        self._thread: Thread
        try:
            self._server, self._thread = start_http_server(port, host, telemetry.registry)
        except OSError as error:
            raise ConfigurationError(
                f"cannot serve metrics at {host}:{port} ({error.strerror}); "
                "choose another with --metrics-port, where 0 takes any free port"
            ) from error

    @property
    def port(self) -> int:
        """The port that was bound."""
        return self._server.server_port

    def close(self) -> None:
        """Stop and give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _labels(model: str, version: int) -> Labels:
    return model, str(version)


def _reason(error: BaseException) -> str:
    """Triton's word for why a request failed."""
    if isinstance(error, asyncio.CancelledError):
        return "CANCELED"
    if isinstance(error, UnavailableError):
        return "REJECTED"
    if isinstance(error, (FlaggedError, InvalidArgumentError, NotFoundError, UnsupportedError)):
        return "OTHER"
    return "BACKEND"
