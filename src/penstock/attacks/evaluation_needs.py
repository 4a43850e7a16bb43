"""Everything that a plan of attacks needs, looked for before the first piece of work and not hours later."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.attacks.baselines import NAMES
from penstock.attacks.classifier import Images
from penstock.attacks.controls import foreign
from penstock.attacks.evaluation_config import EvaluationConfig
from penstock.attacks.evaluation_figures import RATES
from penstock.data import load
from penstock.detect.calibration import fewest_scores
from penstock.detect.recipe import SUB_ARCHITECTURE, Recipe
from penstock.errors import ConfigurationError, InvalidArgumentError, NotFoundError, UnsupportedError
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.detecting import masks_of

FOREIGN = ("mnist", "caltech25")  # controls that are other data sets
# By library: how it is called, the extra that brings it, and which attacks and controls ask for it.
LIBRARIES = {
    "art": ("the Adversarial Robustness Toolbox", "attacks", ("fgsm", "autoattack", "deepfool")),
    "PIL": ("Pillow", "train", ("jpeg", "pixelate", *FOREIGN)),
}
FITTED = tuple(name for name in NAMES if name not in ("max-softmax", "energy", "lid"))  # by scikit-learn


def check_libraries(config: EvaluationConfig) -> None:
    """Refuse a plan for which a library is missing.

    Raises:
        UnsupportedError: says which, what asks for it, and how to install it.
    """
    wanted = {
        library: (title, extra, [kind for kind in config.kinds if kind in kinds])
        for library, (title, extra, kinds) in LIBRARIES.items()
    }
    wanted["scipy"] = ("scipy", "attacks", ["intervals"])
    wanted["sklearn"] = (
        "scikit-learn",
        "attacks",
        [name for name in config.baselines if name in FITTED] + ["supervised"] * bool(config.supervised),
    )
    for library, (title, extra, users) in wanted.items():
        if users and find_spec(library) is None:
            raise UnsupportedError(
                f'{", ".join(users)}: {title} is needed and not installed: pip install "penstock[{extra}]", or leave '
                "these out of the configuration"
            )


def check_source(checkpoint: Checkpoint, name: str) -> None:
    """Refuse a network without a detector, or without a data set.

    Raises:
        InvalidArgumentError: says which is missing.
    """
    if not checkpoint.detector:
        raise InvalidArgumentError(
            f"{name} has no detector that could be evaluated: take a network with gates or prototypes that `penstock` "
            "trained"
        )
    if "data" not in checkpoint.config:
        raise InvalidArgumentError(
            f"{name} does not say which data set it learned from, whose images are needed: take a network that "
            "`penstock` trained"
        )


def check_rates(config: EvaluationConfig, recipe: Recipe, ranked: npt.NDArray[np.bool_]) -> None:
    """Refuse rates for which there are too few calibration images.

    Args:
        config: what to do.
        recipe: of the detector.
        ranked: which calibration images ``[N]`` no threshold is set on.

    Raises:
        ConfigurationError: ``fpr`` is such a rate.
        InvalidArgumentError: figures are told at such a rate.
    """
    count = int(np.sum(~ranked))
    less = f", because {recipe} or a bundle's detector ranks scores by the others" if ranked.any() else ""
    if count < fewest_scores(config.fpr):
        raise ConfigurationError(
            f"fpr is {config.fpr}, for which {fewest_scores(config.fpr)} calibration images are needed; thresholds are "
            f"set on {count}{less}: {1 / (count + 1):.2g} is the lowest rate"
        )
    if count < fewest_scores(min(RATES)):
        raise InvalidArgumentError(
            f"thresholds are set on {count} calibration images{less}; figures at a rate of {min(RATES)} need "
            f"{fewest_scores(min(RATES))}: take a data set with more images"
        )


def check_masks(config: EvaluationConfig, recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Refuse a detector that compares with sub-architectures where these are not there or of another network.

    Raises:
        ConfigurationError: none are named.
        NotFoundError: there is no such file.
        UnsupportedError: they are of other layers or classes.
    """
    own = str(recipe) == checkpoint.detector_name  # nothing is fitted
    if own or SUB_ARCHITECTURE not in recipe.parts:
        return
    if not config.sub_architectures:
        raise ConfigurationError(
            f"sub_architectures is empty, and detector {recipe} compares with these: name the run of `penstock "
            "disentangle` that found them"
        )
    masks_of(Path(config.sub_architectures), checkpoint)


def foreign_images(
    config: EvaluationConfig, shape: tuple[int, int, int], folder: Path | None
) -> dict[str, Images]:
    """Images of other data sets that the plan asks for, as a network is shown them, by control.

    Args:
        config: what to do.
        shape: ``(C, H, W)`` that the network takes.
        folder: of the data sets; by default what ``PENSTOCK_DATA`` says.

    Raises:
        NotFoundError: they are not there.
        InvalidArgumentError: damaged, or in colour for a network that takes grey.
        UnsupportedError: a library that reads them is not installed.
    """
    found: dict[str, Images] = {}
    for kind in (kind for kind in FOREIGN if kind in config.kinds):
        try:
            found[kind] = foreign(load(kind, folder=folder).test, shape, config.shown(kind))
        except (NotFoundError, InvalidArgumentError, UnsupportedError) as error:
            raise type(error)(f"control {kind}: {error}; or leave {kind} out of kinds") from error
    return found
