"""Streams of requests: in order, errors with their request, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from queue import Queue
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
from grpc import StatusCode
from tritonclient.grpc import service_pb2

from penstock.service.streaming import in_order
from tests.service.test_lifecycle import sample, slow, stub_of, wait_until
from tests.service.test_scheduler import settle

Images = npt.NDArray[np.float32]
Request = Callable[..., service_pb2.ModelInferRequest]


def test_answers_come_in_order_and_errors_with_their_request(
    stub: Any, request_for: Request, images: Images
) -> None:
    def requests() -> Iterator[service_pb2.ModelInferRequest]:
        slow = images[:1].copy()
        slow[0, 0, 0, 0] = 0.3
        for number in range(12):
            if number % 3 == 0:  # takes longer than those behind it
                request = request_for("slow", slow)
            else:
                request = request_for("single" if number % 3 == 1 else "batched", images[:2])
            if number == 5:
                request.inputs[0].shape[1] = 4
            request.id = str(number)
            yield request

    responses = list(stub.ModelStreamInfer(requests(), timeout=60))
    assert [response.infer_response.id for response in responses] == [str(n) for n in range(12)]
    assert [n for n, response in enumerate(responses) if response.error_message] == [5]
    assert "unexpected shape for input 'images'" in responses[5].error_message
    whole = [response.infer_response for response in responses if not response.error_message]
    assert all(response.parameters["triton_final_response"].bool_param for response in whole)
    assert all(len(response.raw_output_contents) == 5 for response in whole)


def test_client_that_wants_a_status_gets_one(stub: Any, request_for: Request, images: Images) -> None:
    requests = iter([request_for("batched", images), request_for("nobody", images)])
    responses = stub.ModelStreamInfer(requests, timeout=30, metadata=[("triton_grpc_error", "true")])
    assert next(responses).infer_response.id == "42"
    with pytest.raises(grpc.RpcError) as ended:
        next(responses)
    assert ended.value.code() is StatusCode.NOT_FOUND


def test_stock_client_streams(server: Any, images: Images) -> None:
    tensor = triton.InferInput("images", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    answers: Queue[tuple[Any, Any]] = Queue()
    with triton.InferenceServerClient(server.url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(20):
            client.async_stream_infer("batched", [tensor], request_id=str(number))
        for number in range(20):
            result, error = answers.get(timeout=30)
            assert error is None
            assert result.get_response().id == str(number)
        client.async_stream_infer("nobody", [tensor])
        result, error = answers.get(timeout=30)
        assert result is None
        assert "unknown model: 'nobody'" in str(error)
        client.stop_stream()


def test_cancelled_stream_gives_up_what_waits(
    repository: Any, start: Any, request_for: Request, images: Images
) -> None:
    with start(repository, threads=1) as running, grpc.insecure_channel(running.url) as channel:
        requests = [slow(request_for, images, 2)] * 10
        stream = stub_of(channel).ModelStreamInfer(iter(requests), timeout=60)
        wait_until(lambda: sample(running, "penstock_running") == 1)
        stream.cancel()
        wait_until(lambda: sample(running, "nv_inference_pending_request_count", model="slow") == 0)
        wait_until(lambda: sample(running, "penstock_running") == 0)
        assert sample(running, "nv_inference_exec_count", model="slow") <= 2
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 20


def test_only_so_many_are_under_way_and_none_of_them_when_the_client_has_gone() -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def requests() -> AsyncIterator[int]:
        for number in count():
            yield number

    async def answer(number: int) -> int:
        begun.append(number)
        try:
            await asyncio.sleep(60 if number else 0)
            return number
        finally:
            ended.append(number)

    async def scenario() -> None:
        answers = in_order(requests(), answer, ahead=3)
        assert await anext(answers) == 0
        await settle()
        assert begun == [0, 1, 2]
        following = asyncio.ensure_future(anext(answers))
        await settle()
        assert begun == [0, 1, 2, 3]
        following.cancel()
        await settle()
        assert sorted(ended) == begun == [0, 1, 2, 3]

    asyncio.run(scenario())


def test_error_in_the_requests_comes_after_the_answers_under_way() -> None:
    async def requests() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise ValueError("no more of that")

    async def answer(number: int) -> int:
        await asyncio.sleep(0.02 / number)
        return number

    async def scenario() -> None:
        answers = in_order(requests(), answer, ahead=3)
        assert [await anext(answers), await anext(answers)] == [1, 2]
        with pytest.raises(ValueError, match="no more of that"):
            await anext(answers)

    asyncio.run(scenario())


def test_errors_behind_the_one_that_ends_the_stream_leave_no_traceback() -> None:
    """Asyncio logs one for each future whose error nobody has asked for."""
    logged: list[dict[str, Any]] = []

    async def requests() -> AsyncIterator[int]:
        for number in range(8):
            yield number
        raise ValueError("no more of that")

    async def answer(number: int) -> int:
        if number:
            raise LookupError(f"there is no {number}")
        return number

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        answers = in_order(requests(), answer, ahead=64)
        assert await anext(answers) == 0
        await settle()
        with pytest.raises(LookupError, match="there is no 1"):
            await anext(answers)
        await settle()

    asyncio.run(scenario())
    gc.collect()
    assert not logged
