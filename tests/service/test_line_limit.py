"""Lines of the log that anybody can cause are limited, and what is left out is counted."""

from __future__ import annotations

import logging

import pytest

from penstock.errors import UnavailableError
from penstock.service.line_limit import LINES, LineLimit
from penstock.service.statuses import status_of


def test_lines_of_a_second_are_limited_and_the_rest_counted() -> None:
    now = 10.0
    limit = LineLimit(2, lambda: now)
    assert [limit.admit() for _ in range(5)] == [0, 0, None, None, None]
    now = 11.0
    assert [limit.admit() for _ in range(3)] == [3, 0, None]


def test_refusals_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        answers = {status_of(UnavailableError("full"), "ModelInfer")[1] for _ in range(50 * LINES)}
    assert answers == {"full"}, "clients hear the same, logged or not"
    assert 0 < len(caplog.records) <= 5 * LINES


def test_failures_are_limited_and_refusals_do_not_hide_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(50 * LINES):
            status_of(UnavailableError("full"), "ModelInfer")
            status_of(IndexError("indices element out of data bounds"), "ModelInfer")
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert 0 < len(failures) <= 5 * LINES
    assert all(record.exc_info for record in failures)
