"""Five times as many requests as the server can answer: who is accepted, who is refused, and how soon each hears it.

A part of ``serving.py``. The graph takes about ten milliseconds for an image of 3x32x32, one run at a time: five times
as much is some hundred requests a second, which a generator in Python can send, and which a server in Python can read
and refuse with a tenth of its core or two. With a smaller graph reading them would be too much already, and times would
say how long requests lie unread. How they are taken is said in `flood`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
from flood import flood
from onnx import TensorProto, helper, numpy_helper
from serving_peers import PEERS, PENSTOCK, serving
from tritonclient.grpc import service_pb2, service_pb2_grpc

TIMES = 5  # as much as it can
QUEUE = 16
LAYERS, CHANNELS, SIZE = 8, 128, 32
Ask = Callable[
    [str, service_pb2.ModelInferRequest, int, float], Coroutine[Any, Any, tuple[list[float], float]]
]


def measure(
    asked: service_pb2.ModelInferRequest, seconds: float, cores: Sequence[int], ask: Ask
) -> dict[str, Any]:
    """Find out what the server can answer, ask five times as much, and see what becomes of it.

    Args:
        asked: one image of `SIZE`.
        seconds: how long there is too much to do.
        cores: of the server.
        ask: asks all the time; returns milliseconds and requests per second.
    """
    penstock = next(peer for peer in PEERS if peer.name == PENSTOCK)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        write_model(repository)
        log, queue = Path(folder) / "server.log", ("--max-queue", str(QUEUE))
        with serving(penstock, Path(sys.executable), repository, cores, log, queue) as (url, process):
            _, capacity = asyncio.run(ask(url, [asked], 4, max(seconds / 12, 0.5)))
            flood(url, asked, seconds / 6, TIMES * capacity)
            before = _resident(process)
            found = flood(url, asked, seconds, TIMES * capacity)
            growth = _resident(process) / before
            recovery = _alone(url, asked)
    refused = {outcome: times for outcome, times in found.times.items() if outcome != "OK"}
    return {
        "seconds": seconds,
        "capacity_per_second": capacity,
        "offered_per_second": TIMES * capacity,
        "bound_ms": (QUEUE + 1) / capacity * 1000,
        "accepted": summary(found.times.get("OK", [])),
        "refused": summary([each for times in refused.values() for each in times]),
        "refusals": {outcome[:200]: len(times) for outcome, times in refused.items()},
        "memory_growth": growth,
        "recovery_ms": recovery * 1000,
        "generator_late_ms": found.late * 1000,
    }


def summary(times: Sequence[float]) -> dict[str, float]:
    """How many, and their milliseconds; of none, no milliseconds.

    Args:
        times: seconds.
    """
    if not times:
        return {"count": 0}
    p50, p99, largest = np.percentile(times, (50, 99, 100)) * 1000
    return {"count": len(times), "p50_ms": float(p50), "p99_ms": float(p99), "largest_ms": float(largest)}


def write_model(repository: Path) -> None:
    """Convolutions enough for ten milliseconds; one image a run, so that a full queue is a known time."""
    rng = np.random.default_rng(0)
    names = ["images", *(f"c{layer}" for layer in range(LAYERS))]
    widths = [3, *[CHANNELS] * LAYERS]
    nodes, constants = [], []
    for layer in range(LAYERS):
        kernel = rng.normal(size=(CHANNELS, widths[layer], 3, 3)).astype(np.float32) / (3 * CHANNELS**0.5)
        constants.append(numpy_helper.from_array(kernel, f"w{layer}"))
        pads = [1, 1, 1, 1]
        nodes.append(helper.make_node("Conv", [names[layer], f"w{layer}"], [names[layer + 1]], pads=pads))
    nodes.append(helper.make_node("ReduceMean", [names[-1]], ["logits"], axes=[2, 3], keepdims=0))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CHANNELS])
    graph = helper.make_graph(nodes, "busy", [images], [logits], constants)
    folder = repository / "model" / "1"
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")


def _alone(url: str, asked: service_pb2.ModelInferRequest) -> float:
    """Seconds of a request when there are no others any more, on a connection that is there."""
    with grpc.insecure_channel(url) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        begin = time.perf_counter()
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=60)
        return time.perf_counter() - begin


def _resident(process: int) -> float:
    """Bytes of memory of a process."""
    pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * float(os.sysconf("SC_PAGE_SIZE"))
