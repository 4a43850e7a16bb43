"""A cluster of Ray's on this machine, in a process of its own: a head and machines, each of several processes.

Arguments: model repository, machines, replicas. Prints the proxy's port once the application answers; with no replicas,
the cluster's address. Then, for every line on stdin: ``kill``: one machine goes down without a word; ``add``: another
one joins. Ends with stdin.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.config import gRPCOptions

from penstock.service.cluster.app import SERVICER_FUNCTION, app

MEMORY = 80 * 2**20  # of each machine's object store, Ray's smallest


def machine(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=MEMORY, include_dashboard=False)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def serve_on(cluster: Cluster, repository: str, replicas: str) -> None:
    ray.init(address=cluster.address, log_to_driver=False)
    port = free_port()
    options = gRPCOptions(port=port, grpc_servicer_functions=[SERVICER_FUNCTION])
    serve.start(
        proxy_location="HeadOnly",
        grpc_options=options,
        http_options={"host": "127.0.0.1", "port": free_port()},
    )
    serve.run(app({"model_repository": repository, "replicas": replicas, "log_level": "warning"}))
    say(f"port {port}")


def main(repository: str, machines: str, replicas: str) -> None:
    # The head has no processor to lend: it keeps the proxy and the books, and replicas live elsewhere.
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False},
    )
    others = [machine(cluster) for _ in range(int(machines))]
    try:
        if replicas == "0":
            say(f"address {cluster.address}")
        else:
            serve_on(cluster, repository, replicas)
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(others.pop(), allow_graceful=False)
            else:
                others.append(machine(cluster))
            say("done")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
