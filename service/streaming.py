"""A stream of requests to a stream of answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

Q = TypeVar("Q")
R = TypeVar("R")


async def in_order(
    requests: AsyncIterator[Q], answer: Callable[[Q], Awaitable[R]], *, ahead: int
) -> AsyncIterator[R]:
    """Answer requests as they come, several at once, and give the answers in the order of the requests.

    Args:
        requests: the stream; an error in it ends the answers with the same error, after those under way.
        answer: answers one request.
        ahead: how many answers may be under way; no more requests are read until the first of them is given.
    """
    begun: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue()
    room = asyncio.Semaphore(ahead)

    async def read() -> None:
        try:
            await room.acquire()
            async for request in requests:
                begun.put_nowait(asyncio.ensure_future(answer(request)))
                await room.acquire()
        finally:
            begun.put_nowait(None)

    reader = asyncio.create_task(read())
    current: asyncio.Future[R] | None = None
    try:
        while (current := await begun.get()) is not None:
            yield await current
            room.release()
        await reader
    finally:  # the client may have gone, or hear of one error only: what is under way for it is cancelled
        rest: list[asyncio.Future[Any]] = [reader] if current is None else [reader, current]
        while not begun.empty():
            rest += filter(None, [begun.get_nowait()])
        for future in rest:
            future.cancel()
            future.add_done_callback(_hear)


def _hear(future: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody waits for: asyncio would log it with a traceback, as often as clients like."""
    if not future.cancelled():
        future.exception()
