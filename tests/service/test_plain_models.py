"""Plain ONNX models of a Triton repository: any names, datatypes and shapes, with or without configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import text_format
from grpc import StatusCode
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import np_to_triton_dtype

from penstock.errors import BundleError, InvalidArgumentError
from penstock.service.configuration import completed, wanted_versions
from penstock.service.devices import CPU, Device
from penstock.service.session import GraphTensor, Session
from penstock.service.tensors import DATATYPES, decode, encode, text_array
from tests.service.bundles import CLASSES
from tests.service.plain import FLOAT, INT32, add_examples, add_model, graph, identity

Client = Any  # tritonclient is not typed

KINDS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

RESHAPED = """
max_batch_size: 4
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }
"""


ROWS_OF_TWO = """
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] reshape { shape: [ -1, 2 ] } }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1, 2 ] }
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, start: Any) -> Iterator[Any]:
    """The examples' models, one per datatype, and odd ones."""
    folder = add_examples(tmp_path_factory.mktemp("plain") / "models")
    for name, kind in KINDS.items():
        add_model(folder, f"identity-{name}", identity(kind, [2, "columns"]))
    add_model(folder, "reshaped", identity(FLOAT, ["N"]), RESHAPED)
    add_model(folder, "open", identity(FLOAT, ["N", "rows", "columns"]))
    add_model(folder, "rows-of-two", identity(FLOAT, ["rows", 2]), ROWS_OF_TWO)
    add_model(folder, "scalar", identity(FLOAT, []))
    add_model(folder, "misdescribed", identity(FLOAT, ["N", 3]), RESHAPED)
    add_model(folder, "of-another-backend", identity(FLOAT, ["N"]), 'backend: "python"')
    fixed = graph([helper.make_node("Identity", ["x"], ["y"])], {"x": (INT32, [1])}, {"y": (INT32, [1])})
    add_model(folder, "fixed", fixed, "max_batch_size: 2")
    with start(folder, threads=1) as running:
        yield running


@pytest.fixture
def plain(served: Any) -> Iterator[Client]:
    with triton.InferenceServerClient(served.url) as stock:
        yield stock


def tensor(name: str, values: np.ndarray[Any, Any]) -> Any:
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


@pytest.mark.parametrize("name", KINDS)
def test_every_datatype_comes_back_as_it_went(plain: Client, name: str) -> None:
    values = np.array([[0, 1, 100], [7, 0, 42]]).astype(DATATYPES[name].dtype)
    if name == "BYTES":
        values = np.array([["", "é\0z", "a"], ["b" * 300, "1", "\n"]], dtype=np.object_)
    result = plain.infer(f"identity-{name}", [tensor("INPUT0", values)])
    got = result.as_numpy("OUTPUT0")
    if name == "BYTES":
        got = np.vectorize(bytes.decode, otypes=[object])(got)
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "FP16"])
def test_typed_contents_are_as_good_as_raw_bytes(plain: Client, name: str) -> None:
    values: list[Any] = [b"x", b"yy"] if name == "BYTES" else [1, 0]
    request = service_pb2.ModelInferRequest(model_name=f"identity-{name}")
    given = request.inputs.add(name="INPUT0", datatype=name, shape=[2, 1])
    getattr(given.contents, DATATYPES[name].contents).extend(values)
    response = plain._client_stub.ModelInfer(request)
    expected = np.array(values, dtype=DATATYPES[name].dtype)
    assert list(response.outputs[0].shape) == [2, 1]
    assert response.raw_output_contents[0] == encode(expected)


def test_simple_adds_and_subtracts(plain: Client) -> None:
    left, right = np.arange(32, dtype=np.int32).reshape(2, 16), np.full((2, 16), 3, dtype=np.int32)
    result = plain.infer("simple", [tensor("INPUT0", left), tensor("INPUT1", right)])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), left + right)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), left - right)
    assert not result.get_response().parameters, "no bundle, no flags"
    # The order of the inputs is the client's.
    swapped = plain.infer(
        "simple",
        [tensor("INPUT1", right), tensor("INPUT0", left)],
        outputs=[triton.InferRequestedOutput("OUTPUT1")],
    )
    np.testing.assert_array_equal(swapped.as_numpy("OUTPUT1"), left - right)
    assert swapped.as_numpy("OUTPUT0") is None


def test_simple_string_adds_text(plain: Client) -> None:
    left = np.array([[str(n) for n in range(16)]], dtype=np.object_)
    right = np.full((1, 16), "1", dtype=np.object_)
    result = plain.infer("simple_string", [tensor("INPUT0", left), tensor("INPUT1", right)])
    assert [int(text) for text in result.as_numpy("OUTPUT0")[0]] == list(range(1, 17))


def test_missing_configuration_is_derived_from_the_graph(plain: Client) -> None:
    config = plain.get_model_config("simple_identity").config
    assert (config.backend, config.platform) == ("onnxruntime", "onnxruntime_onnx")
    assert config.max_batch_size == 4  # Triton's default where every first dimension is open
    assert list(config.input[0].dims) == [-1]
    metadata = plain.get_model_metadata("identity-INT8", as_json=True)
    assert metadata["inputs"] == [{"name": "INPUT0", "datatype": "INT8", "shape": ["2", "-1"]}]
    assert plain.get_model_config("identity-INT8").config.max_batch_size == 0


def test_reshape_of_the_configuration_is_applied(plain: Client) -> None:
    values = np.array([[1], [2]], dtype=np.float32)
    result = plain.infer("reshaped", [tensor("INPUT0", values)])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), values)
    result = plain.infer("scalar", [tensor("INPUT0", values[0])])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), values[0])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "misdescribed",
            "has 'INPUT0' of tensor(float) [-1], the batch included; the graph has tensor(float)",
        ),
        ("of-another-backend", "asks for backend 'python'"),
        (
            "fixed",
            "expected 0, because the graph has 'x' of tensor(int32) [1], whose first dimension is fixed",
        ),
    ],
)
def test_model_that_cannot_be_served_is_not_ready(plain: Client, served: Any, name: str, reason: str) -> None:
    assert not plain.is_model_ready(name)
    line = next(line for line in served.log.read_text().splitlines() if f"model {name} " in line)
    assert reason in line


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an input missing": ("simple", {"INPUT0": ("INT32", [1, 16], bytes(64))}, "expected 2 inputs, 'INPUT0'"),
    "batches that differ": (
        "simple",
        {"INPUT0": ("INT32", [1, 16], bytes(64)), "INPUT1": ("INT32", [2, 16], bytes(128))},
        "'INPUT1' has batch size 2, and 'INPUT0' has 1",
    ),
    "batch too large": (
        "simple",
        {f"INPUT{n}": ("INT32", [9, 16], bytes(64 * 9)) for n in (0, 1)},
        "N from 1 to 8",
    ),
    "data of one input only": (
        "simple",
        {"INPUT0": ("INT32", [1, 16], bytes(64)), "INPUT1": ("INT32", [1, 16], None)},
        "input 'INPUT1' has no INT32 data",
    ),
    "negative open dimension": ("identity-FP32", {"INPUT0": ("FP32", [2, -1], b"")}, "Expected [2,-1]"),
    "size beyond memory": (
        "identity-FP32",
        {"INPUT0": ("FP32", [2, 2**62], bytes(8))},
        f"Expected {2**65} for shape",
    ),
    "size beyond counting beside a 0": (
        "open",
        {"INPUT0": ("FP32", [1, 0, 2**62], b"")},
        f"0 elements, which cannot take the shape [1,0,{2**62}]",
    ),
    "the same without data": (
        "open",
        {"INPUT0": ("FP32", [1, 0, 2**62], None)},
        f"0 elements, which cannot take the shape [1,0,{2**62}]",
    ),
    "odd number of elements for rows of two": (
        "rows-of-two",
        {"INPUT0": ("FP32", [3], bytes(12))},
        "'INPUT0' has 3 elements, which cannot take the shape [-1,2]",
    ),
    "text cut off": ("identity-BYTES", {"INPUT0": ("BYTES", [2, 1], b"\1\0\0\0a\1\0")}, "in element 1"),
    "text longer than the message": (
        "identity-BYTES",
        {"INPUT0": ("BYTES", [2, 1], b"\xff\xff\xff\xffa")},
        "is cut off in element 0",
    ),
    "text that is none": (
        "identity-BYTES",
        {"INPUT0": ("BYTES", [2, 1], b"\1\0\0\0\xff\0\0\0\0")},
        "not UTF-8",
    ),
    "too few texts": ("identity-BYTES", {"INPUT0": ("BYTES", [2, 1], b"\0\0\0\0")}, "Expected 2"),
    "too many texts": (
        "identity-BYTES",
        {"INPUT0": ("BYTES", [2, 1], bytes(2**20))},
        "Expected 2 for shape [2,1], got more",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_request_is_refused(plain: Client, case: str) -> None:
    model, inputs, message = REFUSED[case]
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, (datatype, shape, raw) in inputs.items():
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw is not None:
            request.raw_input_contents.append(raw)
    with pytest.raises(grpc.RpcError) as refused:
        plain._client_stub.ModelInfer(request, timeout=30)
    assert refused.value.code() is StatusCode.INVALID_ARGUMENT
    assert message in (refused.value.details() or "")


def test_small_integers_do_not_wrap(plain: Client) -> None:
    for value, message in ((128, "a INT8 ends at 127"), (-129, "a INT8 begins at -128")):
        request = service_pb2.ModelInferRequest(model_name="identity-INT8")
        given = request.inputs.add(name="INPUT0", datatype="INT8", shape=[2, 1])
        given.contents.int_contents.extend([0, value])
        with pytest.raises(grpc.RpcError, match=message):
            plain._client_stub.ModelInfer(request, timeout=30)


@pytest.mark.parametrize(
    "name", [name for name, datatype in DATATYPES.items() if datatype.dtype.kind in "iu"]
)
def test_typed_integers_come_back_at_both_ends_of_their_range(plain: Client, name: str) -> None:
    limits = np.iinfo(DATATYPES[name].dtype)
    request = service_pb2.ModelInferRequest(model_name=f"identity-{name}")
    given = request.inputs.add(name="INPUT0", datatype=name, shape=[2, 1])
    getattr(given.contents, DATATYPES[name].contents).extend([limits.max, limits.min])
    (raw,) = plain._client_stub.ModelInfer(request, timeout=30).raw_output_contents
    assert np.frombuffer(raw, DATATYPES[name].dtype).tolist() == [limits.max, limits.min]


def test_no_elements_at_all(plain: Client) -> None:
    result = plain.infer("identity-FP32", [tensor("INPUT0", np.zeros((2, 0), dtype=np.float32))])
    assert result.as_numpy("OUTPUT0").shape == (2, 0)


def test_bundle_whose_configuration_hides_outputs(
    repository: Path, tmp_path: Path, start: Any, images: Any
) -> None:
    """For clients that insist on one output; the flags travel as parameters."""
    home = tmp_path / "models" / "batched"
    home.mkdir(parents=True)
    (home / "2").symlink_to(repository / "batched" / "2")
    (home / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    config = model_config_pb2.ModelConfig()
    text_format.Parse((repository / "batched" / "config.pbtxt").read_text(), config)
    del config.output[1:]
    (home / "config.pbtxt").write_text(text_format.MessageToString(config))
    with start(tmp_path / "models") as running, triton.InferenceServerClient(running.url) as client:
        assert [output.name for output in client.get_model_metadata("batched").outputs] == ["logits"]
        assert [output.name for output in client.get_model_config("batched").config.output] == ["logits"]
        response = client.infer("batched", [tensor("images", images)]).get_response()
        assert [output.name for output in response.outputs] == ["logits"]
        assert response.parameters["penstock_adversarial"].string_param == "0,0,0,0,1"
        with pytest.raises(Exception, match="unexpected inference output 'path'; expected some of logits"):
            client.infer("batched", [tensor("images", images)], outputs=[triton.InferRequestedOutput("path")])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [1, 3, 10]),
        ("version_policy { all { } }", [1, 3, 10]),
        ("version_policy { latest { num_versions: 2 } }", [3, 10]),
        ("version_policy { latest { } }", [10]),
        ("version_policy { specific { versions: [ 1, 2, 10 ] } }", [1, 10]),
    ],
)
def test_version_policy(policy: str, expected: list[int]) -> None:
    config = text_format.Parse(policy, model_config_pb2.ModelConfig())
    assert wanted_versions(config, [1, 3, 10]) == expected


@pytest.mark.parametrize(
    ("operator", "takes", "gives", "batch"),
    [
        ("Identity", ["N", 2], ["N", 2], 4),
        ("Identity", ["N", 2], [None, 2], 4),  # ONNX Runtime sees that it is N
        ("Identity", ["N", 2], ["M", 2], 0),
        ("Identity", [None, 2], [None, 2], 0),
        ("Identity", ["N", "N"], ["N", "N"], 0),
        ("NonZero Transpose", ["N", 2], [None, 2], 0),
        ("NonZero Transpose", ["N", 2], ["found", 2], 0),
        ("Unique", ["N", 2], [None], 0),
        ("Unique", ["N", 2], ["found"], 0),
    ],
)
def test_batch_is_what_is_known_to_be_one(
    tmp_path: Path,
    operator: str,
    takes: list[int | str | None],
    gives: list[int | str | None],
    batch: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Some of these answer one row by chance; in a run that requests share, rows would be another's."""
    caplog.set_level(logging.INFO, logger="penstock")
    kind = TensorProto.INT64 if "NonZero" in operator else FLOAT
    first, *more = operator.split()
    nodes = [helper.make_node(first, ["x"], ["found" if more else "y"])]
    nodes += [helper.make_node(name, ["found"], ["y"]) for name in more]
    model = graph(nodes, {"x": (FLOAT, takes)}, {"y": (kind, gives)})
    file = add_model(tmp_path, "model", model) / "1" / "model.onnx"
    session = Session(file, Device(CPU), threads=1)
    full = completed(model_config_pb2.ModelConfig(), "model", session.inputs, session.outputs)
    assert (full.max_batch_size, full.HasField("dynamic_batching")) == (batch, batch > 0)
    assert ("share no runs" in caplog.text) == (batch == 0)
    told = model_config_pb2.ModelConfig(max_batch_size=8)  # by somebody who knows better
    assert completed(told, "model", session.inputs, session.outputs).max_batch_size == 8


def test_what_the_graph_has_and_no_protocol_knows() -> None:
    strange = GraphTensor("probabilities", "seq(map(int64,tensor(float)))", (), ())
    usual = GraphTensor("x", "tensor(float)", (-1, 2), ("N", ""))
    with pytest.raises(BundleError, match="'probabilities' of seq"):
        completed(model_config_pb2.ModelConfig(), "odd", [usual], [usual, strange])


def test_raw_bytes_are_read_as_they_were_written() -> None:
    rng = np.random.default_rng(0)
    for datatype in DATATYPES.values():
        if datatype.is_text:
            continue
        values = rng.integers(0, 2, size=(3, 2)).astype(datatype.dtype)
        np.testing.assert_array_equal(decode(encode(values), datatype, (3, 2), "x"), values)
        with pytest.raises(InvalidArgumentError, match="unexpected total byte size for input 'x'"):
            decode(encode(values) + b"\0", datatype, (3, 2), "x")


def test_texts_beyond_the_shape_are_not_looked_at() -> None:
    texts = DATATYPES["BYTES"]
    assert decode(bytes(8), texts, (2,), "x").tolist() == ["", ""]
    with pytest.raises(InvalidArgumentError, match=r"Expected 1 for shape \[1\], got more"):
        decode(bytes(8) + b"cut off", texts, (1,), "x")
    with pytest.raises(InvalidArgumentError, match=r"Expected 1 for shape \[1\], got 2"):
        text_array([b"", b"\xff"], (1,), "x")
