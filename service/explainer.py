"""Explains scores: runs a model once more, with a look at its gate logits, and cuts its scores up.

An explanation is for people who ask about single images. `penstock.service.observers` has the sessions that it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore

from penstock.detect import Explanation, FamilyScore, PathFeatures, explain
from penstock.errors import OverloadedError, UnavailableError
from penstock.service.answers import Images
from penstock.service.model import Model
from penstock.service.observers import Observers
from penstock.service.queueing import QUEUE_FULL

_WAITING = 16  # requests that may wait; explaining is not what the server is there for


@dataclass(frozen=True, eq=False)
class Explained:
    """Explanations of ``N`` images.

    Attributes:
        scores: ``[N]`` float32, as the graph computes them.
        features: what the detector sees of the images.
        explanation: where the scores come from.
        tables: the detector.
    """

    scores: Images
    features: PathFeatures
    explanation: Explanation
    tables: FamilyScore


@dataclass(eq=False)
class _Question:
    """What waits for the thread; without images, nobody waits for the answer."""

    model: Model
    images: Images | None


class Explainer:
    """Explains for all models of a repository, one request at a time.

    Args:
        repository: its folder.
    """

    def __init__(self, repository: Path) -> None:
        self._observers = Observers(repository)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._places = BoundedSemaphore(_WAITING)

    async def explain(self, model: Model, images: Images) -> Explained:
        """Explain the scores of a batch.

        Args:
            model: one of the repository's.
            images: ``[N, C, H, W]`` as the model takes them.

        Raises:
            UnsupportedError: the model has no detector, or its bundle carries no tables.
            UnavailableError: its files are not those that were loaded.
            InvalidArgumentError: an image is not made of numbers.
            OverloadedError: too many requests wait.
        """
        if not self._places.acquire(blocking=False):
            raise OverloadedError(
                f"{QUEUE_FULL}: {_WAITING} requests for explanations are waiting; try again later"
            )
        question = _Question(model, images)
        answer = asyncio.get_running_loop().run_in_executor(self._pool, self._answer, question)
        answer.add_done_callback(_hear)
        try:
            # The pool keeps what is cancelled until its thread comes to it, and tells nobody when that is. So the
            # question stays, without its images, and gives its place back then.
            return await asyncio.shield(answer)
        finally:
            question.images = None

    def keep(self, models: Iterable[Model]) -> None:
        """Hold nothing in memory for any other models than these."""
        self._observers.keep(models)

    def close(self) -> None:
        """Take no more requests, and end the one that runs at the next operator of its graph."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._observers.stop()

    def _answer(self, question: _Question) -> Explained:
        try:
            images = question.images
            if images is None:
                raise UnavailableError("nobody waits for this explanation any more")
            observer = self._observers.of(question.model)
            scores, features = observer.observe(images)
            return Explained(scores, features, explain(observer.tables, features), observer.tables)
        finally:
            self._places.release()


def _hear(answer: asyncio.Future[Explained]) -> None:
    """Take note of an error, of which asyncio would complain where nobody waits for the answer any more."""
    if not answer.cancelled():
        answer.exception()
