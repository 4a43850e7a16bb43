"""Time servers around the same ONNX model, and write ``results/serving.json``.

    python benchmarks/serving.py                                   # everything
    python benchmarks/serving.py --only Penstock --seconds 0.5 --rounds 1 --sizes 32 --out /tmp/serving.json

The model is small (a convolution and a linear layer), so that what is measured is the server. All servers answer the
same requests of one image by the same client, in turn: every round starts each, asks it for some seconds at each
concurrency, and ends it, so that none idles beside another. The client has a core of its own where there are two. Peers
are installed into environments of their own, kept in ``--environments``; one that cannot be installed or started, or
fails a request, is left out, with the reason. The bare server is always measured: it is the floor. Then Penstock alone
is asked five times as much as it can answer (`overload`):

    python benchmarks/serving.py --only Penstock --sizes --overload 10 --out /tmp/serving.json    # nothing but that
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime
import overload
from machine import RESULTS, about, refuse_partial
from onnx import TensorProto, helper, numpy_helper
from serving_peers import FLOOR, PEERS, PENSTOCK, RAW, Peer, Unavailable, python_of, running, versions_of
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.files import write_atomic

FILE = "serving.json"
PHASES = ("queue", "compute_input", "compute_infer", "compute_output", "success")
Times = dict[tuple[str, int, int], list[tuple[list[float], float]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="a peer; may be repeated (all)")
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 224])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument(
        "--overload", type=float, default=60.0, metavar="SECONDS", help="of too much load; 0: none"
    )
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "penstock" / "peers")
    parser.add_argument("--out", type=Path, default=RESULTS / FILE)
    given = parser.parse_args(arguments)
    refuse_partial(parser, "--only" if given.only else None, given.out.parent)
    peers = [peer for peer in PEERS if not given.only or peer.name in (FLOOR, *given.only)]
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    versions: dict[str, dict[str, str]] = {}
    machine = about()
    own, theirs = cores()
    os.sched_setaffinity(0, own)
    for size in given.sizes:
        rows += measure(size, peers, given, theirs, skipped, versions)
    for name, reason in skipped.items():
        print(f"{name} left out: {reason}")
    results = {"machine": machine, "rows": rows, "skipped": skipped, "peers": versions}
    if given.overload and any(peer.name == PENSTOCK for peer in peers):
        results["overload"] = overload.measure(request(overload.SIZE), given.overload, theirs, ask)
    write_atomic(given.out, json.dumps(results, indent=2) + "\n")
    return 0


def measure(
    size: int,
    peers: Sequence[Peer],
    given: argparse.Namespace,
    cores: Sequence[int],
    skipped: dict[str, str],
    versions: dict[str, dict[str, str]],
) -> list[dict[str, Any]]:
    """All servers in turn, for images of one size; each runs alone, and begins anew in every round.

    Who cannot be measured goes into ``skipped``, and what is in the environment of the others into ``versions``.
    """
    times: Times = {}
    phases: dict[int, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        write_model(repository, size)
        for round_ in range(given.rounds):
            for peer in peers if round_ % 2 else reversed(peers):
                if peer.name in skipped:
                    continue
                log = Path(folder) / f"{Path(peer.script).stem or 'penstock'}.log"
                try:
                    python = python_of(peer, given.environments)
                    if peer.requirements and peer.name not in versions:
                        versions[peer.name] = versions_of(peer, python)
                    with running(peer, python, repository, cores, log) as url:
                        check(url, repository, size)
                        _turn(peer, url, size, given, times, phases)
                except Unavailable as error:
                    skipped[peer.name] = str(error)
                except grpc.RpcError as error:
                    skipped[peer.name] = f"failed a request: {str(error.details())[:200]}"
            times.setdefault((RAW, size, 1), []).append(_raw(repository, size, given.seconds))
    native = {peer.name for peer in peers if peer.native}
    return [
        _row(key, found, phases.get(key[2], Counter()) if key[0] == PENSTOCK else Counter(), key[0] in native)
        for key, found in times.items()
        if key[0] not in skipped
    ]


def _turn(
    peer: Peer,
    url: str,
    size: int,
    given: argparse.Namespace,
    times: Times,
    phases: dict[int, Counter[str]],
) -> None:
    """One server at each concurrency, once it is warm: what it does at its start only is not of this."""
    asyncio.run(ask(url, [request(size)], max(given.concurrency), given.seconds / 3))
    for at_once in given.concurrency:
        before = _spent(url) if peer.name == PENSTOCK else Counter()
        found = asyncio.run(ask(url, [request(size)], at_once, given.seconds))
        times.setdefault((peer.name, size, at_once), []).append(found)
        if peer.name == PENSTOCK:
            phases.setdefault(at_once, Counter()).update(_spent(url) - before)


def write_model(repository: Path, size: int) -> None:
    """A model of the size of nothing: what is measured around it is the server."""
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(8, 3, 3, 3)), "v": rng.normal(size=(8, 10))}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], strides=[4, 4], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, size, size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "small", [images], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = repository / "model" / "1"
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")


def request(size: int) -> service_pb2.ModelInferRequest:
    """One image."""
    image = np.random.default_rng(1).uniform(size=(1, 3, size, size)).astype(np.float32)
    asked = service_pb2.ModelInferRequest(model_name="model", raw_input_contents=[image.tobytes()])
    asked.inputs.add(name="images", datatype="FP32", shape=image.shape)
    return asked


def check(url: str, repository: Path, size: int) -> None:
    """See that a server gives the model's answer, once it has the model: some answer before that.

    Raises:
        Unavailable: it gives another, or none for half a minute.
    """
    asked = request(size)
    image = np.frombuffer(asked.raw_input_contents[0], np.float32).reshape(asked.inputs[0].shape)
    (expected,) = _session(repository).run(None, {"images": image})
    with grpc.insecure_channel(url, options=_OPTIONS) as channel:
        stub, end = service_pb2_grpc.GRPCInferenceServiceStub(channel), time.monotonic() + 30
        while True:
            try:
                answer = stub.ModelInfer(asked, timeout=30)
                break
            except grpc.RpcError as error:
                if time.monotonic() > end:
                    raise Unavailable(f"refused the request: {str(error.details())[:200]}") from error
            time.sleep(0.2)
    raw = answer.raw_output_contents
    got = np.frombuffer(raw[0], np.float32) if raw else np.array(answer.outputs[0].contents.fp32_contents)
    if not np.allclose(got, expected.ravel(), rtol=1e-4, atol=1e-5):
        raise Unavailable("gave a wrong answer")


async def ask(
    url: str, asked: Sequence[service_pb2.ModelInferRequest], at_once: int, seconds: float
) -> tuple[list[float], float]:
    """Ask all the time, in turn; returns the milliseconds of each request, and requests per second."""
    taken: list[float] = []
    turn = cycle(asked)
    async with grpc.aio.insecure_channel(url, options=_OPTIONS) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await asyncio.gather(*(stub.ModelInfer(next(turn)) for _ in range(at_once)))
        begin = time.perf_counter()

        async def client() -> None:
            while (now := time.perf_counter()) < begin + seconds:
                await stub.ModelInfer(next(turn))
                taken.append((time.perf_counter() - now) * 1000)

        await asyncio.gather(*(client() for _ in range(at_once)))
        return taken, len(taken) / (time.perf_counter() - begin)


_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def _row(
    key: tuple[str, int, int], found: list[tuple[list[float], float]], spent: Counter[str], native: bool
) -> dict[str, Any]:
    """Medians over the rounds."""
    name, size, at_once = key
    return {
        "server": name,
        "size": size,
        "concurrency": at_once,
        "native": native,
        "rounds": len(found),
        "p50_ms": float(np.median([np.percentile(taken, 50) for taken, _ in found])),
        "p99_ms": float(np.median([np.percentile(taken, 99) for taken, _ in found])),
        "requests_per_second": float(np.median([rate for _, rate in found])),
        "mean_ms": float(np.median([np.mean(taken) for taken, _ in found])),
        "phases_us": {phase: spent[phase] / spent["requests"] / 1000 for phase in PHASES} if spent else None,
    }


def _spent(url: str) -> Counter[str]:
    """Nanoseconds by phase, and requests, since the server began."""
    with grpc.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stats = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="model")).model_stats[0]
    found = {name: getattr(stats.inference_stats, name).ns for name in PHASES}
    return Counter({**found, "requests": stats.inference_stats.success.count})


def _raw(repository: Path, size: int, seconds: float) -> tuple[list[float], float]:
    session, taken = _session(repository), []
    image = np.zeros((1, 3, size, size), np.float32)
    begin = time.perf_counter()
    while (now := time.perf_counter()) < begin + seconds:
        session.run(None, {"images": image})
        taken.append((time.perf_counter() - now) * 1000)
    return taken, len(taken) / (time.perf_counter() - begin)


def _session(repository: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    file = repository / "model" / "1" / "model.onnx"
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def cores() -> tuple[list[int], list[int]]:
    """Those of the client and those of the servers; the same where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[:1], cores[1:] or cores


if __name__ == "__main__":
    raise SystemExit(main())
