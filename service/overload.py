"""What a client hears whose request is refused because there is too much work.

Triton says UNAVAILABLE, and so does this server unless told otherwise. But some clients, KServe's among them, ask again
at once after UNAVAILABLE, which multiplies the load just when there is too much of it; for them there is
RESOURCE_EXHAUSTED. Beside the status may stand when to ask again, which clients of gRPC with a retry policy obey
(``grpc-retry-pushback-ms``, gRPC's proposal A6).
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from penstock.service.settings import Settings

PUSHBACK = "grpc-retry-pushback-ms"
"""Trailing metadata: milliseconds until a client may ask again; negative: it must not."""

CODES = {
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "resource_exhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True)
class Overload:
    """How overload is told.

    Attributes:
        code: the status.
        pushback_ms: when to ask again, in milliseconds; 0: nothing is said of it; -1: not to.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    pushback_ms: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Overload:
        """As the settings say."""
        return cls(CODES[settings.overload_status], settings.overload_pushback_ms)

    @property
    def trailing(self) -> tuple[tuple[str, str], ...]:
        """Metadata that go out with the status."""
        return ((PUSHBACK, str(self.pushback_ms)),) if self.pushback_ms else ()
