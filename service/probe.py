"""Ask a server for its health.

``python -m penstock.service.probe HOST:PORT [NAME]`` exits with 0 if it serves, 1 if not.

For container health checks; NAME is a model, or is left out for the server as a whole.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def is_serving(target: str, name: str = "", timeout: float = 5.0) -> bool:
    """Whether the server answers within ``timeout`` seconds, and answers SERVING."""
    with grpc.insecure_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=name), timeout=timeout
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main(arguments: Sequence[str]) -> int:
    """Exit code for the command line: 0 serving, 1 not serving, 2 wrong usage."""
    match arguments:
        case [target]:
            return 0 if is_serving(target) else 1
        case [target, name]:
            return 0 if is_serving(target, name) else 1
    sys.stderr.write("usage: python -m penstock.service.probe HOST:PORT [NAME]\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
