"""Run a decoupled network on the test images of its data set and keep all that figures and pictures need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.data import ImageSet, Splits, load
from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.learn.dependence import Dependence, dependence, measure_steadiness
from penstock.learn.figures import flag_figures
from penstock.nn.checkpoint import Checkpoint, load_source
from penstock.nn.detecting import features
from penstock.nn.inference import Answers, answer, predict
from penstock.paths import PathSet

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """What a network did on ``N`` images that nothing of it was trained, chosen or calibrated by.

    Attributes:
        name: what the user called the source, without the folders of this machine.
        sha256: of the checkpoint.
        checkpoint: the network.
        data: name of the data set.
        images: the images, in the order of their source.
        paths: of all images.
        predicted: ``[N]`` class that the decoupled network says.
        dense_predicted: ``[N]`` class that the dense network says.
        dependence: how the bits depend on the input.
        flags: what `penstock.learn.figures.flag_figures` says; ``None`` where no detector was fitted.
    """

    name: str
    sha256: str
    checkpoint: Checkpoint
    data: str
    images: ImageSet
    paths: PathSet
    predicted: npt.NDArray[np.int64]
    dense_predicted: npt.NDArray[np.int64]
    dependence: Dependence
    flags: dict[str, Any] | None

    def take(self, which: npt.NDArray[np.bool_]) -> Observation:
        """What was seen of some images, a mask ``[N]``; dependence and flags stay those of all."""
        return replace(
            self,
            images=self.images.take(which),
            paths=PathSet(self.paths.layout, self.paths.bits[which]),
            predicted=self.predicted[which],
            dense_predicted=self.dense_predicted[which],
        )


def observe(source: str, folder: Path | None = None, say: Say = lambda _: None) -> Observation:
    """Load a source and the data set that it was trained on, and run it.

    Args:
        source: run folder, checkpoint file, or ``zoo:NAME``.
        folder: of the data set; by default what ``PENSTOCK_DATA`` says.
        say: told what is going on, in short lines.

    Raises:
        NotFoundError: the source or its data set is not there.
        InvalidArgumentError: the checkpoint does not say what it was trained on.
    """
    checkpoint, about = load_source(source)
    data = checkpoint.config.get("data")
    if data is None:
        raise InvalidArgumentError(
            f"{about['name']} does not say which data set it was trained on: take one that `penstock` trained"
        )
    splits = _load(about["name"], data, folder)
    images = splits.test
    say(f"running {about['name']} on {len(images):,} images of {data}")
    answers = answer(checkpoint.network, images.images)
    paths = PathSet(checkpoint.network.layout, answers.bits)
    dense = predict(checkpoint.dense, images.images)
    say("running it again under noise")
    steadiness = measure_steadiness(checkpoint.network, images.images, paths)
    return Observation(
        **about,
        checkpoint=checkpoint,
        data=data,
        images=images,
        paths=paths,
        predicted=answers.predicted,
        dense_predicted=dense,
        dependence=dependence(paths, images.labels, len(images.class_names), steadiness),
        flags=_flags(checkpoint, answers),
    )


def _load(name: str, data: str, folder: Path | None) -> Splits:
    try:
        return load(data, folder=folder)
    except NotFoundError as error:
        raise NotFoundError(
            f"{name} is judged on images of {data}: {error}; or name it with --data"
        ) from error


def _flags(checkpoint: Checkpoint, answers: Answers) -> dict[str, Any] | None:
    """False positives among the test images, at the rate that the run was made for."""
    if not checkpoint.detector or not len(checkpoint.calibration):
        return None
    test = checkpoint.score.score(features(checkpoint.network, answers))
    # The checkpoint keeps in double precision what was single.
    return flag_figures(checkpoint.config["fpr"], checkpoint.calibration.astype(np.float32), test)
