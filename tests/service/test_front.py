"""The part of a cluster that stands in Ray's proxies, without Ray: what it makes of a replica's bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from penstock.errors import NotFoundError
from penstock.service.client import PathClient
from penstock.service.cluster.attempt import REPLICA
from penstock.service.cluster.front import Front
from penstock.service.flag_records import FlagRecord, flagged_image
from penstock.service.path_servicer import PATHS
from penstock.service.v1 import paths_pb2

RECORD = FlagRecord(
    request_id="42",
    model="batched",
    version=1,
    image_index=4,
    score=2.5,
    class_name="ant",
    time=1e9,
    path_digest="0" * 16,
)


async def watch(request: Any, context: Any) -> Any:
    """What Ray gives for a call of `WatchFlags`: bytes, and before each of them the replica's word on the call."""
    context.set_trailing_metadata([(REPLICA, "one")])
    if paths_pb2.WatchFlagsRequest.FromString(request).model_name == "nobody":
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("unknown model: 'nobody'")
    yield b""
    yield flagged_image(RECORD).SerializeToString()


def test_reader_hears_at_once_whether_it_is_refused_or_misses_nothing_from_now_on() -> None:
    def ask(url: str) -> None:
        with PathClient(url) as paths:
            with pytest.raises(NotFoundError, match="unknown model: 'nobody'"):
                paths.watch_flags("nobody")
            assert list(paths.watch_flags()) == [RECORD]

    async def scenario() -> None:
        front = Front()
        front._method_handlers[f"/{PATHS.full_name}/WatchFlags"] = grpc.unary_stream_rpc_method_handler(watch)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((front,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            await asyncio.to_thread(ask, f"127.0.0.1:{port}")
        finally:
            await server.stop(None)

    asyncio.run(scenario())
