"""Settings of the service, from flags and the environment.

Every field has a variable (``grpc_port``: ``PENSTOCK_GRPC_PORT``), the common ones have a flag. A flag wins
over the environment, the environment over the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from penstock.errors import ConfigurationError

PREFIX = "PENSTOCK_"


def available_cores() -> int:
    """Number of cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a server needs to know before it starts."""

    model_repository: Path
    """Folder of models, each with its configuration and version folders."""

    model_control_mode: str = "none"
    """``none``: models as they are at the start; ``poll``: as the folder changes; ``explicit``: on request."""

    repository_poll_secs: float = 15.0
    """Seconds between two looks at the folder, where it is polled."""

    load_model: tuple[str, ...] = ()
    """Models to load at the start where models are loaded on request; ``*`` for all."""

    server_name: str = "penstock"
    """Name in the server's metadata; some clients insist on ``triton``."""

    system_shared_memory: bool = False
    """Whether clients on this machine may hand over tensors in POSIX shared memory."""

    host: str = "127.0.0.1"
    """Address to listen on; ``0.0.0.0`` for all."""

    grpc_port: int = 8001
    """Port of the inference service; 0 takes any free one."""

    metrics_port: int = 8002
    """Port of the Prometheus metrics over HTTP; 0 takes any free one."""

    require_gpu: bool = False
    """Refuse to start where no CUDA device can be used, rather than fall back to the CPU."""

    max_queue: int = 256
    """Requests of one model version that may wait; the next one is refused at once."""

    max_message_mib: int = 64
    """Largest message in either direction, in MiB."""

    threads: int = 0
    """Threads of one run of a batched model; runs at once of a model for single images; 0: one per core."""

    grace_seconds: float = 30.0
    """How long running requests may take to finish once the server was told to stop."""

    profile_window: int = 1024
    """Number of recent answers that a path profile covers."""

    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""

    def __post_init__(self) -> None:
        for name in ("grpc_port", "metrics_port"):
            self._check(name, 0 <= getattr(self, name) <= 65535, "0 (any free port) to 65535")
        self._check(
            "model_control_mode",
            self.model_control_mode in ("none", "poll", "explicit"),
            "none, poll or explicit",
        )
        self._check("repository_poll_secs", 0 < self.repository_poll_secs < float("inf"), "above 0 seconds")
        self._check("max_queue", self.max_queue >= 1, "1 or more")
        self._check("max_message_mib", 1 <= self.max_message_mib <= 2047, "1 to 2047 MiB")
        self._check("threads", self.threads >= 0, "0 (one per core) or more")
        self._check("grace_seconds", 0 <= self.grace_seconds < float("inf"), "0 seconds or more")
        self._check("profile_window", self.profile_window >= 1, "1 or more")
        self._check(
            "log_level",
            self.log_level in ("debug", "info", "warning", "error"),
            "debug, info, warning or error",
        )

    @property
    def max_message_bytes(self) -> int:
        """Largest message in either direction."""
        return self.max_message_mib * 2**20

    @property
    def parallelism(self) -> int:
        """``threads``, with the default resolved to the number of cores."""
        return self.threads or available_cores()

    @classmethod
    def read(cls, environ: Mapping[str, str], **flags: Any) -> Settings:
        """Put settings together from the environment and from flags.

        Args:
            environ: variables; those that are not ours, or empty, are passed over.
            flags: values by field name, as text or already cast; ``None`` means that the flag was not given.

        Raises:
            ConfigurationError: names the setting, its value and what would be right.
        """
        given: dict[str, Any] = {}
        for field in fields(cls):
            variable = f"{PREFIX}{field.name.upper()}"
            value = flags.pop(field.name, None)
            origin = f"--{field.name.replace('_', '-')}"
            if value is None and environ.get(variable):
                value, origin = environ[variable], variable
            if value is not None:
                given[field.name] = _cast(str(field.type), value, origin)
        if flags:
            raise ConfigurationError(f"no such settings: {', '.join(sorted(flags))}")
        if "model_repository" not in given:
            raise ConfigurationError(
                f"no model repository was named: pass --model-repository or set {PREFIX}MODEL_REPOSITORY"
            )
        return cls(**given)

    def _check(self, name: str, right: bool, rule: str) -> None:
        if not right:
            raise ConfigurationError(f"{name} is {getattr(self, name)!r}; it must be {rule}")


def _cast(kind: str, value: Any, origin: str) -> Any:
    casts: dict[str, Callable[[Any], Any]] = {
        "Path": Path,
        "str": str,
        "int": int,
        "float": float,
        "bool": _boolean,
        "tuple[str, ...]": _names,
    }
    try:
        return casts[kind](value)
    except ValueError:
        raise ConfigurationError(f"{origin} is {value!r}; that is no {kind}") from None


def _names(value: Any) -> tuple[str, ...]:
    """Names from a list, or from a text with commas between them."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts if part.strip())


def _boolean(value: Any) -> bool:
    text = str(value).lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError
