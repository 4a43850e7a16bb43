"""Between the messages of ``penstock.service.v1`` and numpy, as `requests` and `responses` are for inference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tritonclient.grpc import service_pb2

from penstock import bundle
from penstock.errors import InvalidArgumentError
from penstock.service.answers import Images
from penstock.service.explainer import Explained
from penstock.service.model import Model
from penstock.service.profile import Profile
from penstock.service.requests import read_request
from penstock.service.shared_memory import SharedMemory
from penstock.service.v1 import paths_pb2

_FILTERS, _CLASSES, _MOST = 10, 3, 1000


def path_profile(model: Model, profile: Profile) -> paths_pb2.PathProfile:
    """A profile on the wire."""
    return paths_pb2.PathProfile(
        model_name=model.name,
        model_version=str(model.version),
        window=profile.window,
        active_macs=profile.active_macs,
        flag_rate=profile.flag_rate,
        layers=[
            paths_pb2.LayerProfile(
                name=name, density=density, prototype_counts=profile.prototype_counts.get(name, ())
            )
            for name, density in profile.layer_density.items()
        ],
        classes=[
            paths_pb2.ClassProfile(name=entry.name, count=entry.count, flag_rate=entry.flag_rate)
            for entry in profile.classes
        ],
    )


def images_to_explain(request: paths_pb2.ExplainRequest, model: Model) -> Images:
    """The images of a request, checked as those of a request for inference are.

    Raises:
        UnsupportedError: the model is no bundle.
        InvalidArgumentError: they cannot be for this model, or too many filters or classes are asked for.
    """
    model.check_paths()
    for name in ("filters", "classes"):
        if getattr(request, name) > _MOST:
            raise InvalidArgumentError(f"{name} is {getattr(request, name)}; expected 0 to {_MOST}")
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name=bundle.INPUT, datatype=request.datatype, shape=request.shape
    )
    inference = service_pb2.ModelInferRequest(inputs=[tensor], raw_input_contents=[request.images])
    # The images stand in the message, so no shared memory is needed.
    images: Images = read_request(inference, model, SharedMemory(allowed=False)).inputs[bundle.INPUT]
    return images


def explanation(
    request: paths_pb2.ExplainRequest, model: Model, explained: Explained
) -> paths_pb2.Explanation:
    """Explanations on the wire, as many filters and classes of each as were asked for."""
    calibration = model.manifest.calibration
    count = len(explained.scores)
    never = np.full(count, np.inf, np.float32)
    thresholds = calibration.thresholds_of(explained.features.predicted) if calibration else never
    reader = _Reader(model, explained, request.filters or _FILTERS, request.classes or _CLASSES)
    return paths_pb2.Explanation(
        model_name=model.name,
        model_version=str(model.version),
        threshold=calibration.threshold if calibration else float("inf"),
        images=[reader.image(index, float(thresholds[index])) for index in range(count)],
    )


@dataclass(frozen=True)
class _Reader:
    """Picks from the arrays what is told of one image."""

    model: Model
    explained: Explained
    filters: int
    classes: int

    def image(self, index: int, threshold: float) -> paths_pb2.ExplainedImage:
        found = self.explained.explanation
        layout, names = self.model.manifest.layout.watching, self.model.manifest.class_names
        score = float(self.explained.scores[index])
        nearest = np.argsort(found.surprise[index], kind="stable")[: self.classes]
        return paths_pb2.ExplainedImage(
            class_name=names[self.explained.features.predicted[index]],
            anomaly_score=score,
            adversarial=score > threshold,
            threshold=threshold,
            parts=[
                paths_pb2.ScorePart(name=name, value=value)
                for name, value in zip(self.explained.tables.recipe.parts, found.parts[index], strict=True)
            ],
            layers=[
                paths_pb2.LayerPart(
                    name=layer.name,
                    bits=found.bits[index, bits].sum(),
                    gates=found.gates[index, bits].sum(),
                )
                for layer, bits in zip(layout.layers, layout.slices, strict=True)
            ],
            baseline=found.baseline[index],
            answer=found.answer[index],
            filters=self._filters(index),
            nearest=[
                paths_pb2.NearClass(name=names[place], surprise=found.surprise[index, place])
                for place in nearest
            ],
        )

    def _filters(self, index: int) -> list[paths_pb2.FilterPart]:
        found, features = self.explained.explanation, self.explained.features
        tables = self.explained.tables.combined
        own = features.predicted[index]
        added = found.bits[index] + found.gates[index]
        layers, starts = self.model.manifest.layout.watching.layers, self._starts()
        parts = []
        for place in np.argsort(-added, kind="stable")[: self.filters]:
            layer = int(np.searchsorted(starts, place, side="right")) - 1
            parts.append(
                paths_pb2.FilterPart(
                    layer=layers[layer].name,
                    filter=int(place - starts[layer]),
                    open=bool(features.bits[index, place]),
                    usually_open=bool(tables.likelihood.usual[own, place]),
                    gate_logit=features.gate_logits[index, place],
                    usual_gate_logit=tables.mahalanobis.mean[own, place],
                    contribution=added[place],
                )
            )
        return parts

    def _starts(self) -> list[int]:
        return [bits.start for bits in self.model.manifest.layout.watching.slices]
