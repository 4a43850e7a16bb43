"""Who may call what: a bearer token per group of remote calls.

Each group's tokens stand in a file, one a line. A group without a file is open to everyone who can connect, which the
log warns of if another group has one. The questions whether the server lives are always open, for probes have no
tokens. Reflection, which tells what the server
has as its metadata do, belongs to inference. A token travels in the metadata as
``authorization: Bearer TOKEN``, as elsewhere on the web (RFC 6750).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path

from penstock.errors import ConfigurationError, ForbiddenError, UnauthenticatedError

log = logging.getLogger(__name__)

_SHORTEST = 16  # characters; a token is to be random, not remembered
_PREFIX = "bearer "


class Group(StrEnum):
    """Remote calls that share their tokens."""

    INFERENCE = "inference"
    CONTROL = "control"
    EXPLAIN = "explain"


_OPEN = {"ServerLive", "ServerReady", "Check", "Watch", "List"}
_EXPLAIN = {"GetPathProfile", "WatchFlags", "Explain"}
_CONTROL_PREFIXES = ("Repository", "SystemSharedMemory", "CudaSharedMemory", "TraceSetting", "LogSettings")


def group_of(method: str) -> Group | None:
    """The group of a method, by its name without the service's; ``None``: open."""
    if method in _OPEN:
        return None
    if method in _EXPLAIN:
        return Group.EXPLAIN
    return Group.CONTROL if method.startswith(_CONTROL_PREFIXES) else Group.INFERENCE


class Access:
    """Tells whether a call may be made.

    Args:
        files: tokens of each group that is not open.

    Raises:
        ConfigurationError: a file cannot be read, is empty, or holds a token that is too short.
    """

    def __init__(self, files: Mapping[Group, Path]) -> None:
        # Digests, so that all comparisons are of the same length.
        self._digests = {group: [_digest(token) for token in _tokens(file)] for group, file in files.items()}
        left_open = [group for group in Group if group not in files]
        if files and left_open:
            log.warning(
                "no token is needed for calls of %s, though others need one: whoever can connect may make them; "
                "close them with %s",
                " and ".join(left_open),
                " and ".join(f"--{group}-tokens" for group in left_open),
            )

    def check(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Let a call through, or not.

        Args:
            method: name without the service's.
            metadata: of the call.

        Raises:
            UnauthenticatedError: a token is needed, and there is none or an unknown one.
            ForbiddenError: the token is known, but not for this group.
        """
        group = group_of(method)
        if group is None or group not in self._digests:
            return
        given = _digest(_token(metadata))
        # Every token of every group is compared, whatever was found before: time tells nothing.
        rights = {
            name: sum([hmac.compare_digest(given, digest) for digest in digests])
            for name, digests in self._digests.items()
        }
        if rights[group]:
            return
        if any(rights.values()):
            raise ForbiddenError(f"{method} needs a token for '{group}'; this one is for other calls")
        raise UnauthenticatedError(
            f"{method} needs a token for '{group}', and there was none or an unknown one: "
            "send the metadata 'authorization: Bearer TOKEN'"
        )


def read_token(file: Path) -> str:
    """A client's token: the first of a file.

    Raises:
        ConfigurationError: the file cannot be read or holds none.
    """
    return _tokens(file)[0]


def _tokens(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"tokens {str(file)!r} cannot be read ({error})") from error
    tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not tokens:
        raise ConfigurationError(f"tokens {str(file)!r} hold none: write one a line")
    if min(map(len, tokens)) < _SHORTEST:
        raise ConfigurationError(
            f"tokens {str(file)!r} hold one of fewer than {_SHORTEST} characters: make one with "
            "`openssl rand -hex 32`"
        )
    return tokens


def _token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for name, value in metadata:
        if name == "authorization" and isinstance(value, str) and value.lower().startswith(_PREFIX):
            return value[len(_PREFIX) :].strip()
    return ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
