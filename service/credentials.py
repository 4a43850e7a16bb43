"""How a client proves who it is, and whom it trusts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from penstock.errors import ConfigurationError
from penstock.service.access import read_token
from penstock.service.listening import read_pem


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a connection needs beside an address; with none of it, it is plain text.

    Attributes:
        authority: PEM file of who signed the server's certificate; speaks TLS.
        certificate: PEM file of this client's own certificate, where the server asks for one.
        key: PEM file of its key.
        token_file: file whose first line is the token to send.
        server_name: name in the server's certificate, where it is not the address's.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigurationError("a client's certificate and key go together; one of them is missing")
        if self.certificate is not None and self.authority is None:
            raise ConfigurationError("a client's certificate needs the server's authority beside it")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to send with every call.

        Raises:
            ConfigurationError: the token's file cannot be read.
        """
        if self.token_file is None:
            return ()
        return (("authorization", f"Bearer {read_token(self.token_file)}"),)

    @property
    def tls(self) -> grpc.ChannelCredentials | None:
        """For gRPC; ``None`` for plain text.

        Raises:
            ConfigurationError: a file cannot be read.
        """
        if self.authority is None:
            return None
        own = [None if file is None else read_pem(file) for file in (self.key, self.certificate)]
        return grpc.ssl_channel_credentials(read_pem(self.authority), *own)

    @property
    def options(self) -> list[tuple[str, str]]:
        """What a channel needs to know beside `tls`."""
        return [] if self.server_name is None else [("grpc.ssl_target_name_override", self.server_name)]

    def channel(self, url: str) -> grpc.Channel:
        """A channel to ``HOST:PORT``."""
        tls = self.tls
        if tls is None:
            return grpc.insecure_channel(url)
        return grpc.secure_channel(url, tls, self.options)


NOTHING = Credentials()
