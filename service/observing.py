"""A graph that also answers with a tensor from its inside.

ONNX Runtime returns only what a graph declares as an output. The graph is not rewritten for that: in protobuf,
messages laid end to end are merged, and repeated fields grow by it (https://protobuf.dev/programming-guides/encoding,
"Last One Wins"). So the file's bytes, followed by a model that consists of one graph output, are the same model
with one output more. The service needs no ONNX package for it.
"""

from __future__ import annotations

_MODEL_GRAPH, _GRAPH_OUTPUT, _VALUE_NAME = 7, 12, 1  # field numbers in onnx.proto


def with_output(model: bytes, name: str) -> bytes:
    """The serialised model with one more output, a tensor that it computes anyway.

    Args:
        model: content of an ONNX file.
        name: of the tensor; ONNX Runtime refuses the model if it has none of that name.
    """
    value = _field(_VALUE_NAME, name.encode())
    return model + _field(_MODEL_GRAPH, _field(_GRAPH_OUTPUT, value))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
