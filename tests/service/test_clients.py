"""Stock clients of the protocol, unchanged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.grpc import service_pb2

from penstock.bundle import OUTPUTS

Images = npt.NDArray[np.float32]
Client = Any  # tritonclient is not typed

MODELS = ("batched", "single")
both_models = pytest.mark.parametrize("model", MODELS)


def tensor(images: Images, module: Any = tritonclient.grpc) -> Any:
    value = module.InferInput("images", list(images.shape), "FP32")
    value.set_data_from_numpy(images)
    return value


def answers(result: Any) -> dict[str, npt.NDArray[Any]]:
    return {name: result.as_numpy(name) for name in OUTPUTS}


def assert_same(left: dict[str, npt.NDArray[Any]], right: dict[str, npt.NDArray[Any]]) -> None:
    for name in OUTPUTS:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-6, atol=1e-7, err_msg=name)


@both_models
def test_sync_client_gets_every_output(client: Client, images: Images, model: str) -> None:
    outputs = answers(client.infer(model, [tensor(images)]))
    assert {name: (value.dtype.name, value.shape) for name, value in outputs.items()} == {
        "logits": ("float32", (5, 4)),
        "path": ("uint8", (5, 6)),
        "active_macs": ("float32", (5, 1)),
        "anomaly_score": ("float32", (5, 1)),
        "adversarial": ("bool", (5, 1)),
    }
    np.testing.assert_allclose(
        outputs["anomaly_score"][:, 0], images.mean(axis=(2, 3)).sum(axis=1), rtol=1e-5
    )
    assert outputs["adversarial"][:, 0].tolist() == [False, False, False, False, True]
    assert 0 < outputs["path"].mean() < 1


@both_models
def test_batch_is_answered_like_its_images_one_by_one(client: Client, images: Images, model: str) -> None:
    together = answers(client.infer(model, [tensor(images)]))
    alone = [answers(client.infer(model, [tensor(images[row : row + 1])])) for row in range(len(images))]
    assert_same(together, {name: np.concatenate([part[name] for part in alone]) for name in OUTPUTS})


def test_graph_for_single_images_answers_like_the_batched_one(client: Client, images: Images) -> None:
    first, second = (answers(client.infer(model, [tensor(images)])) for model in MODELS)
    assert_same(first, second)


@both_models
def test_flags_travel_as_parameters_whatever_was_requested(
    client: Client, images: Images, model: str
) -> None:
    result = client.infer(
        model,
        [tensor(images)],
        outputs=[tritonclient.grpc.InferRequestedOutput("logits")],
        request_id="my-id",
    )
    response = result.get_response()
    assert [output.name for output in response.outputs] == ["logits"]
    assert response.id == "my-id"
    assert response.parameters["penstock_adversarial"].string_param == "0,0,0,0,1"
    scores = [float(text) for text in response.parameters["penstock_anomaly_score"].string_param.split(",")]
    np.testing.assert_array_equal(
        np.array(scores, dtype=np.float32),
        client.infer(model, [tensor(images)]).as_numpy("anomaly_score")[:, 0],
    )


def test_async_infer_with_callbacks(client: Client, images: Images) -> None:
    done: Queue[tuple[int, Any, Any]] = Queue()

    def finished(number: int, result: Any, error: Any) -> None:
        done.put((number, result, error))

    for number in range(len(images)):
        piece = tensor(images[number : number + 1])
        client.async_infer("single", [piece], callback=partial(finished, number))
    whole = answers(client.infer("single", [tensor(images)]))
    for _ in range(len(images)):
        number, result, error = done.get(timeout=30)
        assert error is None
        assert_same(answers(result), {name: whole[name][number : number + 1] for name in OUTPUTS})


@both_models
def test_order_is_kept_under_concurrency(server: Any, images: Images, model: str) -> None:
    rng = np.random.default_rng(0)
    choices = [rng.integers(0, 5, size=rng.integers(1, 9)) for _ in range(40)]

    async def ask_all() -> list[dict[str, npt.NDArray[Any]]]:
        aio = tritonclient.grpc.aio
        async with aio.InferenceServerClient(server.url) as client:
            calls = [client.infer(model, [tensor(images[rows], aio)]) for rows in choices]
            whole = await client.infer(model, [tensor(images, aio)])
            return [answers(result) for result in (whole, *await asyncio.gather(*calls))]

    whole, *parts = asyncio.run(ask_all())
    for rows, part in zip(choices, parts, strict=True):
        assert_same(part, {name: whole[name][rows] for name in OUTPUTS})


def test_server_metadata(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "penstock"
    assert set(metadata.extensions) == {
        "classification",
        "model_repository",
        "model_configuration",
        "schedule_policy",
        "binary_tensor_data",
        "parameters",
        "statistics",
        "logging",
    }


@both_models
def test_model_metadata_announces_batches(client: Client, model: str) -> None:
    metadata = client.get_model_metadata(model, as_json=True)
    assert metadata["versions"] == (["1", "2"] if model == "batched" else ["1"])
    assert metadata["inputs"] == [{"name": "images", "datatype": "FP32", "shape": ["-1", "3", "8", "8"]}]
    assert [(output["name"], output["datatype"], output["shape"]) for output in metadata["outputs"]] == [
        ("logits", "FP32", ["-1", "4"]),
        ("path", "UINT8", ["-1", "6"]),
        ("active_macs", "FP32", ["-1", "1"]),
        ("anomaly_score", "FP32", ["-1", "1"]),
        ("adversarial", "BOOL", ["-1", "1"]),
    ]


@both_models
def test_model_config_is_what_the_service_honours(client: Client, model: str) -> None:
    config = client.get_model_config(model).config
    assert config.name == model
    assert config.max_batch_size == 8
    assert list(config.input[0].dims) == [3, 8, 8]
    assert [list(output.dims) for output in config.output] == [[4], [6], [1], [1], [1]]
    assert json.loads(config.parameters["penstock_class_names"].string_value) == ["ant", "bee", "cat", "dog"]
    assert ("penstock_max_batch" in config.parameters) == (model == "single")


def test_versions(client: Client, images: Images) -> None:
    def answered(version: str) -> str:
        response = client.infer("batched", [tensor(images)], model_version=version).get_response()
        return str(response.model_version)

    assert [answered(version) for version in ("", "1", "2")] == ["2", "1", "2"]
    ready = {version: client.is_model_ready("batched", version) for version in ("", "1", "2", "3")}
    assert ready == {"": True, "1": True, "2": True, "3": False}
    assert not client.is_model_ready("nobody")


def test_typed_contents_are_read_too(
    stub: Any, images: Images, request_for: Callable[..., service_pb2.ModelInferRequest]
) -> None:
    raw = request_for("batched", images)
    typed = request_for("batched", images)
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.fp32_contents.extend(images.ravel().tolist())
    assert stub.ModelInfer(typed) == stub.ModelInfer(raw)


def test_parameters_of_stock_tools_are_accepted(client: Client, images: Images) -> None:
    client.infer(
        "batched",
        [tensor(images)],
        priority=1,
        timeout=1_000_000,
        sequence_id=7,
        sequence_start=True,
        sequence_end=True,
        parameters={"tenant": "a", "trace": True, "retries": 3, "share": 0.5},
    )


def test_empty_final_response_is_accepted_on_unary_calls(
    stub: Any, images: Images, request_for: Callable[..., service_pb2.ModelInferRequest]
) -> None:
    request = request_for("batched", images)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    assert stub.ModelInfer(request).id == "42"


def test_compressed_requests(client: Client, images: Images) -> None:
    plain, gzip = (
        client.infer("batched", [tensor(images)], compression_algorithm=algorithm)
        for algorithm in (None, "gzip")
    )
    assert_same(answers(plain), answers(gzip))
