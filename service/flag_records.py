"""What is kept and told of a flagged image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.service.answers import Answer
from penstock.service.v1 import paths_pb2

WATCHING = (("penstock-watching", "yes"),)
"""Initial metadata of `WatchFlags` once a reader has its buffer; those of a refused call are empty."""

_LONGEST_ID = 200  # of what a client may make everyone else read


@dataclass(frozen=True, kw_only=True)
class FlagRecord:
    """One flagged image.

    Attributes:
        request_id: as the client chose it; may be empty.
        model: model name.
        version: version number.
        image_index: place of the image in its request, from 0.
        score: anomaly score; NaN for an image that was broken.
        class_name: the class it was taken for.
        time: seconds since 1970, UTC.
        path_digest: 16 hexadecimal digits, the same for images that took the same path.
    """

    request_id: str
    model: str
    version: int
    image_index: int
    score: float
    class_name: str
    time: float
    path_digest: str


def records_of(
    request_id: str, model: str, version: int, class_names: tuple[str, ...], answer: Answer, now: float
) -> list[FlagRecord]:
    """One record per flagged image of an answer, in the order of the images."""
    classes = answer.logits.argmax(axis=1)
    return [
        FlagRecord(
            request_id=request_id[:_LONGEST_ID],
            model=model,
            version=version,
            image_index=int(index),
            score=float(answer.anomaly_score[index, 0]),
            class_name=class_names[classes[index]],
            time=now,
            path_digest=path_digest(answer.path[index]),
        )
        for index in np.flatnonzero(answer.adversarial[:, 0])
    ]


def path_digest(path: npt.NDArray[np.uint8]) -> str:
    """16 hexadecimal digits that stand for a path ``[P]``."""
    return hashlib.blake2b(np.packbits(path).tobytes(), digest_size=8).hexdigest()


def flagged_image(record: FlagRecord) -> paths_pb2.FlaggedImage:
    """A record on the wire."""
    return paths_pb2.FlaggedImage(
        request_id=record.request_id,
        model_name=record.model,
        model_version=str(record.version),
        image_index=record.image_index,
        anomaly_score=record.score,
        class_name=record.class_name,
        time=record.time,
        path_digest=record.path_digest,
    )


def flag_record(message: paths_pb2.FlaggedImage) -> FlagRecord:
    """The record that `flagged_image` put on the wire."""
    return FlagRecord(
        request_id=message.request_id,
        model=message.model_name,
        version=int(message.model_version),
        image_index=message.image_index,
        score=message.anomaly_score,
        class_name=message.class_name,
        time=message.time,
        path_digest=message.path_digest,
    )
