"""How the server listens: gRPC's options, its certificates, its port."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc

from penstock.errors import ConfigurationError
from penstock.service.settings import Settings

_MILLISECONDS = 1000


def options(settings: Settings) -> list[tuple[str, int]]:
    """Options of a gRPC server."""
    limit = settings.max_message_bytes
    found = [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        # A second server on the same port must fail, not take half the calls.
        ("grpc.so_reuseport", 0),
        # For clients that keep alive eagerly.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
    ]
    for option, seconds in (
        ("grpc.keepalive_time_ms", settings.keepalive_seconds),
        ("grpc.keepalive_timeout_ms", settings.keepalive_timeout_seconds),
        ("grpc.max_connection_age_ms", settings.max_connection_age_seconds),
        ("grpc.max_connection_age_grace_ms", settings.max_connection_age_grace_seconds),
    ):
        if seconds:
            found.append((option, int(seconds * _MILLISECONDS)))
    return found


def listen(server: grpc.aio.Server, address: str, settings: Settings, handshake: Callable[[], None]) -> int:
    """Bind a port, with TLS where the settings name a certificate.

    Args:
        server: not started yet.
        address: ``HOST:PORT``.
        settings: name the certificates.
        handshake: is called, in a thread of gRPC's, whenever a client begins to connect with TLS.

    Returns:
        The port.

    Raises:
        ConfigurationError: a file cannot be read, does not fit the others, or the port cannot be had.
    """
    credentials = _credentials(settings, handshake)
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:  # gRPC logs the reason and says only that it failed
        suspects = "" if credentials is None else ", or certificate and key are none or do not fit each other"
        raise ConfigurationError(
            f"cannot listen at {address}: the port is in use, or the host is not this one{suspects}; "
            "choose another with --grpc-port, where 0 takes any free port"
        ) from error


def _credentials(settings: Settings, handshake: Callable[[], None]) -> grpc.ServerCredentials | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    pair = (read_pem(settings.tls_key), read_pem(settings.tls_certificate))
    authority = None if settings.tls_client_ca is None else read_pem(settings.tls_client_ca)
    certificates = grpc.ssl_server_certificate_configuration([pair], authority)
    # gRPC tells nobody which handshakes fail, but before each it asks whether the certificates have changed.
    # The answer ``None``, which is also what `handshake` returns, is that they have not.
    return grpc.dynamic_ssl_server_credentials(
        certificates,
        handshake,  # type: ignore[arg-type]  # the stubs do not know of the None
        authority is not None,
    )


def read_pem(file: Path) -> bytes:
    """A certificate or key.

    Raises:
        ConfigurationError: the file cannot be read, or is no PEM.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{str(file)!r} cannot be read ({error.strerror})") from error
    if b"-----BEGIN " not in content:
        raise ConfigurationError(f"{str(file)!r} is no certificate or key in PEM form")
    return content
