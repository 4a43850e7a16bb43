"""Spans reach a collector, as a part of the caller's trace."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
collector_grpc = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")

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
            from tritonclient.grpc import service_pb2_grpc

            with grpc.insecure_channel(server.url) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
                stub.ModelInfer(request_for("batched", images), metadata=metadata)
                with pytest.raises(grpc.RpcError):
                    stub.ModelInfer(request_for("nobody", images))
            assert server.stop() == 0
        spans = [received.get(timeout=30) for _ in range(2)]
    finally:
        listening.stop(0)
    good, bad = spans
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, PARENT)
    assert bad.trace_id.hex() != TRACE
    assert good.name == "inference.GRPCInferenceService/ModelInfer"
    codes = [
        next(each.value.string_value for each in span.attributes if each.key == "rpc.grpc.status")
        for span in spans
    ]
    assert codes == ["OK", "NOT_FOUND"]
