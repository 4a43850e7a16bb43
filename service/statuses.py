"""The one table between our errors and gRPC statuses, in both directions."""

from __future__ import annotations

import logging

import grpc

from penstock.errors import (
    AlreadyExistsError,
    FlaggedError,
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    OperationError,
    OverloadedError,
    PenstockError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from penstock.service.line_limit import LineLimit
from penstock.service.logs import request_id
from penstock.service.queueing import QUEUE_FULL, TOO_LATE

log = logging.getLogger(__name__)

# A status travels in a header, and clients refuse headers of more than a few KiB.
_LONGEST_MESSAGE = 1000

_refusals, _failures = (
    LineLimit(),
    LineLimit(),
)  # each its own, lest refusals hide failures; metrics count all


class UnparsableError(PenstockError):
    """The bytes of a request are no message of the expected type."""


class SlowReaderError(PenstockError):
    """A reader of a stream does not keep up with it."""


TABLE: tuple[tuple[type[PenstockError], grpc.StatusCode], ...] = (
    (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    (AlreadyExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (UnsupportedError, grpc.StatusCode.UNIMPLEMENTED),
    (OperationError, grpc.StatusCode.INTERNAL),
    (FlaggedError, grpc.StatusCode.FAILED_PRECONDITION),
    (UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (ForbiddenError, grpc.StatusCode.PERMISSION_DENIED),
    (SlowReaderError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (UnparsableError, grpc.StatusCode.INTERNAL),
)


_OVERLOADED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


def status_of(
    error: Exception, method: str, overloaded: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
) -> tuple[grpc.StatusCode, str]:
    """Status and message for a client; ``overloaded`` is the status of an `OverloadedError`.

    Anything that is not in the table is our fault: its text, which may name files or libraries, goes to the
    log under a request id, where there is room for it, and the client gets the id only.
    """
    for kind, known in TABLE:
        if isinstance(error, kind):
            code = overloaded if isinstance(error, OverloadedError) else known
            message = str(error)[:_LONGEST_MESSAGE]
            _log_refusal(method, code, message)
            return code, message
    found = request_id.get()
    _log_failure(method, found, error)
    return grpc.StatusCode.INTERNAL, f"internal error, request id {found}"


def _log_refusal(method: str, code: grpc.StatusCode, message: str) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    left_out = _refusals.admit()
    if left_out is not None:
        others = f" (and {left_out} refusals without a line)" if left_out else ""
        log.info("%s refused with %s: %s%s", method, code.name, message, others)


def _log_failure(method: str, found: str, error: Exception) -> None:
    left_out = _failures.admit()
    if left_out is not None:
        others = f" (and {left_out} failures without a line)" if left_out else ""
        log.error("%s failed, request id %s%s", method, found, others, exc_info=error)


def error_of(code: grpc.StatusCode, message: str) -> PenstockError:
    """The error that a client raises for a status; the inverse of the table.

    Overload may have the status of other errors, and is known by its words, which are Triton's.
    """
    if code in _OVERLOADED and any(words in message for words in (QUEUE_FULL, TOO_LATE)):
        return OverloadedError(message)
    for kind, known in TABLE:
        if code is known:
            return kind(message)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnavailableError(message)
    return PenstockError(f"{code.name}: {message}")
