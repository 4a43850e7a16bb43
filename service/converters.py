"""Between protobuf messages and numpy: the only code that knows both.

Requests come from anyone, so everything in them is checked here, and every refusal says what was expected and
what came. Tensors travel as raw bytes, little-endian; a request may use the typed fields instead.
"""

from __future__ import annotations

import json

import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2

from penstock import __version__, bundle
from penstock.errors import InvalidArgumentError
from penstock.service.answers import DTYPES, INPUT_DTYPES, Answer, Images
from penstock.service.parameters import (
    CLASS_NAMES_PARAMETER,
    FLAGS_PARAMETER,
    SCORES_PARAMETER,
    check_request_parameters,
)
from penstock.service.policy import FlagPolicy
from penstock.service.repository import Model

# Clients switch their habits on this list: it names only what is there.
EXTENSIONS = ("model_configuration", "parameters")

_DATATYPES = {np.float32: "FP32", np.uint8: "UINT8", np.bool_: "BOOL"}
_CONTENTS = {"FP32": "fp32_contents", "UINT8": "uint_contents"}  # field of the typed contents, by datatype


def version_number(text: str) -> int | None:
    """The version that a request asks for; ``None`` for the empty text, which means the latest.

    Raises:
        InvalidArgumentError: not a whole number from 0 to 2**63 - 1.
    """
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 2**63):
        raise InvalidArgumentError(
            f"model version {text[:50]!r} is no version number; expected a whole number such as '1', "
            "or '' for the latest"
        )
    return int(text)


def server_metadata() -> service_pb2.ServerMetadataResponse:
    """Who answers, and which parts of the protocol it has."""
    return service_pb2.ServerMetadataResponse(name="penstock", version=__version__, extensions=EXTENSIONS)


def model_metadata(model: Model, versions: list[int]) -> service_pb2.ModelMetadataResponse:
    """Tensors of a model with ``-1`` for the batch, whether its graph takes batches or single images."""
    manifest = model.manifest
    metadata = service_pb2.ModelMetadataResponse.TensorMetadata
    return service_pb2.ModelMetadataResponse(
        name=model.name,
        versions=[str(version) for version in versions],
        platform="onnxruntime_onnx",
        inputs=[metadata(name=bundle.INPUT, datatype=_datatype(model), shape=[-1, *manifest.input_shape])],
        outputs=[
            metadata(name=name, datatype=_DATATYPES[DTYPES[name]], shape=[-1, width])
            for name, width in manifest.output_widths.items()
            if name not in model.policy.hidden_outputs
        ],
    )


def model_config(model: Model) -> service_pb2.ModelConfigResponse:
    """The configuration as this service honours it.

    A graph for single images stands in the repository without a batch dimension. Since the service spreads a
    batch over runs, it announces one: the largest batch, and dims without their leading 1.
    """
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(model.config)
    config.name = model.name
    config.max_batch_size = model.max_batch
    hidden = [tensor for tensor in config.output if tensor.name in model.policy.hidden_outputs]
    for tensor in hidden:
        config.output.remove(tensor)
    if model.manifest.single:
        for tensor in (*config.input, *config.output):
            del tensor.dims[0]
    config.parameters[CLASS_NAMES_PARAMETER].string_value = json.dumps(model.manifest.class_names)
    return service_pb2.ModelConfigResponse(config=config)


def request_images(request: service_pb2.ModelInferRequest, model: Model) -> Images:
    """The images of a request.

    Returns:
        ``[N, C, H, W]`` float32, any values, NaN and infinities included, or uint8, as the model takes them.

    Raises:
        InvalidArgumentError: the request cannot be for this model; says what was expected.
        UnsupportedError: it asks for an extension that is not there.
    """
    check_request_parameters(request)
    tensor = _only_input(request)
    datatype = _datatype(model)
    if tensor.datatype != datatype:
        raise InvalidArgumentError(
            f"input {bundle.INPUT!r} has datatype {tensor.datatype[:50]!r}; expected {datatype!r}"
        )
    shape = _checked_shape(tensor, model)
    values: Images = _values(request, tensor, shape).reshape(shape)
    return values


def requested_outputs(request: service_pb2.ModelInferRequest, model: Model) -> tuple[str, ...]:
    """Names of the outputs to answer with: those asked for, each once, or all if none was.

    Raises:
        InvalidArgumentError: an output that the model does not have, or that its policy hides.
    """
    shown = tuple(name for name in bundle.OUTPUTS if name not in model.policy.hidden_outputs)
    names = tuple(dict.fromkeys(output.name for output in request.outputs))
    for name in names:
        if name not in shown:
            raise InvalidArgumentError(
                f"unexpected inference output {name[:100]!r}; expected some of {', '.join(shown)}"
            )
    return names or shown


def infer_response(
    request: service_pb2.ModelInferRequest, model: Model, answer: Answer, outputs: tuple[str, ...]
) -> service_pb2.ModelInferResponse:
    """The answer on the wire: the outputs asked for, and the flags in any case."""
    response = service_pb2.ModelInferResponse(
        model_name=model.name, model_version=str(model.version), id=request.id
    )
    tensors = answer.tensors
    for name in outputs:
        values = tensors[name]
        response.outputs.add(name=name, datatype=_DATATYPES[DTYPES[name]], shape=values.shape)
        response.raw_output_contents.append(
            values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        )
    if model.policy is FlagPolicy.SHADOW:
        return response
    # Strings, because other clients of the protocol know no parameters of type double.
    flags = ",".join("1" if flag else "0" for flag in answer.adversarial[:, 0])
    scores = ",".join(np.format_float_positional(score, trim="0") for score in answer.anomaly_score[:, 0])
    response.parameters[FLAGS_PARAMETER].string_param = flags
    response.parameters[SCORES_PARAMETER].string_param = scores
    return response


def _datatype(model: Model) -> str:
    """The protocol's name of what a model takes."""
    return model.manifest.input_type.upper()


def _only_input(
    request: service_pb2.ModelInferRequest,
) -> service_pb2.ModelInferRequest.InferInputTensor:
    names = [tensor.name for tensor in request.inputs]
    if names != [bundle.INPUT]:
        shown = [name[:50] for name in names[:5]]
        raise InvalidArgumentError(
            f"expected 1 input, {bundle.INPUT!r}, got {len(names)} inputs {shown}"
            + ("" if len(set(names)) == len(names) else "; an input was given twice")
        )
    return request.inputs[0]


def _checked_shape(tensor: service_pb2.ModelInferRequest.InferInputTensor, model: Model) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    expected = f"[N,{','.join(map(str, model.manifest.input_shape))}]"
    if len(shape) != 4 or shape[1:] != model.manifest.input_shape:
        raise InvalidArgumentError(
            f"unexpected shape for input {bundle.INPUT!r}. Expected {expected}, got {_shown(shape)}"
        )
    if not 1 <= shape[0] <= model.max_batch:
        raise InvalidArgumentError(
            f"batch size {shape[0]} for input {bundle.INPUT!r} cannot be served. "
            f"Expected {expected} with N from 1 to {model.max_batch}, got {_shown(shape)}"
        )
    return shape


def _values(
    request: service_pb2.ModelInferRequest,
    tensor: service_pb2.ModelInferRequest.InferInputTensor,
    shape: tuple[int, ...],
) -> Images:
    """The flat values, from raw bytes or from the typed field."""
    count = int(np.prod(shape))
    dtype = np.dtype(INPUT_DTYPES[tensor.datatype.lower()])
    typed = [field.name for field, _ in tensor.contents.ListFields()]
    if request.raw_input_contents:
        if typed:
            raise InvalidArgumentError(
                f"input {bundle.INPUT!r} came both in raw_input_contents and in contents; "
                "expected one of them"
            )
        raw = request.raw_input_contents[0]
        if len(raw) != dtype.itemsize * count:
            raise InvalidArgumentError(
                f"unexpected total byte size for input {bundle.INPUT!r}. Expected {dtype.itemsize * count} "
                f"for shape {_shown(shape)} {tensor.datatype}, got {len(raw)}"
            )
        return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False)
    field = _CONTENTS[tensor.datatype]
    if typed != [field]:
        raise InvalidArgumentError(
            f"input {bundle.INPUT!r} has no {tensor.datatype} data: expected raw_input_contents or "
            f"contents.{field}, got {typed or 'neither'}"
        )
    values = np.asarray(getattr(tensor.contents, field))
    if len(values) != count:
        raise InvalidArgumentError(
            f"unexpected number of elements for input {bundle.INPUT!r}. Expected {count} "
            f"for shape {_shown(shape)}, got {len(values)}"
        )
    # The field for UINT8 holds 32 bits: what does not fit must not wrap around.
    if dtype == np.uint8 and values.max() > np.iinfo(np.uint8).max:
        raise InvalidArgumentError(f"input {bundle.INPUT!r} holds {values.max()}; a UINT8 ends at 255")
    return values.astype(dtype)


def _shown(shape: tuple[int, ...]) -> str:
    """A shape as in the protocol, cut short if it is absurdly long."""
    return f"[{','.join(map(str, shape[:8]))}{',...' if len(shape) > 8 else ''}]"
