"""Policies and records where requests come in streams, share a run, or ask models that have no flags."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from penstock.errors import (
    FlaggedError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from penstock.model_config import BATCHING
from penstock.service import client
from penstock.service.client import PathClient
from tests.service import plain
from tests.service.test_lifecycle import sample

Images = npt.NDArray[np.float32]
Request = Callable[..., service_pb2.ModelInferRequest]

TOGETHER = "dynamic_batching { max_queue_delay_microseconds: 300000 }\n"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, start: Any, add_model: Any) -> Iterator[Any]:
    """A server that refuses flagged images by default, also a plain model's, and keeps them; the sink's folder."""
    folder = tmp_path_factory.mktemp("mixed")
    models = folder / "models"
    add_model(models, "bundle")
    add_model(models, "shadow", policy="shadow")
    together = add_model(models, "together").parent / "config.pbtxt"
    together.write_text(together.read_text().replace(BATCHING, TOGETHER))
    plain.add_model(models, "plain", plain.identity(plain.FLOAT, ["N", 3, 8, 8]))
    settings = {"flag_policy": "reject", "sink_folder": folder / "sink", "sink_image_share": 1}
    with start(models, system_shared_memory="yes", max_batch=6, **settings) as running:
        yield running, folder / "sink"


@pytest.fixture
def mixed_stub(mixed: Any) -> Iterator[Any]:
    with grpc.insecure_channel(mixed[0].url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def config_of(home: Path) -> Any:
    """A model's configuration."""
    text = (home / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def kept(sink: Path, request: str) -> dict[str, Any]:
    """The record of a request, once it is written."""
    for _ in range(300):
        for file in sink.glob("*.jsonl"):
            for line in file.read_text().splitlines():
                if (found := json.loads(line))["request_id"] == request:
                    return dict(found)
        time.sleep(0.1)
    raise AssertionError(f"no record of {request!r} was written")


def test_refused_request_of_a_stream_leaves_the_others_and_a_record(
    mixed: Any, mixed_stub: Any, request_for: Request, images: Images
) -> None:
    server, sink = mixed
    rejected = sample(server, "penstock_flag_rejected_total", model="bundle")
    requests = [
        request_for("bundle", images[:4]),
        request_for("bundle", images),
        request_for("shadow", images),
    ]
    for number, request in enumerate(requests):
        request.id = f"stream-{number}"
    with PathClient(server.url) as paths:
        records = paths.watch_flags()
        first, second, third = mixed_stub.ModelStreamInfer(iter(requests), timeout=60)
        seen = {next(records).request_id for _ in range(2)}
    assert first.infer_response.parameters["penstock_adversarial"].string_param == "0,0,0,0"
    assert second.infer_response.id == "stream-1"
    assert "1 of 5 are flagged: image 4 (score " in second.error_message
    assert not second.infer_response.outputs
    assert [output.name for output in third.infer_response.outputs] == ["logits", "path", "active_macs"]
    assert list(third.infer_response.parameters) == ["triton_final_response"]
    assert seen == {"stream-1", "stream-2"}
    assert kept(sink, "stream-1")["image_index"] == 4
    assert kept(sink, "stream-2")["model"] == "shadow"
    assert sample(server, "penstock_flag_rejected_total", model="bundle") == rejected + 1


def test_stream_that_wants_statuses_ends_with_the_refusal(
    mixed_stub: Any, request_for: Request, images: Images
) -> None:
    stream = mixed_stub.ModelStreamInfer(
        iter([request_for("bundle", images)]), timeout=30, metadata=[("triton_grpc_error", "true")]
    )
    with pytest.raises(grpc.RpcError) as refusal:
        next(stream)
    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_shared_run_is_refused_only_to_the_request_with_the_flag(mixed: Any, images: Images) -> None:
    server, _ = mixed
    runs = sample(server, "nv_inference_exec_count", model="together")
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(client.infer, server.url, "together", batch)
            for batch in (images[:1], images[4:], images[1:3])
        ]
        answers = [asked[0].result(), asked[2].result()]
        with pytest.raises(FlaggedError, match=r"1 of 1 are flagged: image 0 \(score "):
            asked[1].result()
    assert sample(server, "nv_inference_exec_count", model="together") < runs + 3
    assert [len(answer) for answer in answers] == [1, 2]


def test_flagged_image_from_shared_memory_is_kept(mixed: Any, images: Images) -> None:
    server, sink = mixed
    block = SharedMemory(create=True, size=images.nbytes)
    assert block.buf is not None
    try:
        block.buf[: images.nbytes] = images.tobytes()
        with triton.InferenceServerClient(server.url) as stock:
            stock.register_system_shared_memory("images", block.name, images.nbytes)
            tensor = triton.InferInput("images", list(images.shape), "FP32")
            tensor.set_shared_memory("images", images.nbytes)
            stock.infer("shadow", [tensor], request_id="memory")
            block.buf[: images.nbytes] = bytes(images.nbytes)
            stock.unregister_system_shared_memory("images")
    finally:
        block.close()
        block.unlink()
    assert base64.b64decode(kept(sink, "memory")["image"]) == images[4].tobytes()


def test_what_shadow_hides_is_nowhere_announced(mixed: Any) -> None:
    shown = ["logits", "path", "active_macs"]
    with triton.InferenceServerClient(mixed[0].url) as stock:
        assert [output.name for output in stock.get_model_metadata("shadow").outputs] == shown
        assert [output.name for output in stock.get_model_config("shadow").config.output] == shown
        assert len(stock.get_model_metadata("bundle").outputs) == 5


def test_policy_and_sink_pass_plain_models_over(mixed: Any, images: Images) -> None:
    server, _ = mixed
    tensor = triton.InferInput("INPUT0", [2, 3, 8, 8], "FP32")
    tensor.set_data_from_numpy(np.ones((2, 3, 8, 8), dtype=np.float32))
    with triton.InferenceServerClient(server.url) as stock:
        result = stock.infer("plain", [tensor])
    assert result.as_numpy("OUTPUT0").shape == (2, 3, 8, 8)
    assert not result.get_response().parameters
    assert sample(server, "penstock_flag_rejected_total", model="plain") == 0
    with PathClient(server.url) as paths:
        for ask in (
            lambda: paths.path_profile("plain"),
            lambda: paths.watch_flags("plain"),
            lambda: paths.explain("plain", images),
        ):
            with pytest.raises(
                UnsupportedError, match="'plain' is a plain ONNX model, without paths and flags"
            ):
                ask()
    with pytest.raises(UnsupportedError, match="expected images as 'images'"):
        client.model_info(server.url, "plain")


def test_largest_batch_of_the_settings_holds_for_every_model(mixed: Any, images: Images) -> None:
    server, _ = mixed
    with triton.InferenceServerClient(server.url) as stock:
        sizes = [stock.get_model_config(name).config.max_batch_size for name in ("bundle", "plain")]
    assert sizes == [6, 4]
    with pytest.raises(InvalidArgumentError, match="batch size 7"):
        client.infer(server.url, "bundle", np.zeros((7, 3, 8, 8), dtype=np.float32))


def test_policy_comes_with_a_model_that_is_loaded_and_goes_with_it(
    tmp_path: Path, start: Any, add_model: Any, images: Images
) -> None:
    home = add_model(tmp_path / "models", "model", detector=True).parent
    config = config_of(home)
    with (
        start(tmp_path / "models", model_control_mode="explicit") as server,
        triton.InferenceServerClient(server.url) as stock,
        PathClient(server.url) as paths,
    ):
        with pytest.raises(NotFoundError):
            paths.path_profile("model")
        stock.load_model("model")
        assert sample(server, "penstock_macs_saved_total", model="model") == 0
        assert client.infer(server.url, "model", images).adversarial.any()
        assert paths.path_profile("model").window == 5
        config.parameters["penstock_flag_policy"].string_value = "reject"
        stock.load_model("model", config=json_format.MessageToJson(config))
        with pytest.raises(FlaggedError):
            client.infer(server.url, "model", images)
        assert len(paths.explain("model", images)) == 5
        config.parameters["penstock_flag_policy"].string_value = "applaud"
        with pytest.raises(
            InferenceServerException, match="penstock_flag_policy 'applaud'; expected annotate"
        ):
            stock.load_model("model", config=json_format.MessageToJson(config))
        with pytest.raises(FlaggedError):  # what served before serves on
            client.infer(server.url, "model", images)
        stock.unload_model("model")
        with pytest.raises(UnavailableError):
            paths.explain("model", images)


def test_model_whose_policy_hides_all_its_outputs_is_not_served(
    tmp_path: Path, start: Any, add_model: Any
) -> None:
    home = add_model(tmp_path / "models", "mute", policy="shadow").parent
    config = config_of(home)
    for tensor in [tensor for tensor in config.output if tensor.name != "adversarial"]:
        config.output.remove(tensor)
    (home / "config.pbtxt").write_text(text_format.MessageToString(config))
    with start(tmp_path / "models") as server:
        log = server.log.read_text()
    assert "lists no outputs but adversarial, anomaly_score, which its policy hides" in log
