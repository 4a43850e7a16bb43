"""Spans for OpenTelemetry: one per remote call, as a part of the caller's trace where it sends W3C's ``traceparent``.

Under the span of an inference stand those of its phases: ``decode``, ``queue``, ``batch_wait`` (for company, where
requests share runs), ``compute`` (one for every run that it took part in), ``detect``, ``encode``.

OpenTelemetry is an extra: without an address to send spans to, none of it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING

from penstock import __version__
from penstock.errors import ConfigurationError
from penstock.service.times import Times

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Metadata = Iterable[tuple[str, str | bytes]]
Finish = Callable[[str], None]
"""Tells a span the call's status, ``OK`` or another of gRPC's names."""


_UNHEARD: AbstractContextManager[Finish] = nullcontext(lambda code: None)
_NOTHING: AbstractContextManager[None] = nullcontext()


class NoTracer:
    """Makes no spans."""

    def call(self, service: str, method: str, metadata: Metadata) -> AbstractContextManager[Finish]:
        """A block that nobody hears of."""
        return _UNHEARD

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A block that nobody hears of."""
        return _NOTHING

    def ran(self, times: Times) -> None:
        """Nobody hears of it."""

    def close(self) -> None:
        """Nothing waits."""


class Tracer:
    """Makes spans and sends them in the background.

    Args:
        provider: OpenTelemetry's, with whatever it sends to.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("penstock.service", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def call(self, service: str, method: str, metadata: Metadata) -> Iterator[Finish]:
        """A span around a remote call, named and described as OpenTelemetry's conventions for RPC ask."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        carrier = {name: value for name, value in metadata if isinstance(value, str)}
        with self._tracer.start_as_current_span(
            f"{service}/{method}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
            record_exception=False,  # errors become statuses below; their words may be the client's
            set_status_on_exception=False,
        ) as span:

            def finish(code: str) -> None:
                span.set_attribute("rpc.grpc.status", code)
                if code not in ("OK", "CANCELLED"):
                    span.set_status(Status(StatusCode.ERROR, code))

            yield finish

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A span around a phase of the call that is being answered."""
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False):
            yield

    def ran(self, times: Times) -> None:
        """The spans of phases that are over: waiting, and the runs."""
        epoch = time_ns() - perf_counter_ns()  # spans stand in the calendar
        arrived = epoch + times.arrived_ns
        begun = arrived + times.queue_ns
        held = begun - times.held_ns
        self._past("queue", arrived, held)
        if times.held_ns:
            self._past("batch_wait", held, begun)
        for run in times.runs:
            begin = epoch + run.began_ns
            end = begin + run.input_ns + run.infer_ns + run.output_ns
            self._past("compute", begin, end, {"penstock.run.rows": run.rows})

    def _past(self, name: str, begin: int, end: int, attributes: dict[str, int] | None = None) -> None:
        self._tracer.start_span(name, attributes=attributes, start_time=begin).end(end)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def open_tracer(endpoint: str) -> Tracer | NoTracer:
    """A tracer that sends to a collector.

    Args:
        endpoint: ``http://HOST:PORT`` or ``https://HOST:PORT`` of OTLP over gRPC; empty: no traces.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    if not endpoint:
        return NoTracer()
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            f"traces for {endpoint} need OpenTelemetry: pip install 'penstock[tracing]'"
        ) from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": "penstock", "service.version": __version__})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return Tracer(provider)
