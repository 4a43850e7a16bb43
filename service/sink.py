"""Where flagged images are kept: written by a thread of its own, and never in the way of an answer.

Whatever happens to the disk, requests are answered; what could not be kept is counted.
"""

from __future__ import annotations

import logging
import queue
import random
from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread

from penstock.service.answers import Images
from penstock.service.flag_metrics import FlagMetrics
from penstock.service.flag_records import FlagRecord
from penstock.service.stores import Row, Store

log = logging.getLogger(__name__)

_WAITING = 1024  # rows that may wait for the disk
_IMAGES_WAITING = 64  # beyond this many waiting rows no images are captured: they are what takes memory
_TICK_SECONDS = 1.0
_CLOSE_SECONDS = 5.0


class Sink:
    """A bounded queue in front of a store.

    Args:
        store: is written to by this sink's thread only.
        image_share: share of the flagged images that are kept with their records, 0 to 1.
        metrics: counts what was written and what was lost.
    """

    def __init__(self, store: Store, image_share: float, metrics: FlagMetrics) -> None:
        self._store = store
        self._image_share = image_share
        self._metrics = metrics
        self._queue: queue.Queue[Row | None] = queue.Queue(_WAITING)
        self._failing = False
        self._taken = 0  # rows that the store has and that are in no file yet
        self._thread = Thread(target=self._work, name="flag-sink", daemon=True)
        self._thread.start()

    def offer(self, records: Sequence[FlagRecord], images: Images) -> None:
        """Keep records of flagged images if there is room; never waits, never fails.

        Args:
            records: of one request.
            images: ``[N, C, H, W]``, all images of the request.
        """
        for record in records:
            capture = random.random() < self._image_share and self._queue.qsize() < _IMAGES_WAITING
            try:
                self._queue.put_nowait(Row(record, images[record.image_index].copy() if capture else None))
            except queue.Full:
                self._metrics.sink_lost.labels("queue").inc()

    def close(self) -> None:
        """Write what waits, within a few seconds, and end the thread."""
        try:
            self._queue.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            log.warning("the sink's disk does not keep up: %d flagged images are lost", self._queue.qsize())
            return
        self._thread.join(_CLOSE_SECONDS)

    def _work(self) -> None:
        while True:
            try:
                row = self._queue.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                self._store_by(self._store.tick)
                continue
            if row is None:
                break
            self._taken += 1
            self._store_by(partial(self._store.write, row))
        self._store_by(self._store.close)

    def _store_by(self, step: Callable[[], int]) -> None:
        """Let the store do something, and count what became of the rows that it has taken."""
        try:
            written = step()
        except Exception as error:  # a full disk, a vanished folder, a library: none may end this thread
            self._metrics.sink_lost.labels("error").inc(self._taken)
            self._taken = 0
            if not self._failing:  # once, not for every row while the disk is full
                log.error("flagged images cannot be kept and are lost until this is mended: %s", error)
            self._failing = True
            return
        self._taken -= written
        self._metrics.sink_written.inc(written)
        if written and self._failing:
            log.info("flagged images are kept again")
            self._failing = False
