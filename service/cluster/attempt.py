"""One try to have a call answered by a replica, as Ray's proxy sees the call.

Ray sets status and details on the call itself, once and for all. A try keeps them to itself, so that another one can
follow it.
"""

from __future__ import annotations

from typing import Any

import grpc

from penstock.service.handlers import Context

REPLICA = "penstock-replica"
"""Trailing metadata: which replica answered."""

TRIES = "penstock-tries"
"""Trailing metadata: how many replicas had the request, where the first was lost with it."""


class Attempt:
    """Stands in for a call's context.

    Args:
        context: of the call.

    Attributes:
        trailing: metadata that go out with the status.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self.trailing: tuple[tuple[str, str], ...] = ()

    @property
    def answered(self) -> bool:
        """Whether a replica answered, with whatever status; otherwise what was set is Ray's own word."""
        return any(name == REPLICA for name, _ in self.trailing)

    @property
    def lost(self) -> bool:
        """Whether the replica went away with the request: it died, or nobody can reach it any more.

        Ray calls this INTERNAL, as it calls every failure that it has no better word for.
        """
        return not self.answered and self._code is grpc.StatusCode.INTERNAL

    @property
    def status(self) -> tuple[grpc.StatusCode, str]:
        """What became of it."""
        return self._code or grpc.StatusCode.OK, self._details

    def code(self) -> grpc.StatusCode | int:
        """The status that was set; 0 for none, as gRPC has it."""
        return self._code or 0

    def details(self) -> str:
        """The text that was set."""
        return self._details

    def set_code(self, code: grpc.StatusCode) -> None:
        """Keep the status."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Keep the text."""
        self._details = details

    def set_trailing_metadata(self, metadata: Any) -> None:
        """Keep the metadata."""
        self.trailing = tuple(metadata)

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """What was kept."""
        return self.trailing

    def __getattr__(self, name: str) -> Any:
        """Everything else is the call's own: who calls, with which metadata."""
        return getattr(self._context, name)
