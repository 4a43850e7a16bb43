"""Second sessions of models, whose graphs also answer with their gate logits.

They are made at the first question, and on the CPU, so that the graphs that serve stay as fast as they were. They go
when their models do.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

import numpy as np
import onnxruntime

from penstock.bundle import DETECTOR_FILE, GATE_LOGITS, INPUT, LOGITS, MODEL_FILE, PATH, SCORE
from penstock.detect import FamilyScore, PathFeatures
from penstock.detect.doubt import doubt
from penstock.detect.recipe import MAHALANOBIS, Recipe
from penstock.detect.tables import tables_from_bytes
from penstock.errors import InvalidArgumentError, UnavailableError, UnsupportedError
from penstock.service.answers import Images
from penstock.service.devices import FATAL_ONLY
from penstock.service.model import Model
from penstock.service.observing import with_output

log = logging.getLogger(__name__)

_KEPT = 4  # models whose second session stays in memory
_ASKED = (SCORE, LOGITS, PATH, GATE_LOGITS)

_Key = tuple[str, int, str, str | None]


class Observers:
    """Makes observers, and keeps the last few; one thread asks for them, others say which models there are.

    Args:
        repository: its folder.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = FATAL_ONLY
        self._lock = Lock()  # never held while a session is made, for the others do not wait that long
        self._kept: OrderedDict[_Key, Observer] = OrderedDict()
        self._served: set[_Key] | None = None  # unknown until models change, and not needed

    def of(self, model: Model) -> Observer:
        """The observer of a model.

        Raises:
            UnsupportedError: the model has no detector, or its bundle carries no tables.
            UnavailableError: its files are not those that were loaded.
        """
        key = _key(model)
        with self._lock:
            observer = self._kept.get(key)
        if observer is None:
            folder = self._repository / model.name / str(model.version)
            observer = _open(model, folder, self._options)
        with self._lock:
            if self._served is None or key in self._served:
                self._kept[key] = observer
                self._kept.move_to_end(key)
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return observer

    def keep(self, models: Iterable[Model]) -> None:
        """Let go of the observers of all models but these, now and from now on."""
        served = {_key(model) for model in models if model.paths is not None}
        with self._lock:
            self._served = served
            for key in self._kept.keys() - served:
                del self._kept[key]

    def stop(self) -> None:
        """End running runs at their next operator, and refuse new ones."""
        self._options.terminate = True


class Observer:
    """A graph that also answers with its gate logits, and its detector's tables.

    Args:
        session: the graph.
        options: of its runs.
        single: whether it takes one image at a time.
        watched: the bits of a path that the detector looks at.
        tables: the detector.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        options: onnxruntime.RunOptions,
        *,
        single: bool,
        watched: slice,
        tables: FamilyScore,
    ) -> None:
        self._session = session
        self._options = options
        self._watched = watched
        self._single = single
        self.tables = tables

    def observe(self, images: Images) -> tuple[Images, PathFeatures]:
        """Scores ``[N]`` as the graph computes them, and what the detector sees of the images.

        Raises:
            InvalidArgumentError: an image is not made of numbers.
        """
        step = 1 if self._single else len(images)
        pieces = [
            self._session.run(list(_ASKED), {INPUT: images[begin : begin + step]}, self._options)
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


def _key(model: Model) -> _Key:
    # With the hashes, because a version can be replaced by another of the same number.
    manifest = model.manifest
    return model.name, model.version, manifest.model_sha256, manifest.files.get(DETECTOR_FILE)


def _open(model: Model, folder: Path, run_options: onnxruntime.RunOptions) -> Observer:
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
    return Observer(
        session,
        run_options,
        single=model.manifest.single,
        watched=model.manifest.layout.watched,
        tables=tables,
    )


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
