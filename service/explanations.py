"""What a client gets to know about an image's score."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.service.v1 import paths_pb2


@dataclass(frozen=True, kw_only=True)
class LayerContribution:
    """What a layer added to the score, by its open and closed filters and by its gates' logits."""

    name: str
    bits: float
    gates: float


@dataclass(frozen=True, kw_only=True)
class FilterContribution:
    """What a filter added to the score.

    Attributes:
        layer: name of its layer.
        filter: its place there, from 0.
        open: whether it ran.
        usually_open: whether it usually does in the predicted class.
        gate_logit: what its gate said; above 0 it opens.
        usual_gate_logit: mean over honest inputs of the predicted class.
        contribution: what it added.
    """

    layer: str
    filter: int
    open: bool
    usually_open: bool
    gate_logit: float
    usual_gate_logit: float
    contribution: float


@dataclass(frozen=True, kw_only=True)
class ImageExplanation:
    """Where an image's score comes from.

    Attributes:
        class_name: the predicted class.
        score: anomaly score.
        adversarial: whether it is above the threshold.
        threshold: of the predicted class.
        parts: what each of the detector's parts adds, by the names of its recipe; they sum to the score.
        layers: in network order; all their contributions, the answer's and the baseline sum to the score.
        answer: what the network's doubt about its answer adds.
        baseline: what honest inputs add on average, taken away.
        filters: those that added most, the first the most.
        nearest: surprise at this path in nats per filter by class name, the likest class first.
    """

    class_name: str
    score: float
    adversarial: bool
    threshold: float
    parts: dict[str, float]
    layers: tuple[LayerContribution, ...]
    answer: float
    baseline: float
    filters: tuple[FilterContribution, ...]
    nearest: dict[str, float]


def image_explanation(message: paths_pb2.ExplainedImage) -> ImageExplanation:
    """Read an explanation from the wire."""
    return ImageExplanation(
        class_name=message.class_name,
        score=message.anomaly_score,
        adversarial=message.adversarial,
        threshold=message.threshold,
        parts={part.name: part.value for part in message.parts},
        layers=tuple(
            LayerContribution(name=layer.name, bits=layer.bits, gates=layer.gates) for layer in message.layers
        ),
        answer=message.answer,
        baseline=message.baseline,
        filters=tuple(
            FilterContribution(
                layer=part.layer,
                filter=part.filter,
                open=part.open,
                usually_open=part.usually_open,
                gate_logit=part.gate_logit,
                usual_gate_logit=part.usual_gate_logit,
                contribution=part.contribution,
            )
            for part in message.filters
        ),
        nearest={entry.name: entry.surprise for entry in message.nearest},
    )
