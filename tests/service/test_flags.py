"""What becomes of flagged images: the policies, the records, and whoever watches."""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2_grpc

from penstock.errors import FlaggedError, NotFoundError, UnavailableError, UnsupportedError
from penstock.service import client
from penstock.service.client import PathClient
from penstock.service.commands import watch
from penstock.service.flag_metrics import FlagMetrics
from penstock.service.flag_records import FlagRecord
from penstock.service.path_servicer import PATHS
from penstock.service.series import ModelSeries
from penstock.service.statuses import SlowReaderError
from penstock.service.v1 import paths_pb2, paths_pb2_grpc
from penstock.service.watchers import Watchers
from tests.service.test_lifecycle import wait_until

Images = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, start: Any, add_model: Any) -> Iterator[Any]:
    """A server with a model of each policy, a sink that keeps images, and small buffers; and the sink's folder."""
    folder = tmp_path_factory.mktemp("judged")
    for policy in ("annotate", "reject", "shadow"):
        add_model(folder / "models", policy, policy=policy)
    settings = {"sink_folder": folder / "sink", "sink_image_share": 1, "watch_buffer": 50, "max_watchers": 2}
    with start(folder / "models", log_format="json", **settings) as running:
        yield running, folder / "sink"


def metric(server: Any, line: str) -> float:
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    return next(float(each.removeprefix(f"{line} ")) for each in lines if each.startswith(f"{line} "))


def test_reject_refuses_the_whole_request_and_names_the_flagged(judged: Any, images: Images) -> None:
    server, _ = judged
    assert len(client.infer(server.url, "reject", images[:4])) == 4
    runs = metric(server, 'nv_inference_exec_count{model="reject",version="1"}')
    score = client.infer(server.url, "annotate", images).anomaly_score[4, 0]
    with pytest.raises(FlaggedError, match=r"1 of 5 are flagged: image 4 \(score ") as refusal:
        client.infer(server.url, "reject", images)
    assert f"{score:.6g}" in str(refusal.value)
    assert metric(server, 'penstock_flag_rejected_total{model="reject",version="1"}') == 1
    assert metric(server, 'nv_inference_request_failure{model="reject",reason="OTHER",version="1"}') == 1
    assert metric(server, 'nv_inference_count{model="reject",version="1"}') == 4
    assert metric(server, 'nv_inference_exec_count{model="reject",version="1"}') == runs + 1
    assert metric(server, 'penstock_active_macs_count{model="reject",version="1"}') == 9
    assert "of honest batches of 8, about 34% will be refused" in server.log.read_text()


def test_shadow_answers_as_if_there_were_no_detector(judged: Any, images: Images, request_for: Any) -> None:
    server, _ = judged
    with grpc.insecure_channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        before = metric(server, 'penstock_flagged_total{model="shadow",version="1"}')
        response = stub.ModelInfer(request_for("shadow", images))
        assert [output.name for output in response.outputs] == ["logits", "path", "active_macs"]
        assert not response.parameters
        assert metric(server, 'penstock_flagged_total{model="shadow",version="1"}') == before + 1

        request = request_for("shadow", images)
        request.outputs.add(name="adversarial")
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(request)
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(UnsupportedError, match="does not answer with anomaly_score, adversarial"):
        client.infer(server.url, "shadow", images)


def test_watch_tells_what_was_flagged_and_the_sink_keeps_it(
    judged: Any, images: Images, request_for: Any
) -> None:
    server, sink = judged
    with PathClient(server.url) as paths, grpc.insecure_channel(server.url) as channel:
        records = paths.watch_flags("annotate")
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request_for("annotate", images))
        record = next(records)
    answer = client.infer(server.url, "annotate", images)
    assert (record.request_id, record.model, record.version, record.image_index) == ("42", "annotate", 1, 4)
    assert record.score == pytest.approx(answer.anomaly_score[4, 0])
    assert record.class_name == ("ant", "bee", "cat", "dog")[answer.logits[4].argmax()]
    assert abs(record.time - time.time()) < 60
    kept = wait_for_line(sink, record.time)
    assert kept["path_digest"] == record.path_digest
    assert kept["image_shape"] == [3, 8, 8]
    assert (
        np.frombuffer(base64.b64decode(kept["image"]), dtype=kept["image_dtype"]).tobytes()
        == images[4].tobytes()
    )


def wait_for_line(sink: Path, when: float) -> dict[str, Any]:
    for _ in range(300):
        lines = [line for file in sink.glob("*.jsonl") for line in file.read_text().splitlines()]
        for found in map(json.loads, lines):
            if found["time"] == when:
                return dict(found)
        time.sleep(0.1)
    raise AssertionError("the record was not written")


def test_watch_refuses_what_would_stay_silent_and_too_many(judged: Any) -> None:
    server, _ = judged
    with PathClient(server.url) as paths:
        with pytest.raises(NotFoundError, match="nobody"):
            paths.watch_flags("nobody")
        held = [paths.watch_flags() for _ in range(2)]
        with pytest.raises(UnavailableError, match="2 readers watch already"):
            paths.watch_flags()
        del held


def test_readers_that_give_up_at_once_leave_their_places(judged: Any) -> None:
    """Some are cancelled before they have heard that nothing is missed from now on."""
    server, _ = judged
    with grpc.insecure_channel(server.url) as channel:
        stub = paths_pb2_grpc.PathServiceStub(channel)  # type: ignore[no-untyped-call]
        for number in range(200):
            call = stub.WatchFlags(paths_pb2.WatchFlagsRequest())
            time.sleep(number * 2e-5)
            call.cancel()
    wait_until(lambda: metric(server, "penstock_flag_watchers") == 0)


def test_refusal_is_raised_at_once_though_its_status_comes_late() -> None:
    def refuse(_: Any, context: grpc.ServicerContext) -> Any:
        context.send_initial_metadata(())
        time.sleep(0.2)
        context.abort(grpc.StatusCode.UNAVAILABLE, "2 readers watch already")

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        calls: dict[str, Any] = {"WatchFlags": grpc.unary_stream_rpc_method_handler(refuse)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(PATHS.full_name, calls),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with (
                PathClient(f"127.0.0.1:{port}") as paths,
                pytest.raises(UnavailableError, match="2 readers watch already"),
            ):
                paths.watch_flags()
        finally:
            server.stop(None).wait()


def test_slow_reader_is_dropped_and_counted(judged: Any) -> None:
    server, _ = judged
    strange = np.ones((8, 3, 8, 8), dtype=np.float32)
    for _ in range(100):  # readers of other tests may be on their way out
        if metric(server, "penstock_flag_watchers") == 0:
            break
        time.sleep(0.1)
    narrow = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4096)]  # little waits on the way
    with grpc.insecure_channel(server.url, options=narrow) as channel:
        call = paths_pb2_grpc.PathServiceStub(channel).WatchFlags(paths_pb2.WatchFlagsRequest())  # type: ignore[no-untyped-call]
        call.initial_metadata()
        for _ in range(2000):
            client.infer(server.url, "annotate", strange)
            if metric(server, "penstock_flag_watchers_dropped_total"):
                break
        else:
            pytest.fail("a reader that does not read was never dropped")
        with pytest.raises(grpc.RpcError) as refusal:
            for _ in call:
                pass
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "too slow: 50 flagged images waited" in str(refusal.value.details())


def test_dropped_reader_keeps_its_place_but_no_records() -> None:
    """A client that never reads blocks its call, whose buffers stay: it is to make no room for the next such client."""
    registry = CollectorRegistry()
    watchers = Watchers(buffer=2, limit=1, metrics=FlagMetrics(registry, ModelSeries()))
    records = [
        FlagRecord(
            request_id=str(index),
            model="tiny",
            version=1,
            image_index=index,
            score=2.0,
            class_name="ant",
            time=0.0,
            path_digest="0" * 16,
        )
        for index in range(3)
    ]

    async def scenario() -> None:
        with watchers.subscription("", None) as reader:
            watchers.publish(records)
            watchers.publish(records)
            watchers.close()
            with (
                pytest.raises(UnavailableError, match="1 readers watch already"),
                watchers.subscription("", None),
            ):
                pass
            with pytest.raises(SlowReaderError, match="2 flagged images waited"):
                await asyncio.wait_for(anext(reader), 10)
        with watchers.subscription("tiny", 1) as reader:
            watchers.publish(records[:1])
            assert await asyncio.wait_for(anext(reader), 10) == records[0]

    asyncio.run(scenario())
    assert registry.get_sample_value("penstock_flag_watchers_dropped_total") == 1
    assert registry.get_sample_value("penstock_flag_watchers") == 0


def test_full_disk_fails_no_request_and_is_counted(judged: Any, images: Images) -> None:
    server, _ = judged
    lost = 'penstock_sink_lost_total{reason="error"}'
    before = metric(server, lost)
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    try:
        assert client.infer(server.url, "annotate", images).adversarial[4, 0]
        for _ in range(100):
            if metric(server, lost) > before:
                break
            time.sleep(0.1)
        assert metric(server, lost) == before + 1
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
    written = metric(server, "penstock_sink_written_total")
    client.infer(server.url, "annotate", images)
    for _ in range(100):
        if metric(server, "penstock_sink_written_total") > written:
            break
        time.sleep(0.1)
    assert metric(server, "penstock_sink_written_total") == written + 1


def test_watch_command_prints_a_row(judged: Any, images: Images, capsys: pytest.CaptureFixture[str]) -> None:
    server, _ = judged
    with pytest.raises(UnavailableError):
        watch("127.0.0.1:1", count=1)
    timers = [Timer(delay, client.infer, (server.url, "annotate", images)) for delay in (0.5, 3, 6)]
    for timer in timers:
        timer.start()
    try:
        assert watch(server.url, "annotate", count=1) == 0
    finally:
        for timer in timers:
            timer.join()
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["time", "model", "image"]
    assert row.split()[1:3] == ["annotate/1", "4"]


def test_unknown_policy_is_not_served(tmp_path: Path, start: Any, add_model: Any) -> None:
    add_model(tmp_path / "models", "odd", policy="applaud")
    with start(tmp_path / "models") as server:
        assert "penstock_flag_policy 'applaud'; expected annotate, reject, shadow" in server.log.read_text()
