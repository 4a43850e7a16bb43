"""Protobuf's text form, beside the reader of protobuf itself."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict

from penstock import pbtxt
from penstock.errors import InvalidArgumentError
from penstock.model_config import Interface, config_text

service_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")

WRITTEN_BY_HAND = """
# a comment, with "quotes" and { brackets
name: "a" 'b\\"c',
max_batch_size : 8;
input < name: 'x' data_type: TYPE_FP32 dims: 3 dims: -1 >
output: [ { name: "y" dims: [ 1, 2, ] }, { name: "z" } ]
dynamic_batching { preferred_batch_size: [4] priority_levels: 2 } # the end
parameters { key: "k" value: { string_value: "v # no comment" } }"""


def plain(value: Any) -> Any:
    """As `pbtxt.parse` has it: every field a list, whole numbers as numbers."""
    if isinstance(value, dict):
        return {
            key: [plain(each) for each in (held if isinstance(held, list) else [held])]
            for key, held in value.items()
        }
    return int(value) if isinstance(value, str) and value.lstrip("-").isdigit() else value


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("max_batch", [1, 8])
def test_configurations_are_read_as_protobuf_reads_them(single: bool, max_batch: int) -> None:
    interface = Interface(
        input_shape=(3, 4, 4), class_names=("cat", "dog"), bits=7, max_batch=max_batch, single=single
    )
    compare(config_text("net", interface))


def test_what_people_write_is_read_too() -> None:
    compare(WRITTEN_BY_HAND.replace("[ 1, 2, ]", "[ 1, 2 ]"))
    assert pbtxt.parse(WRITTEN_BY_HAND)["name"] == ['ab"c']


def compare(text: str) -> None:
    read = text_format.Parse(text, service_pb2.ModelConfig())
    expected = plain(MessageToDict(read, preserving_proto_field_name=True))
    got = pbtxt.parse(text)
    for field in ("name", "max_batch_size", "input", "output", "dynamic_batching"):
        wanted = expected.get(field, [0] if field == "max_batch_size" else [])
        if field == "max_batch_size":
            assert got.get(field, [0]) == wanted
        else:
            assert got.get(field, []) == wanted


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a", 1, "'the end of the text' where a value"),
        ("a: 1\nb:", 2, "'the end of the text' where a value"),
        ("a {\n", 1, "'the end of the text' where the name"),
        ("}", 1, "'}' where the name"),
        ("\na 3", 2, "'3' where a value"),
        ("a: [1", 1, "'the end of the text' where a value"),
        ("a: 'x", 1, "no text, name, number or bracket"),
        ("[x.y]: 1", 1, "'.' where the name"),
    ],
)
def test_what_is_none_is_refused_with_its_line(text: str, line: int, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"line {line}: .*{why}"):
        pbtxt.parse(text)
