"""Ask a server for its health.

``python -m penstock.service.probe HOST:PORT [NAME]`` exits with 0 if it serves, 1 if not, 2 if asked wrongly.

For container health checks; NAME is a model, or is left out for the server as a whole. What a server with TLS or
tokens asks for comes by flags or, since an image's health check is written before its certificates are known, from the
environment: ``PENSTOCK_PROBE_AUTHORITY`` for ``--authority`` and so on. The server's own certificate will do as the
authority.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.errors import PenstockError
from penstock.service.credentials import NOTHING, Credentials

PREFIX = "PENSTOCK_PROBE_"


def is_serving(
    target: str, name: str = "", timeout: float = 5.0, *, credentials: Credentials = NOTHING
) -> bool:
    """Whether the server answers within ``timeout`` seconds, and answers SERVING.

    Raises:
        ConfigurationError: a file of the credentials cannot be read.
    """
    metadata = credentials.metadata
    with credentials.channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=name), timeout=timeout, metadata=metadata
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Exit code for the command line: 0 serving, 1 not serving, 2 wrong usage."""
    try:
        parsed = _parser(environ).parse_args(arguments)
    except SystemExit as stopped:
        return 0 if stopped.code == 0 else 2
    try:
        credentials = Credentials(
            authority=parsed.authority,
            certificate=parsed.certificate,
            key=parsed.key,
            token_file=parsed.token_file,
            server_name=parsed.server_name,
        )
        return 0 if is_serving(parsed.target, parsed.name, parsed.timeout, credentials=credentials) else 1
    except PenstockError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m penstock.service.probe")
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="a model (the server as a whole)")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS")
    for option, kind, text in (
        ("authority", Path, "PEM file of who signed the server's certificate"),
        ("certificate", Path, "PEM file of the probe's own"),
        ("key", Path, "PEM file of its key"),
        ("token_file", Path, "its first line is sent"),
        ("server_name", str, "name in the server's certificate (that of the address)"),
    ):
        flag = f"--{option.replace('_', '-')}"
        # An empty variable is none. Defaults that are text are cast like a flag's value.
        parser.add_argument(flag, type=kind, default=environ.get(PREFIX + option.upper()) or None, help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
