"""Settings of the service, from flags, the environment and a file.

Every field has a flag (``grpc_port``: ``--grpc-port``), a variable (``PENSTOCK_GRPC_PORT``) and a name in the file
(``grpc_port``). A flag wins over the environment, the environment over the file, the file over the default. The
file is named by ``--config`` or ``PENSTOCK_CONFIG``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from penstock.errors import ConfigurationError
from penstock.service.settings_file import read_settings_file

PREFIX = "PENSTOCK_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"

CHOICES = {
    "model_control_mode": ("none", "poll", "explicit"),
    "overload_status": ("unavailable", "resource_exhausted"),
    "flag_policy": ("annotate", "reject", "shadow"),
    "sink_format": ("jsonl", "parquet"),
    "log_level": ("debug", "info", "warning", "error"),
    "log_format": ("text", "json"),
}


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

    reflection: bool = False
    """Whether tools such as ``grpcurl`` may ask which calls there are."""

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

    shrink_arenas: bool = True
    """Give memory back that the last runs of a model did not need, rather than keep it for the next large batch."""

    gpu_memory_mib: int = 0
    """What one model version may take of the CUDA device's memory; 0: all there is."""

    max_queue: int = 256
    """Requests of one model version that may wait; the next one is refused at once."""

    overload_status: str = "unavailable"
    """Status of a request that is refused for overload: ``unavailable``, as Triton's, or ``resource_exhausted``."""

    overload_pushback_ms: int = 0
    """When such a client is told to ask again, in milliseconds; 0: it is told nothing; -1: not to ask again."""

    max_message_mib: int = 64
    """Largest message in either direction, in MiB."""

    max_batch: int = 0
    """Largest batch of a request, and of a run that requests share, where a model takes more; 0: what it takes."""

    flag_policy: str = "annotate"
    """What becomes of requests with flagged images: ``annotate``, ``reject`` or ``shadow``; a model may choose."""

    sink_folder: Path | None = None
    """Folder that keeps records of flagged images; none by default."""

    sink_format: str = "jsonl"
    """``jsonl`` or ``parquet``."""

    sink_file_mib: int = 16
    """Size beyond which no file grows: another follows."""

    sink_total_mib: int = 256
    """Size of all files together; the oldest go first."""

    sink_image_share: float = 0.0
    """Share of the flagged images that are kept themselves, 0 to 1."""

    watch_buffer: int = 1024
    """Flagged images that may wait for one reader of ``WatchFlags``."""

    max_watchers: int = 16
    """Readers of ``WatchFlags`` at a time."""

    tls_certificate: Path | None = None
    """The server's certificate chain in PEM form; without it the server speaks plain text."""

    tls_key: Path | None = None
    """The certificate's key in PEM form."""

    tls_client_ca: Path | None = None
    """Who must have signed a client's certificate; without it clients need none."""

    inference_tokens: Path | None = None
    """Tokens of which one is needed for inference and metadata, one a line; without it no token is."""

    control_tokens: Path | None = None
    """The same for loading models, shared memory, trace and log settings."""

    explain_tokens: Path | None = None
    """The same for ``PathService``."""

    keepalive_seconds: float = 0.0
    """Idle time after which a client is asked whether it is still there; 0: gRPC's two hours."""

    keepalive_timeout_seconds: float = 0.0
    """How long it may take to say so; 0: gRPC's 20 seconds."""

    max_connection_age_seconds: float = 0.0
    """Age at which a connection is closed, so that clients spread over new servers; 0: never."""

    max_connection_age_grace_seconds: float = 0.0
    """How long running requests may take then; 0: as long as they need."""

    otlp_endpoint: str = ""
    """``http://HOST:PORT`` of an OpenTelemetry collector (OTLP over gRPC) for traces; none by default."""

    threads: int = 0
    """Threads of one run of a batched model; runs at once of a model for single images; 0: one per core."""

    grace_seconds: float = 30.0
    """How long running requests may take to finish once the server was told to stop."""

    profile_window: int = 1024
    """Number of recent answers that a path profile covers."""

    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""

    log_format: str = "text"
    """``text`` or ``json``."""

    def __post_init__(self) -> None:
        for name in ("grpc_port", "metrics_port"):
            self._check(name, 0 <= getattr(self, name) <= 65535, "0 (any free port) to 65535")
        self._check("repository_poll_secs", 0 < self.repository_poll_secs < float("inf"), "above 0 seconds")
        self._check("max_queue", self.max_queue >= 1, "1 or more")
        self._check(
            "overload_pushback_ms",
            -1 <= self.overload_pushback_ms < 2**31,
            "-1 (never again), 0 (nothing is said) or more",
        )
        self._check("max_message_mib", 1 <= self.max_message_mib <= 2047, "1 to 2047 MiB")
        for name in ("sink_file_mib", "watch_buffer", "max_watchers"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        self._check(
            "sink_total_mib",
            self.sink_total_mib >= self.sink_file_mib,
            f"sink_file_mib, {self.sink_file_mib}, or more",
        )
        self._check("sink_image_share", 0 <= self.sink_image_share <= 1, "0 to 1")
        self._check("max_batch", self.max_batch >= 0, "0 (what the model takes) or more")
        self._check("gpu_memory_mib", self.gpu_memory_mib >= 0, "0 (all there is) or more")
        for name in (
            "keepalive_seconds",
            "keepalive_timeout_seconds",
            "max_connection_age_seconds",
            "max_connection_age_grace_seconds",
        ):
            self._check(name, 0 <= getattr(self, name) < 2**21, "0 (off) to 2097151 seconds")
        self._check_tls()
        self._check("threads", self.threads >= 0, "0 (one per core) or more")
        self._check("grace_seconds", 0 <= self.grace_seconds < float("inf"), "0 seconds or more")
        self._check("profile_window", self.profile_window >= 1, "1 or more")
        for name, choices in CHOICES.items():
            *most, last = choices
            self._check(name, getattr(self, name) in choices, f"{', '.join(most)} or {last}")

    @property
    def max_message_bytes(self) -> int:
        """Largest message in either direction."""
        return self.max_message_mib * 2**20

    @property
    def parallelism(self) -> int:
        """``threads``, with the default resolved to the number of cores."""
        return self.threads or available_cores()

    @classmethod
    def read(cls, environ: Mapping[str, str], *, config: Path | None = None, **flags: Any) -> Settings:
        """Put settings together from flags, the environment and a file.

        Args:
            environ: variables; those that are not ours, or empty, are passed over.
            config: TOML file; by default the one that the environment names, if it does.
            flags: values by field name, as text or already cast; ``None`` means that the flag was not given.

        Raises:
            ConfigurationError: names the setting, its value and what would be right.
        """
        given: dict[str, Any] = {}
        file = config or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
        written = {} if file is None else read_settings_file(file, [field.name for field in fields(cls)])
        for field in fields(cls):
            variable = f"{PREFIX}{field.name.upper()}"
            value = flags.pop(field.name, None)
            origin = f"--{field.name.replace('_', '-')}"
            if value is None and environ.get(variable):
                value, origin = environ[variable], variable
            if value is None and field.name in written:
                value, origin = written[field.name], f"{field.name} in {str(file)!r}"
            if value is not None:
                given[field.name] = _cast(str(field.type), value, origin)
        if flags:
            raise ConfigurationError(f"no such settings: {', '.join(sorted(flags))}")
        if "model_repository" not in given:
            raise ConfigurationError(
                f"no model repository was named: pass --model-repository or set {PREFIX}MODEL_REPOSITORY"
            )
        return cls(**given)

    def _check_tls(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigurationError("tls_certificate and tls_key go together; one of them is missing")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ConfigurationError("tls_client_ca needs tls_certificate and tls_key")

    def _check(self, name: str, right: bool, rule: str) -> None:
        if not right:
            raise ConfigurationError(f"{name} is {getattr(self, name)!r}; it must be {rule}")


def _cast(kind: str, value: Any, origin: str) -> Any:
    casts: dict[str, Callable[[Any], Any]] = {
        "Path": Path,
        "Path | None": Path,
        "str": str,
        "int": int,
        "float": float,
        "bool": _boolean,
        "tuple[str, ...]": _names,
    }
    try:
        return casts[kind](value)
    except (ValueError, TypeError):
        kind = "list of names" if kind == "tuple[str, ...]" else kind.removesuffix(" | None")
        raise ConfigurationError(f"{origin} is {value!r}; that is no {kind}") from None


def _names(value: Any) -> tuple[str, ...]:
    """Names from a list, or from a text with commas between them."""
    parts = value.split(",") if isinstance(value, str) else value
    if not all(isinstance(part, str) for part in parts):
        raise TypeError
    return tuple(part.strip() for part in parts if part.strip())


def _boolean(value: Any) -> bool:
    text = str(value).lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError
