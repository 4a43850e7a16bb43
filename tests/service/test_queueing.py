"""What ``dynamic_batching`` says about waiting, and what it must not say."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from penstock.errors import BundleError
from penstock.service.queueing import Waiting, waiting_of


def read(dynamic_batching: str) -> Waiting:
    text = f"max_batch_size: 8 dynamic_batching {{ {dynamic_batching} }}"
    config: Any = text_format.Parse(text, model_config_pb2.ModelConfig())
    return waiting_of(config, max_queue=100)


def test_each_level_has_its_policy_and_requests_without_one_the_default() -> None:
    waiting = read(
        "priority_levels: 2 default_priority_level: 2 default_queue_policy { max_queue_size: 5 } "
        "priority_queue_policy { key: 1 value { max_queue_size: 7 } }"
    )
    assert [waiting.level_of(asked) for asked in (0, 1, 2, 3)] == [2, 1, 2, 2]
    assert [waiting.policy_of(level).max_size for level in (1, 2)] == [7, 5]


def test_without_levels_all_requests_wait_in_one_order() -> None:
    waiting = read("max_queue_delay_microseconds: 100")
    assert {waiting.level_of(asked) for asked in (0, 1, 2)} == {0}
    assert waiting.policy_of(0).max_size == 100


@pytest.mark.parametrize(
    ("levels", "refused"),
    [
        ("", "default_priority_level 0"),  # which would be served before level 1
        ("default_priority_level: 3", "default_priority_level 3"),
        ("default_priority_level: 1 priority_queue_policy { key: 0 value { } }", "priority_queue_policy 0"),
        ("default_priority_level: 1 priority_queue_policy { key: 3 value { } }", "priority_queue_policy 3"),
    ],
)
def test_a_level_that_there_is_not_is_refused(levels: str, refused: str) -> None:
    with pytest.raises(BundleError, match=f"config.pbtxt has {refused}; expected 1 to 2"):
        read(f"priority_levels: 2 {levels}")
