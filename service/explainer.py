"""Explains scores: runs a model once more, with a look at its gate logits, and cuts its scores up.

An explanation is for people who ask about single images. It has a session of its own, made at the first question
and on the CPU, so that the graph that serves stays as fast as it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from penstock.bundle import DETECTOR_FILE, GATE_LOGITS, INPUT, LOGITS, MODEL_FILE, PATH, SCORE
from penstock.detect import Explanation, FamilyScore, PathFeatures, explain
from penstock.detect.doubt import doubt
from penstock.detect.recipe import MAHALANOBIS, Recipe
from penstock.detect.tables import tables_from_bytes
from penstock.errors import InvalidArgumentError, OverloadedError, UnavailableError, UnsupportedError
from penstock.service.answers import Images
from penstock.service.devices import FATAL_ONLY
from penstock.service.model import Model
from penstock.service.observing import with_output
from penstock.service.queueing import QUEUE_FULL

log = logging.getLogger(__name__)

_KEPT = 4  # models whose second session stays in memory
_WAITING = 16  # requests that may wait; explaining is not what the server is there for
_ASKED = (SCORE, LOGITS, PATH, GATE_LOGITS)


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


class Explainer:
    """Explains for all models of a repository, one request at a time.

    Args:
        repository: its folder.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._waiting = 0
        self._observers: OrderedDict[tuple[str, int, str, str | None], _Observer] = OrderedDict()

    async def explain(self, model: Model, images: Images) -> Explained:
        """Explain the scores of a batch.

        Args:
            model: one of the repository's.
            images: ``[N, C, H, W]`` as the model takes them.

        Raises:
            UnsupportedError: the model has no detector, or its bundle carries no tables.
            InvalidArgumentError: an image is not made of numbers.
            OverloadedError: too many requests wait.
        """
        if self._waiting >= _WAITING:
            raise OverloadedError(
                f"{QUEUE_FULL}: {_WAITING} requests for explanations are waiting; try again later"
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._explain, model, images)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Take no more requests."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _explain(self, model: Model, images: Images) -> Explained:
        observer = self._observer(model)
        scores, features = observer.observe(images)
        return Explained(scores, features, explain(observer.tables, features), observer.tables)

    def _observer(self, model: Model) -> _Observer:
        # With the hashes, because a version can be replaced by another of the same number.
        key = (
            model.name,
            model.version,
            model.manifest.model_sha256,
            model.manifest.files.get(DETECTOR_FILE),
        )
        if key not in self._observers:
            self._observers[key] = _open(model, self._repository / model.name / str(model.version))
            while len(self._observers) > _KEPT:
                self._observers.popitem(last=False)
        self._observers.move_to_end(key)
        return self._observers[key]


class _Observer:
    """A graph that also answers with its gate logits, and its detector's tables."""

    def __init__(
        self, session: onnxruntime.InferenceSession, single: bool, watched: slice, tables: FamilyScore
    ) -> None:
        self._session = session
        self._watched = watched
        self._single = single
        self.tables = tables

    def observe(self, images: Images) -> tuple[Images, PathFeatures]:
        step = 1 if self._single else len(images)
        pieces = [
            self._session.run(list(_ASKED), {INPUT: images[begin : begin + step]})
            for begin in range(0, len(images), step)
        ]
        scores, logits, path, gate_logits = (np.concatenate(part) for part in zip(*pieces, strict=True))
        broken = ~(np.isfinite(gate_logits).all(axis=1) & np.isfinite(logits).all(axis=1))
        if broken.any():
            raise InvalidArgumentError(
                f"image {int(broken.argmax())} holds NaN, infinity or numbers so large that they become it: "
                "that is why it is flagged, and there is no more to explain"
            )
        # The detector's gate logits are asked for, so they are those of the watched bits alone.
        bits = path[:, self._watched]
        predicted = logits.argmax(axis=1).astype(np.int64)
        return scores[:, 0], PathFeatures(bits, gate_logits, predicted, doubt(logits))


def _open(model: Model, folder: Path) -> _Observer:
    shown = f"model {model.name!r} version {model.version}"
    if model.manifest.calibration is None:
        raise UnsupportedError(f"{shown} has no detector, so there are no scores to explain")
    detector = model.manifest.calibration.detector
    if DETECTOR_FILE not in model.manifest.files:
        remedy = (
            "" if MAHALANOBIS in Recipe.parse(detector).parts else f", with {MAHALANOBIS} among its parts"
        )
        raise UnsupportedError(
            f"{shown} carries no tables of its detector {detector}: export it again{remedy}"
        )
    graph = _read(folder / MODEL_FILE, model.manifest.model_sha256, shown)
    tables = tables_from_bytes(
        detector, _read(folder / DETECTOR_FILE, model.manifest.files[DETECTOR_FILE], shown)
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    session = onnxruntime.InferenceSession(
        with_output(graph, GATE_LOGITS), options, providers=["CPUExecutionProvider"]
    )
    log.info("%s has a second session now, to explain its scores", shown)
    return _Observer(session, model.manifest.single, model.manifest.layout.watched, tables)


def _read(file: Path, expected: str, shown: str) -> bytes:
    """A file of the bundle as it was when it was loaded; messages name no path, for clients see them."""
    try:
        content = file.read_bytes()
    except OSError as error:
        log.error("%s cannot be explained: %s", shown, error)
        raise UnavailableError(f"{shown}: its {file.name} cannot be read any more") from None
    if hashlib.sha256(content).hexdigest() != expected:
        log.error("%s cannot be explained: %s is not what was loaded", shown, file)
        raise UnavailableError(f"{shown}: its {file.name} was changed after it was loaded")
    return content
