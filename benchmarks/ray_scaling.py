"""Throughput on a Ray cluster of this machine with 1, 2 and 4 replicas beside one server; writes ``results/ray.json``.

    python benchmarks/ray_scaling.py        # needs Ray: make test-ray installs it
    python benchmarks/ray_scaling.py --seconds 1 --rounds 1 --replicas 1 2 --out /tmp/ray.json

Two models: one of next to no work, where the way through Ray is what takes time, and one of a few milliseconds, where
more replicas are worth more processors, as far as the machine has them. The client runs on the same machine. Each
server is alone while it is measured: they would take each other's processors. So the order is turned round between
rounds, and each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from machine import RESULTS, about
from onnx import TensorProto, helper, numpy_helper
from serving import ask, request, write_model
from serving_peers import PENSTOCK, SCRIPTS, Peer, free_port, running

from penstock.files import write_atomic

FILE = "ray.json"
SMALL, WORK = MODELS = ("model", "work")
SIZE = 32
ONE = "penstock serve"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--out", type=Path, default=RESULTS / FILE)
    given = parser.parse_args(arguments)
    found: dict[tuple[str, str], list[tuple[list[float], float]]] = {}
    machine = about()
    machine["versions"]["ray"] = version("ray")
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        write_model(repository, SIZE)
        write_work(repository)
        servers = [0, *given.replicas]
        for round_ in range(given.rounds):
            for replicas in servers if round_ % 2 == 0 else reversed(servers):
                with served(replicas, repository, Path(folder) / "log") as url:
                    for model in MODELS:
                        asked = request(SIZE)
                        asked.model_name = model
                        asyncio.run(ask(url, [asked], given.at_once, min(1.0, given.seconds)))
                        times = asyncio.run(ask(url, [asked], given.at_once, given.seconds))
                        name = f"Ray, {replicas} replica{'s' * (replicas > 1)}" if replicas else ONE
                        found.setdefault((name, model), []).append(times)
    rows = [row(name, model, given.at_once, times) for (name, model), times in found.items()]
    write_atomic(given.out, json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    return 0


@contextmanager
def served(replicas: int, repository: Path, log: Path) -> Iterator[str]:
    """A server of ours, or a cluster with so many replicas of one thread; yields the address."""
    if not replicas:
        with running(Peer(PENSTOCK), Path(sys.executable), repository, [], log) as url:
            yield url
        return
    port = free_port()
    command = [sys.executable, str(SCRIPTS / "penstock_on_ray.py"), str(repository), str(port), str(replicas)]
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=file) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        if not any(line == b"ready\n" for line in process.stdout):
            raise RuntimeError(log.read_text())
        yield f"127.0.0.1:{port}"
        process.stdin.close()
        process.wait(timeout=60)


def write_work(repository: Path) -> None:
    """A model of a few milliseconds on one thread: 3x3 convolutions at full size."""
    rng = np.random.default_rng(0)
    names = [f"w{layer}" for layer in range(8)]
    weights = [rng.normal(size=(64, 64 if layer else 3, 3, 3)) / 24 for layer in range(len(names))]
    constants = [
        numpy_helper.from_array(value.astype(np.float32), name)
        for name, value in [*zip(names, weights, strict=True), ("v", rng.normal(size=(64, 10)))]
    ]
    nodes, at = [], "images"
    for name in names:
        nodes.append(helper.make_node("Conv", [at, name], [f"{name}c"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"{name}c"], [at := f"{name}r"]))
    nodes.append(helper.make_node("ReduceMean", [at], ["m"], axes=[2, 3], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["m", "v"], ["logits"]))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, WORK, [images], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = repository / WORK / "1"
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")


def row(name: str, model: str, at_once: int, times: list[tuple[list[float], float]]) -> dict[str, Any]:
    """Medians over the rounds."""
    return {
        "server": name,
        "model": model,
        "concurrency": at_once,
        "rounds": len(times),
        "p50_ms": float(np.median([np.percentile(taken, 50) for taken, _ in times])),
        "p99_ms": float(np.median([np.percentile(taken, 99) for taken, _ in times])),
        "requests_per_second": float(np.median([rate for _, rate in times])),
    }


if __name__ == "__main__":
    raise SystemExit(main())
