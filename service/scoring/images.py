"""A few image files to records, by the session and the checks that a server would have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from penstock.bundle import INPUT, OUTPUTS
from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.service.answers import Answer, Images
from penstock.service.images import read_images
from penstock.service.model import Model
from penstock.service.repository import Repository
from penstock.service.scoring.plan import Score
from penstock.service.settings import Settings

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

Record = dict[str, Any]


def found_images(folder: Path) -> list[str]:
    """Image files in a folder and below, as paths in it, sorted.

    Raises:
        NotFoundError: it is not there, or holds none.
    """
    found = sorted(
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    if not found:
        raise NotFoundError(f"no images in {folder}: looked for {', '.join(SUFFIXES)}")
    return found


def score_files(score: Score, files: Sequence[str]) -> list[Record]:
    """A record for each file, in their order; one that is no image has an ``error`` and nothing else.

    Args:
        score: what to do.
        files: in its folder, at least one.

    Raises:
        PenstockError: the model cannot be used.
    """
    model = opened(score.repository, score.model, score.version)
    records: list[Record] = []
    read: list[tuple[Record, Images]] = []
    for name in files:
        record: Record = {"file": name}
        records.append(record)
        try:
            read.append((record, read_images([score.images / name], model.manifest.input_shape)))
        except (InvalidArgumentError, NotFoundError) as error:
            record["error"] = str(error)
    most = min(score.batch, model.max_batch)
    for begin in range(0, len(read), most):
        part = read[begin : begin + most]
        answer = answered(model, np.concatenate([image for _, image in part]))
        for row, (record, _) in enumerate(part):
            record |= _values(model, answer, row)
    return records


@lru_cache(maxsize=4)
def opened(repository: Path, name: str, version: int) -> Model:
    """A model, loaded once in a process.

    Raises:
        PenstockError: it is not there or cannot be used.
    """
    settings = Settings(
        model_repository=repository, model_control_mode="explicit", load_model=(name,), threads=1
    )
    model = Repository(settings).get(name, version or None)
    model.check_paths()
    return model


def answered(model: Model, pixels: Images) -> Answer:
    """The answer for a batch of pixels, ``[N, C, H, W]`` uint8."""
    images = pixels if model.manifest.input_type == "uint8" else pixels.astype(np.float32) / np.float32(255)
    size = 1 if model.single else len(images)
    parts = [images[begin : begin + size] for begin in range(0, len(images), size)]
    return Answer.join([Answer(**model.session.run({INPUT: part}, OUTPUTS)) for part in parts])


def _values(model: Model, answer: Answer, row: int) -> Record:
    index = int(answer.logits[row].argmax())
    names = model.manifest.class_names
    return {
        "class": names[index] if index < len(names) else str(index),
        "logits": answer.logits[row].tolist(),
        "anomaly_score": float(answer.anomaly_score[row, 0]),
        "adversarial": bool(answer.adversarial[row, 0]),
        "active_macs": float(answer.active_macs[row, 0]),
    }
