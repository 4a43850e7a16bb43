"""Many clients at once, some of which give up: nothing leaks, and nobody gets another's answer."""

from __future__ import annotations

import asyncio
import os
import random
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import numpy as np
import numpy.typing as npt
import onnxruntime
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.bundle import INPUT, OUTPUTS
from tests.service.bundles import MAX_BATCH, tiny_graph
from tests.service.scale import Record, long, scaled

Images = npt.NDArray[np.float32]
Request = Callable[..., service_pb2.ModelInferRequest]

CALLS = scaled(20_000, 600)
AT_ONCE = 32


SLIGHT = 0.001  # pixel of the slow model: a run takes a millisecond, as long as a client takes to ask


class Question(NamedTuple):
    """A request, and every output that is right for it, by name."""

    request: service_pb2.ModelInferRequest
    expected: dict[str, npt.NDArray[Any]]

    def check(self, response: service_pb2.ModelInferResponse) -> None:
        """See that a response is the answer to this."""
        assert (response.id, response.model_name) == (self.request.id, self.request.model_name)
        assert [output.name for output in response.outputs] == [*self.expected]
        for raw, expected in zip(response.raw_output_contents, self.expected.values(), strict=True):
            got = np.frombuffer(raw, expected.dtype).reshape(expected.shape)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        flags = response.parameters["penstock_adversarial"].string_param
        assert flags == ",".join(str(int(flag)) for flag in self.expected["adversarial"][:, 0])


class Questions:
    """Asks models that differ in how they run, and not in their answers, about batches of images, each once.

    Args:
        images: what to ask about.
        request_for: makes requests.
        seed: of what comes in which order.
        pixel: how long the slow model runs.
    """

    def __init__(self, images: Images, request_for: Request, seed: int, pixel: float = SLIGHT) -> None:
        self._rng = random.Random(seed)
        self._request_for = request_for
        self._asked = 0
        slow = images.copy()
        slow[:, 0, 0, 0] = pixel
        self._images = {"batched": images, "single": images, "slow": slow}
        graph = onnxruntime.InferenceSession(tiny_graph(single=False).SerializeToString())
        self._answers = {name: graph.run(list(OUTPUTS), {INPUT: own}) for name, own in self._images.items()}

    def any(self) -> Question:
        """One of up to eight images; at least two of those for the slow model fit a run."""
        name = self._rng.choice([*self._images])
        most = MAX_BATCH // 2 if name == "slow" else MAX_BATCH
        rows = [self._rng.randrange(len(self._images[name])) for _ in range(self._rng.randint(1, most))]
        request = self._request_for(name, self._images[name][rows])
        self._asked += 1
        request.id = str(self._asked)
        answers = zip(OUTPUTS, self._answers[name], strict=True)
        return Question(request, {output: values[rows] for output, values in answers})


def told(outcomes: Counter[str]) -> str:
    """Counts for a reader."""
    return ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())


def metrics(running: Any) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{running.metrics}/metrics", timeout=10) as page:
        lines = [line.rpartition(" ") for line in page.read().decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


def resident_mib(running: Any) -> float:
    with open(f"/proc/{running.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def one_call(stub: Any, question: Question, rng: random.Random) -> str:
    """Ask and compare; now and then give up, by a deadline or by cancelling."""
    fate = rng.choice(["patient"] * 6 + ["deadline", "cancel"])
    timeout = rng.uniform(0.0005, 0.02) if fate == "deadline" else 60
    call = stub.ModelInfer(question.request, timeout=timeout)
    if fate == "cancel":
        asyncio.get_running_loop().call_later(rng.uniform(0, 0.02), call.cancel)
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    except asyncio.CancelledError:
        return "CANCELLED"
    question.check(response)
    return "OK"


async def many_calls(url: str, images: Images, request_for: Request, seed: int) -> Counter[str]:
    rng = random.Random(seed)
    questions = Questions(images, request_for, seed)
    outcomes: Counter[str] = Counter()

    async def client(stub: Any) -> None:
        for _ in range(CALLS // AT_ONCE):
            outcomes[await one_call(stub, questions.any(), rng)] += 1

    async with grpc.aio.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await asyncio.gather(*[client(stub) for _ in range(AT_ONCE)])
    return outcomes


@long
def test_clients_that_give_up(
    repository: Any, start: Any, images: Images, request_for: Request, record_property: Record
) -> None:
    with start(repository, threads=2, log_level="warning") as running:
        outcomes = asyncio.run(many_calls(running.url, images, request_for, seed=1))
        record_property("requests by outcome", told(outcomes))
        assert outcomes.keys() <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED"}, outcomes
        assert outcomes["OK"] >= CALLS / 2
        before = resident_mib(running)
        asyncio.run(many_calls(running.url, images, request_for, seed=2))
        assert resident_mib(running) < before + 64
        values = metrics(running)
        for name in ("penstock_running", "nv_inference_pending_request_count"):
            assert all(value == 0 for key, value in values.items() if key.startswith(name + "{"))
        assert running.stop() == 0
        assert running.log.read_text().count("\n") <= 1, "only the fallback to the CPU is worth a warning"
