"""What detectors see of a checkpoint's network, and the scores that it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock import data
from penstock.data.images import ImageSet
from penstock.data.splitting import at_most
from penstock.detect import FamilyDetector, FamilyScore, PathFeatures
from penstock.detect.recipe import DEFAULT
from penstock.errors import NotFoundError, UnsupportedError
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.inference import Answers, Levels, answer
from penstock.nn.path_network import PathNetwork
from penstock.nn.sub_architectures import load_sub_architectures, sub_architectures_file
from penstock.paths import PathSet

FIT_IMAGES = 20_000  # training images that a detector is fitted on, at most
FIT_SEED = 0  # of their choice, the same whenever a detector is fitted to a network


def features_of(network: PathNetwork, images: Levels) -> PathFeatures:
    """What detectors see of images ``[N, C, H, W]`` in 0..255."""
    return features(network, answer(network, images))


def features(network: PathNetwork, answers: Answers) -> PathFeatures:
    """What detectors see of a network's answers."""
    return PathFeatures.of(network.layout, answers.bits, answers.gate_logits, answers.logits)


def fitted_score(
    checkpoint: Checkpoint,
    name: str,
    ranking: npt.NDArray[np.uint8],
    folder: Path | None = None,
    sub_architectures: Path | None = None,
) -> FamilyScore:
    """A detector's score: the checkpoint's own, or another, fitted on the training images of its data set.

    Args:
        checkpoint: holds the tables of its own.
        name: of a recipe, `penstock.detect.recipe`.
        ranking: ``[N, C, H, W]`` images that the network has not learned from, for recipes that want them; or none.
        folder: of the data set; by default what ``PENSTOCK_DATA`` says.
        sub_architectures: run folder or file of a disentanglement, for recipes that compare with these.

    Raises:
        NotFoundError: not its own, and there are no training images to fit another to, or no sub-architectures there.
        InvalidArgumentError: no such recipe, too few images, or sub-architectures that are asked for and not named.
        UnsupportedError: scikit-learn is not installed.
    """
    if name == checkpoint.detector_name and checkpoint.detector:
        return checkpoint.score
    if name == DEFAULT and checkpoint.detector:  # its tables are part of every other
        return FamilyScore.of_default(checkpoint.detector)
    source = str(checkpoint.config.get("data", ""))
    if not source:
        raise NotFoundError(f"detector {name} is fitted on training images, and none belong to this source")
    training = data.load(source, folder=folder).train
    ranked = features_of(checkpoint.network, ranking) if len(ranking) else None
    masks = None if sub_architectures is None else masks_of(sub_architectures, checkpoint)
    classes = len(checkpoint.class_names)
    return newly_fitted(checkpoint.network, name, training, ranked, classes=classes, masks=masks)


def masks_of(found: Path, checkpoint: Checkpoint) -> PathSet:
    """The classes' sub-architectures, laid out as the paths that a detector of this checkpoint looks at.

    Args:
        found: run folder or file of a disentanglement.
        checkpoint: with gates or prototypes, and no observers.

    Raises:
        NotFoundError: there is no such file.
        UnsupportedError: they are of other layers or classes.
    """
    result = load_sub_architectures(sub_architectures_file(found))
    layout = checkpoint.network.layout.watching
    own, its = ([(layer.name, layer.filters) for layer in each.layers] for each in (layout, result.layout))
    if own != its or result.class_names != checkpoint.class_names:
        raise UnsupportedError(
            f"the sub-architectures in {found} are of {len(its)} layers and {len(result.class_names)} classes, the "
            f"paths that the detector sees of {len(own)} layers and {len(checkpoint.class_names)} classes, and not "
            "the same ones: disentangle the dense network that this one was made from; networks with observers show no "
            "others"
        )
    return PathSet(layout, result.paths.bits)


def newly_fitted(
    network: PathNetwork,
    name: str,
    training: ImageSet,
    ranking: PathFeatures | None,
    *,
    classes: int,
    masks: PathSet | None = None,
) -> FamilyScore:
    """A detector's score, fitted now.

    Args:
        network: in evaluation mode.
        name: of a recipe.
        training: images to fit on, of which `FIT_IMAGES` are drawn where there are more.
        ranking: of images that the network has not learned from, for recipes that want them.
        classes: number of classes.
        masks: their sub-architectures, for recipes that compare with these.

    Raises:
        InvalidArgumentError: no such recipe, or too few images.
        UnsupportedError: scikit-learn is not installed.
    """
    honest = features_of(network, training.images[at_most(training.labels, FIT_IMAGES, FIT_SEED)])
    return FamilyDetector(name, classes=classes, sub_architectures=masks).fit(honest, ranking).fitted
