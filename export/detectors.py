"""The detector that an export carries: what was asked for, or what suits the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from penstock.detect.family_score import FamilyScore
from penstock.detect.recipe import DEFAULT, Recipe, usual_detector
from penstock.errors import UnsupportedError
from penstock.export.sample import Sample
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.detecting import fitted_score

Say = Callable[[str], None]


def detector_of(
    checkpoint: Checkpoint, sample: Sample, name: str | None, folder: Path | None, say: Say = lambda _: None
) -> FamilyScore:
    """The detector's score.

    Args:
        checkpoint: what is exported; holds the tables of the default detector.
        sample: what the threshold is to be set on, and, of some detectors, scores are ranked by.
        name: of a recipe; ``None``: what suits the network.
        folder: of the data set; by default what ``PENSTOCK_DATA`` says.
        say: told why it is not that.

    Raises:
        UnsupportedError: not the default, and the threshold could not be set: the stored scores are the default's.
        NotFoundError: not the default, and there are no training images to fit it to.
    """
    usual = usual_detector(checkpoint.network.layout)
    if name is None and usual != DEFAULT and not sample.real:
        say(
            f"detector {DEFAULT} in the place of {usual}, which is fitted on the data set's images: none are at hand"
        )
        usual = DEFAULT
    name = usual if name is None else str(Recipe.parse(name))
    if name != DEFAULT and not sample.real:
        raise UnsupportedError(
            f"detector {name} needs the data set's images, to be fitted and calibrated: name their folder with --data "
            f"or PENSTOCK_DATA, or take {DEFAULT}"
        )
    ranks = Recipe.parse(name).ranking(len(sample.images))
    return fitted_score(checkpoint, name, sample.images[ranks], folder)
