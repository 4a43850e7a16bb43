"""The detector that an export carries: the checkpoint's own, or what was asked for."""

from __future__ import annotations

from pathlib import Path

from penstock.detect.family_score import FamilyScore
from penstock.detect.recipe import Recipe
from penstock.errors import UnsupportedError
from penstock.export.sample import Sample
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.detecting import fitted_score


def detector_of(
    checkpoint: Checkpoint,
    sample: Sample,
    name: str | None,
    folder: Path | None,
    sub_architectures: Path | None = None,
) -> FamilyScore:
    """The detector's score.

    Args:
        checkpoint: what is exported; holds the tables of its own detector.
        sample: what the threshold is to be set on, and, of some detectors, scores are ranked by.
        name: of a recipe; ``None``: the checkpoint's own.
        folder: of the data set; by default what ``PENSTOCK_DATA`` says.
        sub_architectures: run folder or file of a disentanglement, for recipes that compare with these.

    Raises:
        UnsupportedError: another, and the threshold could not be set: the stored scores are the checkpoint's own.
        NotFoundError: another, and there are no training images to fit it to.
        InvalidArgumentError: no such recipe.
    """
    own = checkpoint.detector_name
    name = own if name is None else str(Recipe.parse(name))
    if name != own and not sample.real:
        raise UnsupportedError(
            f"detector {name} needs the data set's images, to be fitted and calibrated: name their folder with --data "
            f"or PENSTOCK_DATA, or take {own}"
        )
    ranks = Recipe.parse(name).ranking(len(sample.images))
    return fitted_score(checkpoint, name, sample.images[ranks], folder, sub_architectures)
