"""Statistics, classification, shared memory, and settings of the log, by stock clients."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from grpc import StatusCode
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from penstock.service.classification import top_classes
from penstock.service.log_settings import LogSettings
from tests.service.bundles import add_bundle
from tests.service.plain import FLOAT, add_examples, add_model, graph, identity
from tests.service.test_lifecycle import sample

Client = Any  # tritonclient is not typed

LABELLED = """
max_batch_size: 8
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" }
instance_group { kind: KIND_CPU count: 1 }
dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 5000000 }
"""

WARMED = """
max_batch_size: 4
input { name: "x" data_type: TYPE_STRING dims: [ -1 ] }
output { name: "y" data_type: TYPE_INT64 dims: [ -1 ] }
model_warmup { name: "file" batch_size: 1
  inputs { key: "x" value { data_type: TYPE_STRING dims: [ 1 ] input_data_file: "%s" } } }
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, start: Any) -> Iterator[Any]:
    folder = add_examples(tmp_path_factory.mktemp("extensions") / "models")
    home = add_model(folder, "labelled", identity(FLOAT, ["N", 3]), LABELLED)
    (home / "labels.txt").write_text("ant\nbee\n")
    numbers = graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)],
        {"x": (TensorProto.STRING, ["N", "M"])},
        {"y": (TensorProto.INT64, ["N", "M"])},
    )
    for name, content in (("warmed", b"\2\0\0\0" + b"42"), ("warmed-badly", b"\4\0\0\0" + b"none")):
        home = add_model(folder, name, numbers, WARMED % "sample")
        (home / "warmup").mkdir()
        (home / "warmup" / "sample").write_bytes(content)
    with start(folder, threads=1, system_shared_memory=1) as running:
        yield running


@pytest.fixture
def plain(served: Any) -> Iterator[Client]:
    with triton.InferenceServerClient(served.url) as stock:
        yield stock


def pair(batch: int = 1) -> list[Any]:
    tensors = []
    for name in ("INPUT0", "INPUT1"):
        tensor = triton.InferInput(name, [batch, 16], "INT32")
        tensor.set_data_from_numpy(np.arange(16 * batch, dtype=np.int32).reshape(batch, 16))
        tensors.append(tensor)
    return tensors


def test_statistics_count_requests_rows_and_runs(plain: Client) -> None:
    before = plain.get_inference_statistics("simple").model_stats[0]
    for batch in (1, 3, 3):
        plain.infer("simple", pair(batch))
    with pytest.raises(InferenceServerException):
        plain.infer("simple", pair()[:1])
    after = plain.get_inference_statistics("simple", "1").model_stats[0]
    assert (after.name, after.version) == ("simple", "1")
    assert after.inference_count - before.inference_count == 7
    assert after.execution_count - before.execution_count == 3
    assert after.last_inference > 0
    stats = after.inference_stats
    assert stats.fail.count - before.inference_stats.fail.count == 1
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(stats, name).count - getattr(before.inference_stats, name).count == 3, name
    assert stats.success.ns > stats.compute_infer.ns > 0
    runs = {batch.batch_size: batch.compute_infer.count for batch in after.batch_stats}
    assert runs[3] == 2
    names = {model.name for model in plain.get_inference_statistics().model_stats}
    assert {"simple", "simple_string", "labelled"} <= names
    with pytest.raises(InferenceServerException, match="model 'nobody' is not available"):
        plain.get_inference_statistics("nobody")


def test_request_without_an_answer_counts_as_failed_and_its_run_as_a_run(
    plain: Client, served: Any, region: tuple[str, Any]
) -> None:
    """The graph answers, and the answer does not fit into the place where the client wants it."""
    before = plain.get_inference_statistics("simple").model_stats[0]
    metrics = {
        name: sample(served, f"nv_inference_{name}", model="simple") for name in ("count", "exec_count")
    }
    small = triton.InferRequestedOutput("OUTPUT0")
    small.set_shared_memory("numbers", 8)
    with pytest.raises(InferenceServerException, match="should be at least 64 bytes"):
        plain.infer("simple", pair(), outputs=[small])
    after = plain.get_inference_statistics("simple").model_stats[0]
    assert after.inference_count == before.inference_count
    assert after.execution_count == before.execution_count + 1
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        then, now = getattr(before.inference_stats, name), getattr(after.inference_stats, name)
        assert (now.count, now.ns) == (then.count, then.ns), name
    assert sample(served, "nv_inference_count", model="simple") == metrics["count"]
    assert sample(served, "nv_inference_exec_count", model="simple") == metrics["exec_count"] + 1


def test_request_is_in_the_queue_until_its_first_run(tmp_path: Path, start: Any, images: Any) -> None:
    add_bundle(tmp_path / "models", "alone", single=True, work="slow")
    images[:, 0, 0, 0] = 0.3
    tensor = triton.InferInput("images", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    with start(tmp_path / "models", threads=1) as running, triton.InferenceServerClient(running.url) as stock:
        stock.infer("alone", [tensor])
        figures = stock.get_inference_statistics("alone").model_stats[0]
        names = ("queue", "compute_input", "compute_infer", "compute_output")
        phases = {name: getattr(figures.inference_stats, name).ns for name in names}
        shown = {name: sample(running, f"nv_inference_{name}_duration_us", model="alone") for name in names}
    assert figures.execution_count == len(images)
    assert sum(phases.values()) < figures.inference_stats.success.ns, "its images ran in turn"
    assert {name: micro * 1e3 for name, micro in shown.items()} == pytest.approx(phases)


def test_requests_of_several_clients_share_a_run(plain: Client) -> None:
    """The model waits 5 seconds for four rows, which come one by one."""
    values = np.random.default_rng(0).normal(size=(4, 1, 3)).astype(np.float32)
    answers: Queue[tuple[int, Any, Any]] = Queue()

    def answered(number: int, result: Any, error: Any) -> None:
        answers.put((number, result, error))

    for number, value in enumerate(values):
        tensor = triton.InferInput("INPUT0", [1, 3], "FP32")
        tensor.set_data_from_numpy(value)
        plain.async_infer("labelled", [tensor], callback=partial(answered, number))
    for _ in values:
        number, result, error = answers.get(timeout=30)
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), values[number])
    stats = plain.get_inference_statistics("labelled").model_stats[0]
    assert {batch.batch_size: batch.compute_infer.count for batch in stats.batch_stats}[4] >= 1
    assert stats.inference_stats.queue.ns > 0


def test_classification_names_the_largest_values(plain: Client) -> None:
    tensor = triton.InferInput("INPUT0", [4, 3], "FP32")
    tensor.set_data_from_numpy(np.array([[0.5, 2, 1], [3, 2, 1], [0, 0, 1], [0, 1, 0]], dtype=np.float32))
    wanted = triton.InferRequestedOutput("OUTPUT0", class_count=2)
    result = plain.infer("labelled", [tensor], outputs=[wanted]).as_numpy("OUTPUT0")
    assert result.tolist() == [
        [b"2.000000:1:bee", b"1.000000:2"],
        [b"3.000000:0:ant", b"2.000000:1:bee"],
        [b"1.000000:2", b"0.000000:0:ant"],
        [b"1.000000:1:bee", b"0.000000:0:ant"],
    ]
    many = triton.InferRequestedOutput("OUTPUT0", class_count=99)
    assert plain.infer("labelled", [tensor], outputs=[many]).as_numpy("OUTPUT0").shape == (4, 3)


def test_classification_of_a_bundle_uses_its_class_names(client: Client, images: Any) -> None:
    tensor = triton.InferInput("images", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    logits = client.infer("single", [tensor]).as_numpy("logits")
    wanted = triton.InferRequestedOutput("logits", class_count=1)
    texts = client.infer("single", [tensor], outputs=[wanted]).as_numpy("logits")[:, 0]
    for row, text in zip(logits, texts, strict=True):
        value, place, label = text.decode().split(":")
        assert int(place) == row.argmax()
        assert float(value) == pytest.approx(row.max(), abs=1e-6)
        assert label == ("ant", "bee", "cat", "dog")[row.argmax()]


def test_classes_of_a_model_without_batch() -> None:
    assert top_classes(np.array([1, 3, 3]), 2, ["a"], batched=False).tolist() == ["3.000000:1", "3.000000:2"]


def test_text_has_no_largest_values(plain: Client) -> None:
    tensor = triton.InferInput("INPUT0", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([["x"]], dtype=np.object_))
    with pytest.raises(InferenceServerException, match="is text, of which there are no largest values"):
        plain.infer(
            "simple_identity", [tensor], outputs=[triton.InferRequestedOutput("OUTPUT0", class_count=1)]
        )


@pytest.fixture
def region(plain: Client) -> Iterator[tuple[str, Any]]:
    """Name and handle of a registered region of 256 bytes."""
    key = f"/penstock-test-{os.getpid()}"
    handle = shm.create_shared_memory_region("numbers", key, 256)
    plain.register_system_shared_memory("numbers", key, 256)
    yield key, handle
    plain.unregister_system_shared_memory("numbers")
    shm.destroy_shared_memory_region(handle)


def in_memory(place: int, size: int = 64) -> list[Any]:
    tensors = []
    for number, name in enumerate(("INPUT0", "INPUT1")):
        tensor = triton.InferInput(name, [1, 16], "INT32")
        tensor.set_shared_memory("numbers", size, offset=place + 64 * number)
        tensors.append(tensor)
    return tensors


def test_tensors_travel_through_shared_memory(plain: Client, region: tuple[str, Any]) -> None:
    key, handle = region
    left, right = np.arange(16, dtype=np.int32), np.full(16, 2, dtype=np.int32)
    shm.set_shared_memory_region(handle, [left, right])
    status = plain.get_system_shared_memory_status("numbers", as_json=True)
    assert status == {"regions": {"numbers": {"name": "numbers", "key": key, "byte_size": "256"}}}
    wanted = triton.InferRequestedOutput("OUTPUT0")
    wanted.set_shared_memory("numbers", 64, offset=128)
    result = plain.infer("simple", in_memory(0), outputs=[wanted, triton.InferRequestedOutput("OUTPUT1")])
    response = result.get_response()
    assert [len(raw) for raw in response.raw_output_contents] == [0, 64]
    assert response.outputs[0].parameters["shared_memory_region"].string_param == "numbers"
    got = shm.get_contents_as_numpy(handle, np.int32, [1, 16], offset=128)
    np.testing.assert_array_equal(got[0], left + right)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1")[0], left - right)
    # One input in memory, the other in the message: it is the first of the raw entries.
    mixed = plain.infer("simple", [in_memory(0)[0], pair()[1]])
    np.testing.assert_array_equal(mixed.as_numpy("OUTPUT0")[0], left + np.arange(16))


def test_shared_memory_is_guarded(plain: Client, region: tuple[str, Any]) -> None:
    key, _ = region
    stub = plain._client_stub

    def refused(call: Any) -> tuple[StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        return caught.value.code(), caught.value.details() or ""

    def register(name: str, key: str, offset: int = 0, size: int = 1) -> tuple[StatusCode, str]:
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=name, key=key, offset=offset, byte_size=size
        )
        return refused(lambda: stub.SystemSharedMemoryRegister(request, timeout=30))

    assert register("numbers", key)[0] is StatusCode.ALREADY_EXISTS
    for bad in ("../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "//a", "a\0b"):
        code, message = register("bad", bad)
        assert code is StatusCode.INVALID_ARGUMENT, (bad, message)
    code, message = register("bad", "no-such-object")
    assert (code, "unable to open" in message, "/dev/shm" in message) == (StatusCode.INTERNAL, True, False)
    for offset, size in ((0, 257), (256, 1), (0, 0), (2**63, 2**63)):
        assert register("bad", key, offset, size)[0] is StatusCode.INVALID_ARGUMENT
    link = Path(f"/dev/shm/penstock-link-{os.getpid()}")
    link.symlink_to("/etc/hostname")
    try:
        assert register("bad", link.name)[0] is StatusCode.INTERNAL
    finally:
        link.unlink()

    with pytest.raises(InferenceServerException, match="invalid offset 192 and byte size 128"):
        plain.infer("simple", in_memory(192, 128))
    small = triton.InferRequestedOutput("OUTPUT0")
    small.set_shared_memory("numbers", 8)
    with pytest.raises(InferenceServerException, match="should be at least 64 bytes to hold the results"):
        plain.infer("simple", pair(), outputs=[small])
    unknown = triton.InferRequestedOutput("OUTPUT0")
    unknown.set_shared_memory("nobody", 8)
    with pytest.raises(InferenceServerException, match="unable to find shared memory region 'nobody'"):
        plain.infer("simple", pair(), outputs=[unknown])
    os.truncate(f"/dev/shm{key}", 16)
    with pytest.raises(InferenceServerException, match="has shrunk"):
        plain.infer("simple", in_memory(0))
    assert plain.is_server_live()
    plain.unregister_system_shared_memory("nobody")


def test_region_that_nobody_registered_is_no_failure_of_the_model(plain: Client, served: Any) -> None:
    def failures() -> list[float]:
        return [
            sample(served, "nv_inference_request_failure", model="simple", reason=reason)
            for reason in ("OTHER", "BACKEND")
        ]

    other, backend = failures()
    unknown = triton.InferRequestedOutput("OUTPUT0")
    unknown.set_shared_memory("nobody", 8)
    with pytest.raises(InferenceServerException, match="unable to find shared memory region 'nobody'"):
        plain.infer("simple", pair(), outputs=[unknown])
    assert failures() == [other + 1, backend]


def test_shared_memory_is_announced_only_where_it_is_allowed(plain: Client, client: Client) -> None:
    assert "system_shared_memory" in plain.get_server_metadata().extensions
    assert "system_shared_memory" not in client.get_server_metadata().extensions
    plain.unregister_cuda_shared_memory()
    assert not plain.get_cuda_shared_memory_status().regions


def test_warm_up_runs_the_samples_of_the_configuration(plain: Client, served: Any) -> None:
    assert plain.is_model_ready("warmed")
    assert not plain.is_model_ready("warmed-badly")
    assert "warm-up sample 'file' failed" in served.log.read_text()
    assert plain.get_inference_statistics("warmed").model_stats[0].inference_count == 0


def test_question_about_log_settings_leaves_the_program_around_as_it_is() -> None:
    root = logging.getLogger()

    def state() -> tuple[int, list[list[Any]]]:
        return root.level, [[*handler.filters] for handler in root.handlers]

    before = state()
    settings = LogSettings()
    settings.update({})
    settings.update(settings.values())
    assert state() == before


def test_log_settings_change_what_is_written(plain: Client, served: Any) -> None:
    def refused_infer(name: str) -> None:
        with pytest.raises(InferenceServerException):
            plain.infer(name, pair())

    settings = plain.get_log_settings(as_json=True)["settings"]
    assert settings["log_info"] == {"bool_param": True}
    time.sleep(1.1)  # of the refusals within a second only some have a line, and other tests have had theirs
    refused_infer("nobody-1")
    plain.update_log_settings({"log_info": False})
    refused_infer("nobody-2")
    plain.update_log_settings({"log_info": True, "log_verbose_level": 1})
    refused_infer("nobody-3")
    plain.update_log_settings({"log_verbose_level": 0})
    text = served.log.read_text()
    assert [f"nobody-{n}" in text for n in (1, 2, 3)] == [True, False, True]
    with pytest.raises(InferenceServerException, match="log_file cannot be changed"):
        plain.update_log_settings({"log_file": "/tmp/elsewhere"})
    with pytest.raises(InferenceServerException, match="'log_colour'"):
        plain.update_log_settings({"log_colour": True})
