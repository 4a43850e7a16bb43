"""Penstock on a Ray cluster of this machine alone. Arguments: repository, port, replicas. Ends with its stdin."""

from __future__ import annotations

import sys

import ray
from ray import serve
from ray.serve.config import gRPCOptions

from penstock.service.cluster.app import SERVICER_FUNCTION, app


def main(repository: str, port: str, replicas: str) -> None:
    """Serve until nobody is at the other end of stdin."""
    # As many processors as replicas ask for, whatever the machine has: the figures say how that goes.
    ray.init(
        address="local",
        num_cpus=int(replicas),
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 * 2**20,
    )
    options = gRPCOptions(port=int(port), grpc_servicer_functions=[SERVICER_FUNCTION])
    serve.start(grpc_options=options, http_options={"host": "127.0.0.1", "port": 0})
    serve.run(app({"model_repository": repository, "replicas": replicas, "log_level": "error"}))
    print("ready", flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:4])
