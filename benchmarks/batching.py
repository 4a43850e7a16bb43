"""Does it pay that requests share a run? Print a table and write ``results/batching.json``.

    python benchmarks/batching.py                                    # everything
    python benchmarks/batching.py --only ResNet-20 --rounds 1 --seconds 0.2 --out /tmp

For each network two things, each with its forms in turn: the time of an image in the graph alone, in batches of several
sizes, and the requests of one image that a server answers, with and without ``dynamic_batching`` beside the same file.
The client has a core of its own where there are two; the server and the graph have one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import table_batching
from machine import RESULTS, about, refuse_partial
from serving import ask, cores
from serving_peers import PEERS, PENSTOCK, running
from speed_forms import shown
from tritonclient.grpc import service_pb2

from penstock.bundle import CONFIG_FILE, INPUT
from penstock.export.autotune.measure import feeds, interleaved
from penstock.files import write_atomic
from penstock.model_config import BATCHING
from penstock.service.devices import CPU, Device
from penstock.service.session import Session

FILE = "batching.json"
NETWORKS: tuple[dict[str, Any], ...] = (
    {
        "name": "ResNet-20, masked",
        "size": 32,
        "data": "cifar10",
        "paths": "zoo:resnet20-cifar10",
        "export": ["zoo:resnet20-cifar10", "--lowering", "masked"],
    },
    {
        "name": "ResNet-56, routed",
        "size": 32,
        "data": "cifar10",
        "paths": "zoo:resnet56-cifar10",
        "export": ["zoo:resnet56-cifar10", "--lowering", "routed"],
    },
    {
        "name": "ResNet-18, routed",
        "size": 224,
        "export": ["timing:resnet18,density=0.5,prototypes=8", "--lowering", "routed"],
    },
)
BATCHES = (1, 4, 8, 16)
IN_GRAPH = 8  # batches of each size that the graph alone is timed with
IMAGES = 64  # that are asked about in turn
ALONE, SHARED = "alone", "shared"


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, measure, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="of a network's name")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    given = parser.parse_args(arguments)
    refuse_partial(parser, "--only" if given.only else None, given.out)
    machine, (own, theirs) = about(), cores()
    rows = []
    for network in NETWORKS:
        if given.only not in network["name"]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            repository = Path(folder) / "models"
            make_models(network, repository)
            os.sched_setaffinity(0, own)
            in_graph = per_image(network, repository / ALONE / "1" / "model.onnx", given.seconds)
            rates = served(network, repository, given, theirs)
            os.sched_setaffinity(0, {*own, *theirs})
        rows.append({"network": network["name"], "size": network["size"], "ms": in_graph, "rates": rates})
    results = {"machine": machine, "rows": rows}
    write_atomic(given.out / FILE, json.dumps(results, indent=2) + "\n")
    print("\n".join(table_batching.everything(results)))
    return 0


def make_models(network: dict[str, Any], repository: Path) -> None:
    """The same bundle twice: its requests run alone, or share runs."""
    command = [sys.executable, "-m", "penstock.cli", "export", *network["export"]]
    command += ["--repository", str(repository), "--name", SHARED, "--max-batch", str(max(BATCHES))]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copytree(repository / SHARED, repository / ALONE)
    config = repository / ALONE / CONFIG_FILE
    text = config.read_text(encoding="utf-8").replace(f'name: "{SHARED}"', f'name: "{ALONE}"')
    config.write_text(text.replace(BATCHING, ""), encoding="utf-8")


def per_image(network: dict[str, Any], file: Path, seconds: float) -> dict[str, float]:
    """Milliseconds of an image in the graph alone, by size of batch."""
    session = Session(file, Device(CPU), threads=1)
    outputs = [tensor.name for tensor in session.outputs]
    images = shown(network, IN_GRAPH * max(BATCHES))

    def run(feed: dict[str, Any]) -> Any:
        return lambda: session.run(feed, outputs)

    runs = {str(batch): [run(feed) for feed in feeds(images[: IN_GRAPH * batch], batch)] for batch in BATCHES}
    times = interleaved(runs, seconds=seconds * len(BATCHES))
    return {batch: ms / int(batch) for batch, ms in times.items()}


def served(
    network: dict[str, Any], repository: Path, given: argparse.Namespace, theirs: Sequence[int]
) -> list[dict[str, Any]]:
    """Requests per second of both models of a server, asked in turn: medians over the rounds."""
    found: dict[tuple[str, int], list[tuple[list[float], float]]] = {}
    penstock = next(peer for peer in PEERS if peer.name == PENSTOCK)
    images = shown(network, IMAGES)[:IMAGES]
    asked = {name: requests(images, name) for name in (ALONE, SHARED)}
    log = repository.parent / "server.log"
    with running(penstock, Path(sys.executable), repository, theirs, log) as url:
        for _ in range(given.rounds):
            for at_once in given.concurrency:
                for name, all_ in asked.items():
                    answers = asyncio.run(ask(url, all_, at_once, given.seconds))
                    found.setdefault((name, at_once), []).append(answers)
    return [
        {
            "requests": name,
            "concurrency": at_once,
            "per_second": float(np.median([rate for _, rate in rounds])),
            "p99_ms": float(np.median([np.percentile(taken, 99) for taken, _ in rounds])),
        }
        for (name, at_once), rounds in found.items()
    ]


def requests(images: npt.NDArray[np.uint8], model: str) -> list[service_pb2.ModelInferRequest]:
    """One for each image: those that share a run take different paths, as images do."""
    made = []
    for feed in feeds(images, 1):
        asked = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[feed[INPUT].tobytes()])
        asked.inputs.add(name=INPUT, datatype="FP32", shape=feed[INPUT].shape)
        made.append(asked)
    return made


if __name__ == "__main__":
    sys.exit(main())
