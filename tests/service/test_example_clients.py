"""What the example clients of Triton do, each against one server of the ``simple`` models and of an image model.

The server is started as their own is: named ``triton``, models on request, shared memory allowed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio
import tritonclient.utils.shared_memory as shm
from google.protobuf import text_format
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from tests.service.bundles import CLASSES, SHAPE, add_bundle
from tests.service.plain import SIMPLE_CONFIG, add_examples, add_model, simple

Client = Any  # tritonclient is not typed
Array = npt.NDArray[Any]

LEFT = np.arange(16, dtype=np.int32)[None]
RIGHT = np.ones((1, 16), dtype=np.int32)
CHANNEL = [
    ("grpc.max_send_message_length", 2**20),
    ("grpc.max_receive_message_length", 2**20),
    ("grpc.keepalive_permit_without_calls", False),
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.dns_enable_srv_queries", 1),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, start: Any) -> Iterator[Any]:
    folder = add_examples(tmp_path_factory.mktemp("examples") / "models")
    add_model(folder, "simple_int8", simple(TensorProto.INT8), SIMPLE_CONFIG % {"type": "TYPE_INT8"})
    add_bundle(folder, "pixels", input_type="uint8")
    _list_only_logits(folder / "pixels" / "config.pbtxt")
    settings = {"model_control_mode": "explicit", "load_model": "*", "system_shared_memory": 1}
    with start(folder, threads=1, server_name="triton", **settings) as running:
        yield running


def _list_only_logits(file: Path) -> None:
    config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
    del config.output[1:]
    file.write_text(text_format.MessageToString(config))


@pytest.fixture
def client(served: Any) -> Iterator[Client]:
    with triton.InferenceServerClient(served.url) as stock:
        yield stock


def pair(module: Any = triton) -> list[Any]:
    tensors = []
    for name, values in (("INPUT0", LEFT), ("INPUT1", RIGHT)):
        tensor = module.InferInput(name, [1, 16], "INT32")
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    return tensors


def wanted(module: Any = triton) -> list[Any]:
    return [module.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]


def assert_sums(result: Any) -> None:
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), LEFT + RIGHT)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), LEFT - RIGHT)


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_plain(client: Client, algorithm: str | None) -> None:
    outcome = client.infer(
        "simple",
        pair(),
        outputs=wanted(),
        client_timeout=30,
        headers={"test": "1"},
        compression_algorithm=algorithm,
    )
    assert_sums(outcome)
    assert_sums(client.infer("simple", pair(), headers={"test": "1"}))
    counted = client.get_inference_statistics(model_name="simple").model_stats
    assert len(counted) == 1
    assert counted[0].inference_stats.success.count >= 2


def test_async(client: Client) -> None:
    answers: Queue[tuple[Any, Any]] = Queue()
    client.async_infer("simple", pair(), lambda result, error: answers.put((result, error)), outputs=wanted())
    result, error = answers.get(timeout=30)
    assert error is None
    assert_sums(result)


def test_aio(served: Any) -> None:
    aio = tritonclient.grpc.aio

    async def ask() -> None:
        async with aio.InferenceServerClient(served.url) as client:
            assert_sums(await client.infer("simple", pair(aio), outputs=wanted(aio), headers={"test": "1"}))
            assert len((await client.get_inference_statistics("simple")).model_stats) == 1
            with pytest.raises(InferenceServerException, match="unknown model: 'wrong'"):
                await client.get_model_metadata("wrong")

            async def requests() -> Any:
                for number in range(3):
                    yield {"model_name": "simple", "inputs": pair(aio), "request_id": str(number)}

            async for result, error in client.stream_infer(requests()):
                assert error is None
                assert_sums(result)

    asyncio.run(ask())


@pytest.mark.parametrize(
    "options",
    [
        {
            "keepalive_options": triton.KeepAliveOptions(
                keepalive_time_ms=2**31 - 1,
                keepalive_timeout_ms=20000,
                keepalive_permit_without_calls=False,
                http2_max_pings_without_data=2,
            )
        },
        {"channel_args": CHANNEL},
    ],
    ids=["keepalive", "custom arguments"],
)
def test_channels_of_their_own(served: Any, options: dict[str, Any]) -> None:
    with triton.InferenceServerClient(served.url, **options) as client:
        assert_sums(client.infer("simple", pair(), outputs=wanted(), headers={"test": "1"}))


def test_text(client: Client) -> None:
    tensors = []
    for name, values in (("INPUT0", LEFT), ("INPUT1", RIGHT)):
        tensor = triton.InferInput(name, [1, 16], "BYTES")
        tensor.set_data_from_numpy(np.array([str(n).encode() for n in values[0]], dtype=np.object_)[None])
        tensors.append(tensor)
    result = client.infer("simple_string", tensors, outputs=wanted())
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0").astype(int), LEFT + RIGHT)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1").astype(int), LEFT - RIGHT)

    echo = triton.InferInput("INPUT0", [1, 16], "BYTES")
    zeros = np.array([(b"%d\0%d" % (n, n)) for n in range(16)], dtype=np.object_)[None]
    echo.set_data_from_numpy(zeros)
    got = client.infer("simple_identity", [echo]).as_numpy("OUTPUT0")
    np.testing.assert_array_equal(got, zeros)


@pytest.mark.parametrize(
    ("model", "kind", "field"),
    [
        ("simple", "INT32", "int_contents"),
        ("simple_int8", "INT8", "int_contents"),
        ("simple_string", "BYTES", "bytes_contents"),
    ],
)
def test_typed_contents_are_answered_raw(client: Client, model: str, kind: str, field: str) -> None:
    request = service_pb2.ModelInferRequest(model_name=model, id="my request id")
    for name, values in (("INPUT0", LEFT), ("INPUT1", RIGHT)):
        tensor = request.inputs.add(name=name, datatype=kind, shape=[1, 16])
        numbers = values[0].tolist()
        getattr(tensor.contents, field).extend(
            [str(n).encode() for n in numbers] if kind == "BYTES" else numbers
        )
    for name in ("OUTPUT0", "OUTPUT1"):
        request.outputs.add(name=name)
    response = client._client_stub.ModelInfer(request)
    assert response.id == "my request id"
    for raw, expected in zip(response.raw_output_contents, (LEFT + RIGHT, LEFT - RIGHT), strict=True):
        if kind == "BYTES":
            texts = np.array([str(n).encode() for n in expected[0]], dtype=np.object_)
            assert raw == serialize_byte_tensor(texts).item()
        else:
            np.testing.assert_array_equal(np.frombuffer(raw, kind.lower()), expected[0])


def test_health_and_metadata(client: Client) -> None:
    headers = {"test": "1", "dummy": "2"}
    assert client.is_server_live(headers=headers)
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.get_server_metadata().name == "triton"
    assert client.get_model_metadata("simple", headers=headers).name == "simple"
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        client.get_model_metadata("wrong_model_name")
    assert client.get_model_config("simple").config.name == "simple"


@contextmanager
def region(client: Client, name: str, size: int) -> Iterator[Any]:
    """A registered region of shared memory, empty."""
    key = f"/penstock-{name}-{os.getpid()}"
    handle = shm.create_shared_memory_region(name, key, size)
    try:
        client.register_system_shared_memory(name, key, size)
        yield handle
        client.unregister_system_shared_memory(name)
    finally:
        shm.destroy_shared_memory_region(handle)


def test_shared_memory_and_messages_in_turn(client: Client) -> None:
    """The same tensor objects, by region, by message, and by region again."""
    client.unregister_system_shared_memory()
    inputs, outputs = pair(), wanted()
    with region(client, "input_data", 128) as given, region(client, "output_data", 128) as got:
        shm.set_shared_memory_region(given, [LEFT, RIGHT])
        for by_region in (True, False, True):
            for number, (taken, made) in enumerate(zip(inputs, outputs, strict=True)):
                if by_region:
                    taken.set_shared_memory("input_data", 64, offset=64 * number)
                    made.set_shared_memory("output_data", 64, offset=64 * number)
                else:
                    taken.set_data_from_numpy((LEFT, RIGHT)[number])
                    made.unset_shared_memory()
            result = client.infer("simple", inputs, outputs=outputs)
            if not by_region:
                assert_sums(result)
                shm.set_shared_memory_region(got, [np.zeros(32, np.int32)])
                continue
            values = shm.get_contents_as_numpy(got, np.int32, [2, 16])
            np.testing.assert_array_equal(values, np.concatenate([LEFT + RIGHT, LEFT - RIGHT]))
    assert not client.get_system_shared_memory_status().regions


def test_text_in_shared_memory(client: Client) -> None:
    texts = [np.array([str(n).encode() for n in values[0]], dtype=np.object_) for values in (LEFT, RIGHT)]
    sizes = [len(serialize_byte_tensor(text).item()) for text in texts]
    with region(client, "texts", sum(sizes)) as given, region(client, "answers", 512) as got:
        shm.set_shared_memory_region(given, [serialize_byte_tensor(text) for text in texts])
        inputs = [triton.InferInput(name, [1, 16], "BYTES") for name in ("INPUT0", "INPUT1")]
        inputs[0].set_shared_memory("texts", sizes[0])
        inputs[1].set_shared_memory("texts", sizes[1], offset=sizes[0])
        outputs = wanted()
        for number, output in enumerate(outputs):
            output.set_shared_memory("answers", 256, offset=256 * number)
        client.infer("simple_string", inputs, outputs=outputs)
        for number, expected in enumerate((LEFT + RIGHT, LEFT - RIGHT)):
            values = shm.get_contents_as_numpy(got, np.object_, [1, 16], offset=256 * number)
            np.testing.assert_array_equal(values.astype(int), expected)


def test_model_control(client: Client) -> None:
    assert len(client.get_model_repository_index().models) == 5
    client.load_model("simple")
    with pytest.raises(InferenceServerException, match="failed to load"):
        client.load_model("simple", config='"parameters": {"config": {{"max_batch_size": "16"}}}')
    client.load_model("simple", config='{"max_batch_size":"16"}')
    assert client.get_model_config("simple").config.max_batch_size == 16
    client.unload_model("simple")
    assert not client.is_model_ready("simple")
    with pytest.raises(InferenceServerException, match="failed to load"):
        client.load_model("wrong_model_name")
    client.load_model("simple")
    assert client.get_model_config("simple").config.max_batch_size == 8
    assert client.is_model_ready("simple")


def test_image_client_finds_what_it_needs_to_know(client: Client) -> None:
    metadata = client.get_model_metadata("pixels")
    config = client.get_model_config("pixels").config
    assert (len(metadata.inputs), len(metadata.outputs), len(config.input)) == (1, 1, 1)
    assert (metadata.inputs[0].datatype, metadata.outputs[0].datatype) == ("UINT8", "FP32")
    assert config.input[0].format == model_config_pb2.ModelInput.FORMAT_NCHW
    assert list(metadata.inputs[0].shape[1:]) == list(SHAPE)


@pytest.mark.parametrize("way", ["plain", "async", "stream"])
@pytest.mark.parametrize("batch", [1, 2])
def test_image_client_classifies(client: Client, way: str, batch: int) -> None:
    """Three images in batches, the last one filled up with the first image, two classes each."""
    images = np.random.default_rng(0).integers(0, 256, size=(3, *SHAPE), dtype=np.uint8)
    whole = triton.InferInput("images", list(images.shape), "UINT8")
    whole.set_data_from_numpy(images)
    logits = client.infer("pixels", [whole]).as_numpy("logits")
    answers: Queue[tuple[str, Any, Any]] = Queue()
    if way == "stream":
        client.start_stream(
            lambda result, error: answers.put((result and result.get_response().id, result, error))
        )
    batches = {str(first): [n % 3 for n in range(first, first + batch)] for first in range(0, 3, batch)}
    for name, rows in batches.items():
        tensor = triton.InferInput("images", [batch, *SHAPE], "UINT8")
        tensor.set_data_from_numpy(images[rows])
        ask = {"request_id": name, "outputs": [triton.InferRequestedOutput("logits", class_count=2)]}
        if way == "plain":
            answers.put((name, client.infer("pixels", [tensor], **ask), None))
        elif way == "async":
            client.async_infer("pixels", [tensor], partial(_keep, answers, name), **ask)
        else:
            client.async_stream_infer("pixels", [tensor], **ask)
    for _ in batches:
        name, result, error = answers.get(timeout=30)
        assert error is None
        texts = [[text.decode().split(":") for text in row] for row in result.as_numpy("logits")]
        assert [[label for _, _, label in row] for row in texts] == _best_two(logits[batches[name]])
    if way == "stream":
        client.stop_stream()


def _keep(answers: Queue[tuple[str, Any, Any]], name: str, result: Any, error: Any) -> None:
    answers.put((name, result, error))


def _best_two(logits: Array) -> list[list[str]]:
    return [[CLASSES[place] for place in np.argsort(-row)[:2]] for row in logits]
