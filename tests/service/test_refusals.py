"""Every request that cannot be served gets Triton's status and a message that helps and tells no secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from grpc import StatusCode
from tritonclient.grpc import service_pb2

Images = npt.NDArray[np.float32]
Infer = Any  # service_pb2.ModelInferRequest, whose module has no types
Request = Callable[..., Infer]
Spoil = Callable[[Infer], Any]

NAN_IMAGE, INFINITE_IMAGE = (np.full((1, 3, 8, 8), value, dtype=np.float32) for value in (np.nan, np.inf))


def shape(*dims: int) -> Spoil:
    def spoil(request: Infer) -> None:
        request.inputs[0].shape[:] = dims

    return spoil


def batch(count: int) -> Spoil:
    def spoil(request: Infer) -> None:
        shape(count, 3, 8, 8)(request)
        request.raw_input_contents[0] = bytes(count * 768)

    return spoil


def parameter(name: str, **value: Any) -> Spoil:
    def spoil(request: Infer) -> None:
        request.parameters[name].MergeFrom(service_pb2.InferParameter(**value))

    return spoil


def set_field(**fields: Any) -> Spoil:
    return lambda request: request.MergeFrom(service_pb2.ModelInferRequest(**fields))


def rename_input(name: str) -> Spoil:
    return lambda request: setattr(request.inputs[0], "name", name)


def datatype(name: str) -> Spoil:
    return lambda request: setattr(request.inputs[0], "datatype", name)


def raw(data: bytes) -> Spoil:
    return lambda request: request.raw_input_contents.__setitem__(0, data)


def no_raw(request: Infer) -> None:
    del request.raw_input_contents[:]


def typed(**contents: Any) -> Spoil:
    def spoil(request: Infer) -> None:
        no_raw(request)
        request.inputs[0].contents.MergeFrom(service_pb2.InferTensorContents(**contents))

    return spoil


def raw_and_typed(request: Infer) -> None:
    request.inputs[0].contents.fp32_contents.extend([0.0] * 192)


def input_again(request: Infer) -> None:
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


def other_input(request: Infer) -> None:
    input_again(request)
    request.inputs[1].name = "mask"


def output(name: str, **parameters: Any) -> Spoil:
    def spoil(request: Infer) -> None:
        wanted = request.outputs.add(name=name)
        for key, value in parameters.items():
            wanted.parameters[key].MergeFrom(value)

    return spoil


def input_in_shared_memory(request: Infer) -> None:
    no_raw(request)
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"


INVALID, NOT_FOUND, MISSING = (
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.UNIMPLEMENTED,
)
WHOLE = service_pb2.InferParameter(int64_param=3)
NONE, MINUS = (service_pb2.InferParameter(int64_param=count) for count in (0, -1))
TEXT = service_pb2.InferParameter(string_param="region")

CASES: dict[str, tuple[Spoil, StatusCode, str]] = {
    "unknown model": (set_field(model_name="nobody"), NOT_FOUND, "unknown model: 'nobody'"),
    "empty model name": (lambda r: r.ClearField("model_name"), NOT_FOUND, "unknown model: ''"),
    "absurdly long model name": (set_field(model_name="x" * 100_000), NOT_FOUND, "unknown model: 'xxx"),
    "unknown version": (set_field(model_version="99"), NOT_FOUND, "version 99 is not found"),
    "version zero": (set_field(model_version="0"), NOT_FOUND, "version 0 is not found"),
    "version that is a word": (set_field(model_version="abc"), INVALID, "'abc' is no version number"),
    "negative version": (set_field(model_version="-1"), INVALID, "'-1' is no version number"),
    "version beyond 64 bits": (set_field(model_version="9" * 30), INVALID, "is no version number"),
    "other digits": (set_field(model_version="²"), INVALID, "is no version number"),
    "wrong height": (shape(1, 3, 9, 8), INVALID, "Expected [N,3,8,8], got [1,3,9,8]"),
    "wrong rank": (shape(3, 8, 8), INVALID, "Expected [N,3,8,8], got [3,8,8]"),
    "no shape": (shape(), INVALID, "Expected [N,3,8,8], got []"),
    "thousands of dims": (shape(*[1] * 5000), INVALID, "got [1,1,1,1,1,1,1,1,...]"),
    "negative batch": (shape(-1, 3, 8, 8), INVALID, "got [-1,3,8,8]"),
    "negative height": (shape(1, 3, -8, -8), INVALID, "got [1,3,-8,-8]"),
    "dims that overflow": (shape(2**62, 3, 8, 8), INVALID, "N from 1 to 8"),
    "dims whose product wraps to zero": (shape(2**32, 2**32, 8, 8), INVALID, "Expected [N,3,8,8]"),
    "batch of none": (batch(0), INVALID, "batch size 0"),
    "batch too large": (batch(9), INVALID, "N from 1 to 8, got [9,3,8,8]"),
    "wrong datatype": (datatype("FP64"), INVALID, "datatype 'FP64'; expected 'FP32'"),
    "datatype of no protocol": (datatype("FLOAT"), INVALID, "datatype 'FLOAT'; expected 'FP32'"),
    "no datatype": (datatype(""), INVALID, "datatype ''; expected 'FP32'"),
    "no inputs": (lambda r: r.ClearField("inputs"), INVALID, "expected 1 input, 'images', got 0 inputs"),
    "unknown input": (rename_input("pictures"), INVALID, "expected 1 input, 'images', got 1 inputs ['pict"),
    "input too many": (other_input, INVALID, "got 2 inputs ['images', 'mask']"),
    "duplicate input": (input_again, INVALID, "an input was given twice"),
    "unknown output": (output("labels"), INVALID, "unexpected inference output 'labels'"),
    "too few bytes": (raw(bytes(764)), INVALID, "Expected 768 for shape [1,3,8,8] FP32, got 764"),
    "too many bytes": (raw(bytes(769)), INVALID, "Expected 768 for shape [1,3,8,8] FP32, got 769"),
    "empty bytes": (raw(b""), INVALID, "Expected 768 for shape [1,3,8,8] FP32, got 0"),
    "no data": (no_raw, INVALID, "expected raw_input_contents or contents.fp32_contents, got neither"),
    "typed data of another type": (typed(int_contents=[1] * 192), INVALID, "got ['int_contents']"),
    "too few typed values": (typed(fp32_contents=[0.0] * 191), INVALID, "Expected 192"),
    "raw and typed": (raw_and_typed, INVALID, "both in raw_input_contents and in contents"),
    "priority as text": (parameter("priority", string_param="high"), INVALID, "has a string_param; expected"),
    "negative priority": (parameter("priority", int64_param=-1), INVALID, "'priority' is -1; expected 0"),
    "timeout as text": (parameter("timeout", string_param="1s"), INVALID, "'timeout' has a string_param"),
    "sequence id as bool": (parameter("sequence_id", bool_param=True), INVALID, "'sequence_id' has a bool"),
    "unknown triton key": (parameter("triton_magic", bool_param=True), INVALID, "'triton_magic'"),
    "unsigned custom parameter": (parameter("mine", uint64_param=1), INVALID, "'mine' has a uint64_param"),
    "parameter without value": (parameter("mine"), INVALID, "'mine' has no value"),
    "no classes": (output("logits", classification=NONE), INVALID, "classification of 0 classes; expected 1"),
    "negative classes": (output("logits", classification=MINUS), INVALID, "no whole number of 0 or more"),
    "classes as text": (output("logits", classification=TEXT), INVALID, "(a string_param); expected an int"),
    "shared memory output": (
        output("logits", shared_memory_region=TEXT, shared_memory_byte_size=WHOLE),
        MISSING,
        "shared memory is switched off",
    ),
    "shared memory without size": (
        input_in_shared_memory,
        INVALID,
        "expected shared_memory_region with a text",
    ),
    "shared memory without region": (
        output("logits", shared_memory_byte_size=WHOLE),
        INVALID,
        "expected shared_memory_region with a text",
    ),
}


def refusal(call: Callable[[], Any]) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def assert_nothing_leaks(message: str, repository: Any) -> None:
    assert len(message) <= 1000
    for secret in ("Traceback", str(repository), "onnxruntime", "ONNXRuntimeError", ".py", "0x"):
        assert secret not in message


@pytest.mark.parametrize("model", ["batched", "single"])
@pytest.mark.parametrize("case", CASES)
def test_request_is_refused(
    stub: Any, repository: Any, request_for: Request, images: Images, case: str, model: str
) -> None:
    spoil, code, fragment = CASES[case]
    request = request_for(model, images[:1])
    spoil(request)
    error = refusal(lambda: stub.ModelInfer(request, timeout=30))
    assert (error.code(), fragment in error.details()) == (code, True), error.details()
    assert_nothing_leaks(error.details(), repository)
    assert stub.ModelInfer(request_for(model, images[:1]), timeout=30).id == "42"


def two_raw_entries(request: Infer) -> None:
    request.raw_input_contents.append(b"no one asked")


def same_output_twice(request: Infer) -> None:
    request.outputs.add(name="logits")
    request.outputs.add(name="logits")


@pytest.mark.parametrize(
    "spoil",
    [raw(NAN_IMAGE.tobytes()), raw(INFINITE_IMAGE.tobytes()), two_raw_entries, same_output_twice],
    ids=["nan", "infinite", "extra raw entry", "duplicate requested output"],
)
@pytest.mark.parametrize("model", ["batched", "single"])
def test_odd_request_is_served(
    stub: Any, request_for: Request, images: Images, spoil: Spoil, model: str
) -> None:
    request = request_for(model, images[:1])
    spoil(request)
    response = stub.ModelInfer(request, timeout=30)
    assert len(response.outputs) == len(response.raw_output_contents) == (1 if request.outputs else 5)


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize(
    ("name", "version", "code"),
    [("nobody", "", NOT_FOUND), ("batched", "99", NOT_FOUND), ("batched", "abc", INVALID)],
)
def test_questions_about_models_that_are_not_there(
    stub: Any, method: str, name: str, version: str, code: StatusCode
) -> None:
    request = getattr(service_pb2, f"{method}Request")(name=name, version=version)
    assert refusal(lambda: getattr(stub, method)(request, timeout=30)).code() is code


def test_ready_question_with_a_bad_version(stub: Any) -> None:
    request = service_pb2.ModelReadyRequest(name="batched", version="abc")
    assert refusal(lambda: stub.ModelReady(request, timeout=30)).code() is INVALID


@pytest.mark.parametrize(
    ("method", "fields", "reason"),
    [
        ("TraceSetting", {}, "trace settings cannot be read or changed here"),
        ("CudaSharedMemoryRegister", {"name": "x"}, "CUDA shared memory is not offered"),
        ("SystemSharedMemoryStatus", {}, "system shared memory is switched off"),
        ("SystemSharedMemoryRegister", {"name": "x", "key": "x"}, "system shared memory is switched off"),
        ("RepositoryIndex", {"repository_name": "other"}, "'other' is not supported"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(
    stub: Any, method: str, fields: dict[str, str], reason: str
) -> None:
    request = getattr(service_pb2, f"{method}Request")(**fields)
    error = refusal(lambda: getattr(stub, method)(request, timeout=30))
    assert error.code() is MISSING
    assert reason in error.details()


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_models_are_not_changed_without_leave(stub: Any, method: str) -> None:
    request = getattr(service_pb2, f"{method}Request")(model_name="batched")
    error = refusal(lambda: getattr(stub, method)(request, timeout=30))
    assert error.code() is StatusCode.UNAVAILABLE
    assert "the model control mode is 'none'" in error.details()


@pytest.mark.parametrize(
    "method",
    [
        "/inference.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService/ModelStreamInfer",
        "/inference.GRPCInferenceService/RepositoryModelLoad",
        "/inference.GRPCInferenceService/ModelConfig",
        "/penstock.service.v1.PathService/GetPathProfile",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    ],
)
def test_garbage_instead_of_a_message(server: Any, method: str) -> None:
    with grpc.insecure_channel(server.url) as channel:
        stream: Any = channel.unary_stream(method)  # reads the one answer of a unary method as well
        error = refusal(lambda: list(stream(b"\xff\xff no protobuf", timeout=30)))
    assert (error.code(), error.details()) == (StatusCode.INTERNAL, "Unable to parse request")


def test_unknown_method(server: Any) -> None:
    with grpc.insecure_channel(server.url) as channel:
        guess: Any = channel.unary_unary("/inference.GRPCInferenceService/Guess")
        error = refusal(lambda: guess(b"", timeout=30))
    assert error.code() is MISSING


def test_failure_of_ours_tells_a_request_id_and_nothing_else(
    stub: Any, server: Any, request_for: Request, images: Images
) -> None:
    images[0, 0, 0, 0] = 1
    error = refusal(lambda: stub.ModelInfer(request_for("brittle", images), timeout=30))
    text, _, request_id = error.details().rpartition(" ")
    assert (error.code(), text) == (StatusCode.INTERNAL, "internal error, request id")
    assert request_id in server.log.read_text()
    images[0, 0, 0, 0] = 0
    assert stub.ModelInfer(request_for("brittle", images), timeout=30).id == "42"
