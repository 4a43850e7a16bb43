"""What happens after every answer: figures, and where images were flagged, records and the model's policy."""

from __future__ import annotations

import time
from collections.abc import Sequence

from penstock.errors import FlaggedError
from penstock.service.answers import Answer, Images
from penstock.service.flag_metrics import FlagMetrics
from penstock.service.flag_records import FlagRecord, records_of
from penstock.service.model import Model
from penstock.service.policy import FlagPolicy
from penstock.service.sink import Sink
from penstock.service.watchers import Watchers

_NAMED = 16  # flagged images that a refusal names


class Flags:
    """Takes note of every answer before it goes out.

    Args:
        metrics: counts.
        watchers: are told of flagged images.
        sink: keeps them; ``None``: nothing does.
    """

    def __init__(self, metrics: FlagMetrics, watchers: Watchers, sink: Sink | None) -> None:
        self._metrics = metrics
        self._watchers = watchers
        self._sink = sink

    def note(self, model: Model, request_id: str, images: Images, answer: Answer) -> None:
        """Take note of an answer.

        Args:
            model: that gave it, a bundle.
            request_id: as the client chose it.
            images: ``[N, C, H, W]``, what it is the answer for.
            answer: to them.

        Raises:
            FlaggedError: some images are flagged and the model's policy is to refuse them.
        """
        labels = (model.name, str(model.version))
        saved = float((1 - answer.active_macs).sum()) * model.manifest.layout.dense_macs
        self._metrics.macs_saved.labels(*labels).inc(max(saved, 0.0))  # all gates open cost more than none
        if not answer.adversarial.any():
            return
        names = model.manifest.class_names
        records = records_of(request_id, model.name, model.version, names, answer, time.time())
        self._watchers.publish(records)
        if self._sink is not None:
            self._sink.offer(records, images)
        if model.policy is FlagPolicy.REJECT:
            self._metrics.rejected.labels(*labels).inc()
            raise FlaggedError(_refusal(model.name, len(answer), records))


def _refusal(model: str, images: int, records: Sequence[FlagRecord]) -> str:
    named = ", ".join(f"{record.image_index} (score {record.score:.6g})" for record in records[:_NAMED])
    more = f" and {len(records) - _NAMED} more" if len(records) > _NAMED else ""
    return (
        f"model {model!r} refuses requests with flagged images, and {len(records)} of {images} are flagged: "
        f"image {named}{more}; send the others again without them"
    )
