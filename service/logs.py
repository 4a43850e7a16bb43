"""Logs as text or as JSON, each line with the id of the request that it is about.

The id comes from the call's ``x-request-id``, or is made here. A client that reports an internal error reports the
same id: it stands in the error's message.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime

_HEADER = "x-request-id"
_LONGEST = 64
_random = random.Random()  # seeded by the system; ids need be no secret, only different

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the call that this task serves; empty outside of one."""


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The id that a call brought along, if it is fit to be printed; a new one otherwise."""
    for name, value in metadata:
        if name == _HEADER and isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable():
            return value
    return f"{_random.getrandbits(48):012x}"


def set_up(level: str, form: str) -> None:
    """Log to stderr from now on.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        form: ``text`` or ``json``.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


class TextFormatter(logging.Formatter):
    """Time, level, logger, request id if there is one, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(about)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the lines of an exception."""
        found = request_id.get()
        record.about = f"[{found}] " if found else ""
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, an exception's included."""
        values = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if found := request_id.get():
            values["request_id"] = found
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False)
