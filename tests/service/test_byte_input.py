"""A model that takes pixels as bytes: the same answers, from clients that send them as they are in the file."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from penstock.bundle import OUTPUTS
from penstock.service.client import infer, model_info

PIXELS = np.random.default_rng(5).integers(0, 256, size=(3, 3, 8, 8), dtype=np.uint8)


def typed(values: list[int], datatype: str = "UINT8") -> service_pb2.ModelInferRequest:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name="images", datatype=datatype, shape=[1, 3, 8, 8]
    )
    tensor.contents.uint_contents.extend(values)
    return service_pb2.ModelInferRequest(model_name="pixels", inputs=[tensor])


def test_pixels_get_the_answers_of_their_float_values(server: Any) -> None:
    answer = infer(server.url, "pixels", PIXELS)
    wanted = infer(server.url, "batched", PIXELS.astype(np.float32) / np.float32(255))
    for name in OUTPUTS:
        np.testing.assert_array_equal(getattr(answer, name), getattr(wanted, name), err_msg=name)


def test_the_server_says_what_a_model_takes(server: Any, client: Any) -> None:
    assert model_info(server.url, "pixels").input_type == "uint8"
    assert model_info(server.url, "batched").input_type == "fp32"
    assert client.get_model_metadata("pixels").inputs[0].datatype == "UINT8"
    assert client.get_model_config("pixels").config.input[0].data_type == 2  # TYPE_UINT8


def test_typed_contents_hold_bytes(server: Any, stub: Any) -> None:
    reply = stub.ModelInfer(typed(PIXELS[0].ravel().tolist()))
    logits = np.frombuffer(reply.raw_output_contents[0], np.float32)
    np.testing.assert_array_equal(logits, infer(server.url, "pixels", PIXELS[:1]).logits[0])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (typed([256] + [0] * 191), "input 'images' holds 256; a UINT8 ends at 255"),
        (typed([0] * 191), "Expected 192 for shape [1,3,8,8], got 191"),
        (typed([0] * 192, "FP32"), "has datatype 'FP32'; expected 'UINT8'"),
        (typed([]), "expected raw_input_contents or contents.uint_contents, got neither"),
    ],
)
def test_what_holds_no_bytes_is_refused(stub: Any, request_: Any, message: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request_)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in str(refused.value.details())


def test_a_raw_request_of_the_wrong_size_is_refused(stub: Any, request_for: Any) -> None:
    request = request_for("pixels", PIXELS.astype(np.float32))
    request.inputs[0].datatype = "UINT8"
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request)
    assert "Expected 576 for shape [3,3,8,8] UINT8, got 2304" in str(refused.value.details())
