"""Requests made at random: the answer is always OK or INVALID_ARGUMENT, and the server lives on."""

from __future__ import annotations

from typing import Any

import grpc
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from penstock.bundle import OUTPUTS

INT64 = st.integers(-(2**63), 2**63 - 1)
DATATYPES = st.sampled_from(["FP32", "FP64", "FP16", "UINT8", "BYTES", "BOOL", "INT64", ""]) | st.text(
    max_size=8
)
NAMES = st.sampled_from(["images", "image", ""]) | st.text(max_size=8)
RIGHT_SHAPES = st.integers(-1, 10).map(lambda count: [count, 3, 8, 8])
SHAPES = RIGHT_SHAPES | st.lists(st.integers(-1, 9) | INT64, max_size=6)
RAW = st.integers(0, 9).map(lambda count: b"\x80\x3f\x7f\xff" * (192 * count)) | st.binary(max_size=64)
FLOATS = st.floats(width=32)
CONTENTS = st.builds(
    service_pb2.InferTensorContents,
    fp32_contents=st.lists(FLOATS, max_size=4) | st.integers(0, 2).map(lambda count: [0.5] * (192 * count)),
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2),
    bytes_contents=st.lists(st.binary(max_size=4), max_size=2),
)
PARAMETERS = st.dictionaries(
    st.sampled_from(["priority", "timeout", "sequence_id", "sequence_start", "triton_x", "mine"])
    | st.text(max_size=8),
    st.one_of(
        st.builds(service_pb2.InferParameter),
        st.builds(service_pb2.InferParameter, bool_param=st.booleans()),
        st.builds(service_pb2.InferParameter, int64_param=INT64),
        st.builds(service_pb2.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
        st.builds(service_pb2.InferParameter, double_param=st.floats()),
        st.builds(service_pb2.InferParameter, string_param=st.text(max_size=8)),
    ),
    max_size=3,
)
INPUTS = st.builds(
    service_pb2.ModelInferRequest.InferInputTensor,
    name=NAMES,
    datatype=DATATYPES,
    shape=SHAPES,
    contents=st.none() | CONTENTS,
)
RIGHT_INPUTS = st.builds(
    service_pb2.ModelInferRequest.InferInputTensor,
    name=st.just("images"),
    datatype=st.just("FP32"),
    shape=RIGHT_SHAPES,
)
REQUESTS = st.builds(
    service_pb2.ModelInferRequest,
    model_name=st.sampled_from(["batched", "single"]),
    model_version=st.sampled_from(["", "1"]),
    id=st.text(max_size=8),
    inputs=st.lists(RIGHT_INPUTS, min_size=1, max_size=1) | st.lists(INPUTS, max_size=3),
    outputs=st.lists(
        st.builds(
            service_pb2.ModelInferRequest.InferRequestedOutputTensor,
            name=st.sampled_from(OUTPUTS) | st.text(max_size=8),
        ),
        max_size=3,
    ),
    parameters=st.just({}) | PARAMETERS,
    raw_input_contents=st.lists(RAW, max_size=3),
)


@given(request=REQUESTS)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_request_is_answered_or_refused(stub: Any, request: service_pb2.ModelInferRequest) -> None:
    call = stub.ModelInfer.future(request, timeout=30)
    assert call.code() in (StatusCode.OK, StatusCode.INVALID_ARGUMENT), call.details()
    if call.code() is StatusCode.OK:
        response = call.result()
        assert response.id == request.id
        assert len(response.outputs) == len(response.raw_output_contents) > 0


@given(data=st.binary(max_size=200))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused(server: Any, data: bytes) -> None:
    with grpc.insecure_channel(server.url) as channel:
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        call = infer.future(data, timeout=30)
        # No message, a message that names no model, or one with a version that is none.
        assert call.code() in (StatusCode.INTERNAL, StatusCode.NOT_FOUND, StatusCode.INVALID_ARGUMENT)
        assert "internal error" not in (call.details() or "")
