"""Ask a server more than it can answer, and take the time of each answer as near to its arrival as Python gets.

A request's time begins before the client makes bytes of it, and ends in the call's done-callback: on the thread of
gRPC's own that takes events off the network, before any loop or thread of the client's is woken to look at the answer.
What the client does with answers, and how long it takes to come round to that, is therefore not in it. What is left of
the client in it - making bytes, sending, waiting for the interpreter's lock - cannot be taken out from here: a time is
a bound from above of what the server took. `Flood.late` says how far the client fell behind its own timetable; where
that is large, the client was short of processor time and the largest times are its own.

Requests are sent by a timetable, whether or not there were answers, and each is timed from when it was in fact sent.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

PATIENCE = 60.0  # seconds that a request may take
TICK = 0.002  # between two looks at the timetable


@dataclass(frozen=True)
class Flood:
    """What came back.

    Attributes:
        times: seconds of each request, by what became of it: ``OK``, or status and message.
        late: seconds that the client was behind its timetable at the worst.
    """

    times: dict[str, list[float]]
    late: float


def flood(url: str, asked: service_pb2.ModelInferRequest, seconds: float, rate: float) -> Flood:
    """Ask the same so many times a second, then wait for all answers.

    Args:
        url: of the server.
        asked: the request.
        seconds: how long.
        rate: requests per second.

    Raises:
        TimeoutError: a request was never answered.
    """
    times: dict[str, list[float]] = {}
    sent, late = 0, 0.0
    with grpc.insecure_channel(url) as channel, _only_new_garbage():
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        begin = time.perf_counter()
        while (now := time.perf_counter() - begin) < seconds:
            due = int(now * rate)
            if due > sent:
                late = max(late, now - (sent + 1) / rate)
            for _ in range(due - sent):
                call = _send(stub, asked, times)
                sent += 1
            time.sleep(TICK)
        end = time.perf_counter() + PATIENCE + 5
        while sum(map(len, list(times.values()))) < sent:
            if time.perf_counter() > end:
                raise TimeoutError(f"{sent} requests were sent, and some were never answered: {call}")
            time.sleep(TICK)
    return Flood(times, late)


def _send(stub: Any, asked: service_pb2.ModelInferRequest, times: dict[str, list[float]]) -> Any:
    begin = time.perf_counter()
    call = stub.ModelInfer.future(asked, timeout=PATIENCE)
    call.add_done_callback(partial(_arrived, begin, times))
    return call


def _arrived(begin: float, times: dict[str, list[float]], call: Any) -> None:
    """Runs on gRPC's thread, which a channel has one of: first the time, then what it was."""
    taken = time.perf_counter() - begin
    code = call.code()
    outcome = "OK" if code is grpc.StatusCode.OK else f"{code.name}: {call.details()}"
    times.setdefault(outcome, []).append(taken)


@contextmanager
def _only_new_garbage() -> Iterator[None]:
    """Going through all objects of a large process takes tens of milliseconds, in which nothing else runs."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
