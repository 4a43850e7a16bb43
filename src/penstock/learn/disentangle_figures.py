"""All that is measured of a network's sub-architectures, in one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from penstock.data import Splits
from penstock.errors import ConfigurationError
from penstock.learn.class_tasks import TaskFigures, few_of_each, logits_of, measure_tasks
from penstock.learn.concepts import ConceptFigures, measure_concepts
from penstock.learn.disentangle_config import MeasureConfig
from penstock.learn.error_explanation import ErrorFigures, explain_errors
from penstock.learn.mosaics import TILES, HitFigures, measure_hits
from penstock.learn.similarity import between_classes, layer_similarities
from penstock.learn.subarchitectures import (
    RANKED,
    AgreementFigures,
    agreement,
    confusion,
    expected_similarity,
)
from penstock.nn.class_masks import MaskedNetwork


@dataclass(frozen=True, kw_only=True)
class DisentangleFigures:
    """What was measured.

    Attributes:
        layers: names of the masked layers, in order; ``_by_layer`` values and hit rates go along with them.
        dense_accuracy: of the whole network on all held-out images.
        density_by_layer: share of open filters, mean over classes.
        similarity: mean Jaccard index of two classes' sub-architectures.
        similarity_by_layer: the same in each layer.
        expected_similarity_by_layer: what independent paths of the same densities would have.
        tasks: each class's own task.
        hits: path hit rates; ``None`` where they were not asked for.
        agreement: similarity against confusions.
        errors: similarity of wrongly predicted classes.
        concepts: diversity of concepts.
    """

    layers: tuple[str, ...]
    dense_accuracy: float
    density_by_layer: tuple[float, ...]
    similarity: float
    similarity_by_layer: tuple[float, ...]
    expected_similarity_by_layer: tuple[float, ...]
    tasks: TaskFigures
    hits: tuple[HitFigures, ...] | None
    agreement: AgreementFigures
    errors: ErrorFigures
    concepts: ConceptFigures

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


def refuse_unmeasurable(splits: Splits, config: MeasureConfig) -> None:
    """See before hours of searching what will be missing when its result is measured.

    Raises:
        ConfigurationError: too few classes, or a class without images to judge its sub-architecture by.
    """
    classes = len(splits.class_names)
    if classes < RANKED:
        raise ConfigurationError(
            f"{classes} classes are too few to disentangle; at least {RANKED} are needed to rank pairs of them"
        )
    if config.mosaics and classes < TILES:
        raise ConfigurationError(f"{classes} classes; a mosaic needs {TILES}: set mosaics of measure to 0")
    for name, images in (("validation", splits.validation), ("test", splits.held_out)):
        missing = [splits.class_names[label] for label in range(classes) if label not in images.labels]
        if missing:
            raise ConfigurationError(
                f"no {name} image of class {', '.join(missing[:5])}: its sub-architecture could not be judged; add "
                "some, or leave the class out"
            )


def measure(
    network: MaskedNetwork,
    splits: Splits,
    config: MeasureConfig,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> DisentangleFigures:
    """Measure everything on images that the masks were not learned from.

    Args:
        network: with its scores in place.
        splits: the data set; calibration and test images together are what is measured on.
        config: how much.
        seed: of mosaics, resamples and permutations.
        say: told what is being measured.
    """
    held_out = splits.held_out
    few = few_of_each(held_out, config.images)
    say(f"answering {len(held_out)} images")
    logits = logits_of(network, held_out)
    predicted = logits.argmax(1)
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    similar = layer_similarities(network.layout, network.paths.bits)
    say(f"sending {len(few)} images through {network.classes} sub-architectures")
    tasks = measure_tasks(network, few)
    say(f"measuring path hit rates on {config.mosaics} mosaics")
    hits = (
        measure_hits(network, held_out, config.mosaics, config.mask_rates, seed) if config.mosaics else None
    )
    return DisentangleFigures(
        layers=network.layout.names,
        dense_accuracy=float((predicted == held_out.labels).mean()),
        density_by_layer=tuple(map(float, network.paths.layer_density())),
        similarity=float(between_classes(similar).mean()),
        similarity_by_layer=tuple(map(float, between_classes(similar).mean(axis=1))),
        expected_similarity_by_layer=tuple(
            map(float, between_classes(expected_similarity(network.paths)).mean(axis=1))
        ),
        tasks=tasks,
        hits=hits,
        agreement=agreement(
            similar,
            confusion(probabilities, held_out.labels),
            len(held_out),
            permutations=config.resamples,
            seed=seed,
        ),
        errors=explain_errors(
            similar.mean(axis=0), held_out.labels, predicted, resamples=config.resamples, seed=seed
        ),
        concepts=measure_concepts(network, few),
    )
