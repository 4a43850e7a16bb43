"""Readers of flagged images as they come, each behind a buffer of its own.

Whoever flags never waits for a reader: one whose buffer is full is dropped, told how much it missed, and counted.
Its buffer is emptied at once; its place is free when its call ends, for until then gRPC keeps buffers for it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from penstock.errors import PenstockError, UnavailableError
from penstock.service.flag_metrics import FlagMetrics
from penstock.service.flag_records import FlagRecord
from penstock.service.statuses import SlowReaderError


class Watchers:
    """All readers of one server; for one event loop.

    Args:
        buffer: records that may wait for one reader.
        limit: readers at a time.
        metrics: counts the readers, and those dropped.
    """

    def __init__(self, buffer: int, limit: int, metrics: FlagMetrics) -> None:
        self._buffer = buffer
        self._limit = limit
        self._metrics = metrics
        self._readers: set[_Reader] = set()

    def publish(self, records: Sequence[FlagRecord]) -> None:
        """Hand records to every reader that asked for their model."""
        for reader in self._readers:
            for record in records:
                if reader.wants(record) and not reader.take(record):
                    self._metrics.watchers_dropped.inc()
                    break

    @contextmanager
    def subscription(self, model: str, version: int | None) -> Iterator[AsyncIterator[FlagRecord]]:
        """Records from now on, for ever; the reader's place is free again when the block ends, however it does.

        Args:
            model: only this model's; empty: all models'.
            version: only this version's; ``None``: all versions'.

        Raises:
            UnavailableError: as many readers as are allowed are there already; or, while reading, the server
                stops.
            SlowReaderError: while reading, the buffer was full.
        """
        if len(self._readers) >= self._limit:
            raise UnavailableError(
                f"{self._limit} readers watch already, and no more are allowed; try again later"
            )
        reader = _Reader(model, version, self._buffer)
        self._readers.add(reader)
        self._metrics.watchers.inc()
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            self._metrics.watchers.dec()

    def close(self) -> None:
        """End every reader's stream."""
        for reader in self._readers:
            reader.end(UnavailableError("the server is shutting down"))


class _Reader(AsyncIterator[FlagRecord]):
    """One reader's filter and buffer."""

    def __init__(self, model: str, version: int | None, buffer: int) -> None:
        self._model = model
        self._version = version
        self._queue: asyncio.Queue[FlagRecord | None] = asyncio.Queue()
        self._buffer = buffer
        self._ended: PenstockError | None = None

    def wants(self, record: FlagRecord) -> bool:
        if self._ended is not None:
            return False
        return self._model in ("", record.model) and self._version in (None, record.version)

    def take(self, record: FlagRecord) -> bool:
        """Keep a record; ``False`` if there was no room, which ends this reader."""
        if self._queue.qsize() < self._buffer:
            self._queue.put_nowait(record)
            return True
        while not self._queue.empty():  # emptied rather than replaced: someone may be waiting at it
            self._queue.get_nowait()
        self.end(
            SlowReaderError(
                f"the reader is too slow: {self._buffer} flagged images waited for it; "
                "read faster, or watch one model only"
            )
        )
        return False

    def end(self, reason: PenstockError) -> None:
        """Let the reader have what waits, then this error; the first reason counts."""
        if self._ended is None:
            self._ended = reason
            self._queue.put_nowait(None)

    async def __anext__(self) -> FlagRecord:
        record = await self._queue.get()
        if record is None:
            assert self._ended is not None
            raise self._ended
        return record
