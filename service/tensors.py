"""Tensors of the protocol: its datatypes, what a model takes and gives, and their bytes on the wire.

Raw bytes are little-endian and row-major. An element of BYTES is its length, four bytes, and then the bytes;
in memory it is a ``str``, because the strings of ONNX are UTF-8 text.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.errors import InvalidArgumentError

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
"""Arrays by tensor name."""


@dataclass(frozen=True)
class Datatype:
    """A datatype under its three names.

    Attributes:
        name: the protocol's, such as ``FP32``.
        dtype: numpy's; ``object`` for BYTES.
        onnx: ONNX Runtime's, such as ``tensor(float)``.
        contents: field of ``InferTensorContents`` that holds it; empty for FP16, which only raw bytes hold.
    """

    name: str
    dtype: np.dtype[Any]
    onnx: str
    contents: str

    def __str__(self) -> str:
        return self.name

    @property
    def config_name(self) -> str:
        """The name in ``config.pbtxt``."""
        return f"TYPE_{'STRING' if self.is_text else self.name}"

    @cached_property
    def wire(self) -> np.dtype[Any]:
        """Numpy's for raw bytes."""
        return self.dtype.newbyteorder("<")

    @property
    def is_text(self) -> bool:
        """Whether elements vary in length."""
        return self.dtype == np.object_

    @property
    def contents_dtype(self) -> np.dtype[Any]:
        """Numpy's for the elements of the typed field: integers have at least 32 bits there."""
        if self.dtype.kind not in "iu":
            return self.dtype
        return np.dtype(f"{self.dtype.kind}{max(4, self.dtype.itemsize)}")


def _datatype(name: str, dtype: Any, onnx: str, contents: str) -> Datatype:
    return Datatype(name, np.dtype(dtype), f"tensor({onnx})", contents)


# BF16 is missing: neither numpy nor ONNX Runtime's Python interface has it.
DATATYPES: Mapping[str, Datatype] = {
    datatype.name: datatype
    for datatype in (
        _datatype("BOOL", np.bool_, "bool", "bool_contents"),
        _datatype("UINT8", np.uint8, "uint8", "uint_contents"),
        _datatype("UINT16", np.uint16, "uint16", "uint_contents"),
        _datatype("UINT32", np.uint32, "uint32", "uint_contents"),
        _datatype("UINT64", np.uint64, "uint64", "uint64_contents"),
        _datatype("INT8", np.int8, "int8", "int_contents"),
        _datatype("INT16", np.int16, "int16", "int_contents"),
        _datatype("INT32", np.int32, "int32", "int_contents"),
        _datatype("INT64", np.int64, "int64", "int64_contents"),
        _datatype("FP16", np.float16, "float16", ""),
        _datatype("FP32", np.float32, "float", "fp32_contents"),
        _datatype("FP64", np.float64, "double", "fp64_contents"),
        _datatype("BYTES", np.object_, "string", "bytes_contents"),
    )
}
BY_ONNX = {datatype.onnx: datatype for datatype in DATATYPES.values()}
BY_CONFIG = {datatype.config_name: datatype for datatype in DATATYPES.values()}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output as a model announces it.

    Attributes:
        name: tensor name.
        datatype: of its elements.
        shape: without the batch dimension, if the model has one; ``-1`` for a dimension of any size.
        graph_shape: the shape that the graph has for it, where the configuration asks for another one.
        optional: whether a request may leave it out.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    graph_shape: tuple[int, ...] | None = None
    optional: bool = False

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor may have this shape, both without batch."""
        if shape == self.shape and -1 not in shape:
            return True
        return len(shape) == len(self.shape) and all(
            dim >= 0 if want == -1 else dim == want for dim, want in zip(shape, self.shape, strict=True)
        )


def decode(raw: bytes | memoryview, datatype: Datatype, shape: tuple[int, ...], name: str) -> Array:
    """Read a tensor from raw bytes.

    Args:
        raw: the whole tensor.
        datatype: of its elements.
        shape: no dimension negative.
        name: of the tensor, for messages.

    Returns:
        An array of the shape, which may share memory with ``raw`` and be read-only.

    Raises:
        InvalidArgumentError: the bytes are too few, too many, or no UTF-8 text where text is expected.
    """
    if datatype.is_text:
        return text_array(_elements(bytes(raw), shape, name), shape, name)
    expected = datatype.dtype.itemsize * math.prod(shape)
    if len(raw) != expected:
        raise InvalidArgumentError(
            f"unexpected total byte size for input {name!r}. Expected {expected} "
            f"for shape {shown(shape)} {datatype}, got {len(raw)}"
        )
    values = np.frombuffer(raw, datatype.wire)
    return reshaped(values.astype(datatype.dtype, copy=False), shape, name)


def encode(values: Array) -> bytes:
    """The raw bytes of a tensor, the inverse of `decode`; text may be ``str`` or ``bytes``."""
    if values.dtype != np.object_:
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = (text if isinstance(text, bytes) else str(text).encode() for text in values.flat)
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def text_array(elements: Sequence[bytes], shape: tuple[int, ...], name: str) -> Array:
    """An array of ``str`` from the elements of a BYTES tensor.

    Raises:
        InvalidArgumentError: too few or too many elements, or one that is not UTF-8.
    """
    check_count(len(elements), shape, name)
    try:
        texts = [element.decode() for element in elements]
    except UnicodeDecodeError:
        raise InvalidArgumentError(
            f"input {name!r} holds bytes that are not UTF-8 text, which the strings of ONNX are"
        ) from None
    values = np.empty(len(texts), dtype=np.object_)
    values[:] = texts
    return reshaped(values, shape, name)


def reshaped(values: Array, shape: tuple[int, ...], name: str) -> Array:
    """The same elements in another shape, one dimension of which may be open.

    Raises:
        InvalidArgumentError: an open dimension that no size fits, or dimensions that beside a 0 are beyond counting.
    """
    try:
        return values.reshape(shape)
    except ValueError:
        raise InvalidArgumentError(
            f"input {name!r} has {values.size} elements, which cannot take the shape {shown(shape)}"
        ) from None


def check_count(count: int, shape: tuple[int, ...], name: str) -> None:
    """Refuse a number of elements that a shape does not have.

    Raises:
        InvalidArgumentError: says both numbers.
    """
    if count != math.prod(shape):
        raise _wrong_count(str(count), shape, name)


def compatible(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes, some of whose dimensions are open (``-1``), can be the same."""
    return len(shape) == len(other) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(shape, other, strict=True)
    )


def shown(shape: Iterable[int | str]) -> str:
    """A shape as in the protocol, cut short if it is absurdly long."""
    dims = list(shape)
    return f"[{','.join(map(str, dims[:8]))}{',...' if len(dims) > 8 else ''}]"


def _wrong_count(got: str, shape: tuple[int, ...], name: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"unexpected number of elements for input {name!r}. Expected {math.prod(shape)} "
        f"for shape {shown(shape)}, got {got}"
    )


def _elements(raw: bytes, shape: tuple[int, ...], name: str) -> list[bytes]:
    """The elements one after the other, but no more than the shape has: a message has room for many millions."""
    expected = math.prod(shape)
    elements: list[bytes] = []
    begin = 0
    while begin < len(raw):
        if len(elements) == expected:
            raise _wrong_count("more", shape, name)
        text = begin + 4
        end = text + int.from_bytes(raw[begin:text], "little")
        if text > len(raw) or end > len(raw):
            raise InvalidArgumentError(
                f"input {name!r} is cut off in element {len(elements)}: expected 4 bytes of length and then "
                f"as many bytes, {len(raw) - begin} are left"
            )
        elements.append(raw[text:end])
        begin = end
    return elements
