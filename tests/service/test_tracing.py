"""Spans reach a collector, as a part of the caller's trace, and tell the phases of an inference apart."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from penstock.model_config import BATCHING
from penstock.service.server import Server
from penstock.service.settings import Settings
from penstock.service.tracing import Tracer

pytest.importorskip("opentelemetry.sdk.trace")
collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
collector_grpc = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")

PHASES = 5  # decode, queue, compute, detect, encode
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_span_continues_the_callers_trace(
    repository: Path, start: Any, request_for: Any, images: Any
) -> None:
    received: queue.Queue[Any] = queue.Queue()

    class Collector(collector_grpc.TraceServiceServicer):  # type: ignore[misc,name-defined]
        def Export(self, request: Any, context: Any) -> Any:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        received.put(span)
            return collector.ExportTraceServiceResponse()

    listening = grpc.server(ThreadPoolExecutor(1))
    collector_grpc.add_TraceServiceServicer_to_server(Collector(), listening)
    port = listening.add_insecure_port("127.0.0.1:0")
    listening.start()
    try:
        with start(repository, otlp_endpoint=f"http://127.0.0.1:{port}") as server:
            with grpc.insecure_channel(server.url) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
                stub.ModelInfer(request_for("batched", images), metadata=metadata)
                with pytest.raises(grpc.RpcError):
                    stub.ModelInfer(request_for("nobody", images))
            assert server.stop() == 0
        spans = [received.get(timeout=30) for _ in range(PHASES + 2)]
    finally:
        listening.stop(0)
    good, bad = (span for span in spans if span.name.endswith("/ModelInfer"))
    assert {span.trace_id.hex() for span in spans if span is not bad} == {TRACE}
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, PARENT)
    assert bad.trace_id.hex() != TRACE
    assert good.name == "inference.GRPCInferenceService/ModelInfer"
    codes = [
        next(each.value.string_value for each in span.attributes if each.key == "rpc.grpc.status")
        for span in (good, bad)
    ]
    assert codes == ["OK", "NOT_FOUND"]


def spans_of(
    repository: Path, requests: Sequence[Any], *, stream: bool = False, **settings: Any
) -> dict[int, list[Any]]:
    """What a server in this process does for requests at the same time: the spans of each call by their parent's id.

    The calls' own, whose parent is the caller's span, stand under `PARENT`.
    """
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def scenario() -> None:
        given = Settings(model_repository=repository, grpc_port=0, metrics_port=0, threads=1, **settings)
        server = Server(given, Tracer(provider))
        await server.start()
        metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            if stream:
                assert len([each async for each in stub.ModelStreamInfer(iter(requests), metadata=metadata)])
            else:
                calls = (stub.ModelInfer(request, metadata=metadata) for request in requests)
                await asyncio.gather(*calls, return_exceptions=True)
        await server.stop()

    asyncio.run(scenario())
    found: dict[int, list[Any]] = {}
    spans: list[Any] = list(exporter.get_finished_spans())
    for span in sorted(spans, key=lambda span: span.start_time):
        assert f"{span.context.trace_id:032x}" == TRACE
        found.setdefault(span.parent.span_id, []).append(span)
    return found


def names(spans: Sequence[Any]) -> list[str]:
    return [span.name for span in spans]


def test_phases_are_children_of_the_call_in_their_order(
    repository: Path, request_for: Any, images: Any
) -> None:
    found = spans_of(repository, [request_for("batched", images)])
    (call,) = found.pop(int(PARENT, 16))
    assert found.keys() == {call.context.span_id}
    (phases,) = found.values()
    assert names(phases) == ["decode", "queue", "compute", "detect", "encode"]
    moments = [call.start_time, *(moment for span in phases for moment in (span.start_time, span.end_time))]
    moments.append(call.end_time)
    slack = 1_000_000  # nanoseconds: the system's clock may be set while the test runs
    assert all(later >= earlier - slack for earlier, later in pairwise(moments))
    assert phases[2].attributes["penstock.run.rows"] == len(images)


def test_a_batch_that_is_cut_up_has_a_span_for_each_run(
    repository: Path, request_for: Any, images: Any
) -> None:
    found = spans_of(repository, [request_for("single", images)])
    (call,) = found[int(PARENT, 16)]
    phases = names(found[call.context.span_id])
    assert sorted(phases) == sorted(["decode", "queue", *["compute"] * len(images), "detect", "encode"])


def test_waiting_for_company_is_a_phase_of_its_own(
    tmp_path: Path, add_model: Any, request_for: Any, images: Any
) -> None:
    folder = add_model(tmp_path / "models", "batched").parent
    config = folder / "config.pbtxt"
    config.write_text(
        config.read_text().replace(BATCHING, "dynamic_batching { max_queue_delay_microseconds: 300000 }")
    )
    found = spans_of(tmp_path / "models", [request_for("batched", images[:2])] * 2)
    calls = found.pop(int(PARENT, 16))
    assert len(calls) == 2
    for call in calls:
        phases = {span.name: span for span in found[call.context.span_id]}
        assert phases.keys() == {"decode", "queue", "batch_wait", "compute", "detect", "encode"}
        assert phases["compute"].attributes["penstock.run.rows"] == 4
        waited = phases["batch_wait"].end_time - phases["batch_wait"].start_time
        assert 0.02e9 < waited < 10e9
        assert phases["queue"].end_time == phases["batch_wait"].start_time


def test_refused_requests_and_streams(repository: Path, request_for: Any, images: Any) -> None:
    wrong = request_for("batched", images)
    wrong.raw_input_contents[0] = b""
    found = spans_of(repository, [wrong, request_for("batched", images)], stream=True)
    (call,) = found.pop(int(PARENT, 16))
    requests = found.pop(call.context.span_id)
    assert names(requests) == ["request", "request"]
    assert [names(found[request.context.span_id]) for request in requests] == [
        ["decode"],
        ["decode", "queue", "compute", "detect", "encode"],
    ]
