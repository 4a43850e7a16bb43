"""From a request to arrays.

Requests come from anyone, so everything in them is checked here, and every refusal says what was expected and
what came. Tensors travel as raw bytes, or in the typed fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from penstock.errors import InvalidArgumentError
from penstock.service.engine import Wanted, Work
from penstock.service.model import Model
from penstock.service.parameters import check_request_parameters, class_count, tensor_place, whole_parameter
from penstock.service.shared_memory import SharedMemory
from penstock.service.tensors import Array, TensorSpec, check_count, decode, reshaped, shown, text_array

InferRequest = Any  # service_pb2.ModelInferRequest, whose module has no types
InputTensor = Any


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


def read_request(request: InferRequest, model: Model, memory: SharedMemory) -> Work:
    """Check a request and take out its tensors.

    Args:
        request: as it came.
        model: what it is for.
        memory: where tensors may lie that are not in the message.

    Raises:
        InvalidArgumentError: the request cannot be for this model; says what was expected.
        NotFoundError: it names a region of shared memory that nobody registered.
        UnsupportedError: it asks for an extension that is not there.
    """
    priority = timeout = 0
    if request.parameters:
        check_request_parameters(request)
        priority, timeout = whole_parameter(request, "priority"), whole_parameter(request, "timeout")
    tensors = _given_inputs(request, model)
    inputs, rows = {}, 1
    raw = iter(request.raw_input_contents)
    for index, tensor in enumerate(request.inputs):
        spec = tensors[tensor.name]
        shape = _checked_shape(tensor, spec, model)
        if model.max_batch:
            if index and shape[0] != rows:
                raise InvalidArgumentError(
                    f"input {tensor.name!r} has batch size {shape[0]}, and {request.inputs[0].name!r} has {rows}; "
                    "expected the same for all inputs"
                )
            rows = shape[0]
        place = tensor_place(tensor)
        data = next(raw, None) if place is None else memory.read(place)
        values = _values(tensor, spec, shape, data)
        if spec.graph_shape is not None:
            values = reshaped(values, (*shape[: bool(model.max_batch)], *spec.graph_shape), tensor.name)
        inputs[tensor.name] = values
    return Work(
        id=request.id,
        inputs=inputs,
        rows=rows,
        outputs=_requested_outputs(request, model, memory),
        priority=priority,
        timeout=timeout * 1e-6,  # from microseconds
    )


def _given_inputs(request: InferRequest, model: Model) -> Mapping[str, TensorSpec]:
    names = [tensor.name for tensor in request.inputs]
    known, distinct = model.inputs_by_name, set(names)
    twice = len(distinct) < len(names)
    if twice or not model.required <= distinct <= known.keys():
        expected = ", ".join(repr(name) for name in known)
        got = [name[:50] for name in names[:5]]
        raise InvalidArgumentError(
            f"expected {len(known)} {'input' if len(known) == 1 else 'inputs'}, {expected}, "
            f"got {len(names)} inputs {got}{'; an input was given twice' if twice else ''}"
        )
    return known


def _checked_shape(tensor: InputTensor, spec: TensorSpec, model: Model) -> tuple[int, ...]:
    if tensor.datatype != spec.datatype.name:
        raise InvalidArgumentError(
            f"input {spec.name!r} has datatype {tensor.datatype[:50]!r}; expected {spec.datatype.name!r}"
        )
    shape = tuple(tensor.shape)
    batched = bool(model.max_batch)
    if len(shape) != len(spec.shape) + batched or not spec.allows(shape[batched:]):
        raise InvalidArgumentError(
            f"unexpected shape for input {spec.name!r}. Expected {_expected(spec, model)}, got {shown(shape)}"
        )
    if batched and not 1 <= shape[0] <= model.max_batch:
        raise InvalidArgumentError(
            f"batch size {shape[0]} for input {spec.name!r} cannot be served. "
            f"Expected {_expected(spec, model)} with N from 1 to {model.max_batch}, got {shown(shape)}"
        )
    return shape


def _expected(spec: TensorSpec, model: Model) -> str:
    return shown((*["N"][: bool(model.max_batch)], *spec.shape))


def _values(tensor: InputTensor, spec: TensorSpec, shape: tuple[int, ...], raw: bytes | None) -> Array:
    """The values of a tensor, from raw bytes or from the typed field."""
    typed = [field.name for field, _ in tensor.contents.ListFields()] if tensor.HasField("contents") else []
    if raw is not None:
        if typed:
            raise InvalidArgumentError(
                f"input {spec.name!r} came both in raw_input_contents and in contents; expected one of them"
            )
        return decode(raw, spec.datatype, shape, spec.name)
    field = spec.datatype.contents
    empty = 0 in shape and not typed
    if not empty and (not field or typed != [field]):
        raise InvalidArgumentError(
            f"input {spec.name!r} has no {spec.datatype} data: expected raw_input_contents"
            + (f" or contents.{field}" if field else "")
            + f", got {typed or 'neither'}"
        )
    return _typed_values(getattr(tensor.contents, field) if field else (), spec, shape)


def _typed_values(contents: Any, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    datatype = spec.datatype
    if datatype.is_text:
        return text_array(contents, shape, spec.name)
    check_count(len(contents), shape, spec.name)
    values = np.array(contents, datatype.contents_dtype)  # numpy's own guess for mixed UINT64 is float64
    # The fields for small integers hold 32 bits: what does not fit must not wrap around.
    if datatype.dtype.kind in "iu" and len(values):
        limits = np.iinfo(datatype.dtype)
        low, high = values.min(), values.max()
        if high > limits.max:
            raise InvalidArgumentError(f"input {spec.name!r} holds {high}; a {datatype} ends at {limits.max}")
        if low < limits.min:
            raise InvalidArgumentError(
                f"input {spec.name!r} holds {low}; a {datatype} begins at {limits.min}"
            )
    return reshaped(values.astype(datatype.dtype), shape, spec.name)


def _requested_outputs(request: InferRequest, model: Model, memory: SharedMemory) -> tuple[Wanted, ...]:
    known = model.outputs_by_name
    if not request.outputs:
        return _all(tuple(known))
    wanted = {}
    for output in request.outputs:
        if output.name not in known:
            raise InvalidArgumentError(
                f"unexpected inference output {output.name[:100]!r}; expected some of {', '.join(known)}"
            )
        classes, place = class_count(output), tensor_place(output)
        if classes and known[output.name].datatype.is_text:
            raise InvalidArgumentError(
                f"output {output.name!r} is text, of which there are no largest values"
            )
        if place is not None:
            memory.check(place)
        wanted[output.name] = Wanted(name=output.name, classes=classes, place=place)
    return tuple(wanted.values())


@lru_cache
def _all(names: tuple[str, ...]) -> tuple[Wanted, ...]:
    return tuple(Wanted(name=name) for name in names)
