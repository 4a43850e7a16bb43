"""From arrays to a response."""

from __future__ import annotations

import numpy as np
from tritonclient.grpc import service_pb2

from penstock.bundle import FLAG, SCORE
from penstock.service.classification import top_classes
from penstock.service.engine import Work
from penstock.service.model import Model
from penstock.service.parameters import FLAGS_PARAMETER, SCORES_PARAMETER
from penstock.service.requests import InferRequest
from penstock.service.shared_memory import SharedMemory
from penstock.service.tensors import Tensors, encode


def infer_response(
    request: InferRequest, model: Model, work: Work, tensors: Tensors, memory: SharedMemory
) -> service_pb2.ModelInferResponse:
    """The answer on the wire: the outputs asked for, always as raw bytes, and the flags where the model shows them.

    Args:
        request: what was asked.
        model: what answered.
        work: the request, checked.
        tensors: what the model computed, the outputs asked for among it.
        memory: where outputs may be wanted.

    Raises:
        InvalidArgumentError: an output does not fit into its place in shared memory.
    """
    response = service_pb2.ModelInferResponse(
        model_name=model.name, model_version=str(model.version), id=request.id
    )
    for wanted in work.outputs:
        spec, values = model.outputs_by_name[wanted.name], tensors[wanted.name]
        if spec.graph_shape is not None:
            values = values.reshape((*values.shape[: bool(model.max_batch)], *spec.shape))
        datatype = spec.datatype.name
        if wanted.classes:
            labels = model.labels.get(wanted.name, ())
            values = top_classes(values, wanted.classes, labels, batched=bool(model.max_batch))
            datatype = "BYTES"
        output = response.outputs.add(name=wanted.name, datatype=datatype, shape=values.shape)
        data = encode(values)
        if wanted.place is not None:
            memory.write(wanted.place, data, wanted.name)
            output.parameters["shared_memory_region"].string_param = wanted.place.region
            output.parameters["shared_memory_byte_size"].int64_param = len(data)
            output.parameters["shared_memory_offset"].int64_param = wanted.place.offset
            data = b""  # clients count the entries: it occupies one
        response.raw_output_contents.append(data)
    if model.shows_flags:
        _add_flags(response, tensors)
    return response


def _add_flags(response: service_pb2.ModelInferResponse, tensors: Tensors) -> None:
    """Flags and scores as strings, because other clients of the protocol know no parameters of type double."""
    flags = ",".join("1" if flag else "0" for flag in tensors[FLAG][:, 0])
    scores = ",".join(np.format_float_positional(score, trim="0") for score in tensors[SCORE][:, 0])
    response.parameters[FLAGS_PARAMETER].string_param = flags
    response.parameters[SCORES_PARAMETER].string_param = scores
