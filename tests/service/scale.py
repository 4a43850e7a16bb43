"""How far the long tests go: all the way under ``make stress``, and in a reduced form in every run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

Record = Callable[[str, object], None]  # pytest's `record_property`: what `benchmarks/stress.py` writes down
T = TypeVar("T")
Test = TypeVar("Test", bound=Callable[..., Any])

FULL = os.environ.get("PENSTOCK_STRESS") == "1"


def scaled(full: T, reduced: T) -> T:
    """The first under ``make stress``, else the second."""
    return full if FULL else reduced


def long(test: Test) -> Test:
    """Mark a test that has both forms: ``make stress`` finds it, and other runs do not skip it."""
    return pytest.mark.slow(pytest.mark.timeout(3600)(test)) if FULL else test
