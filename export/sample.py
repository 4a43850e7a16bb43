"""Images to check and calibrate an export on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock import data
from penstock.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from penstock.nn.checkpoint import Checkpoint

SYNTHETIC_IMAGES = 64
MADE_UP = "verifying on synthetic ones, threshold from stored scores"


@dataclass(frozen=True)
class Sample:
    """Images to check and calibrate on.

    Attributes:
        images: ``[N, C, H, W]`` uint8.
        real: whether they are honest images that the network never saw; synthetic ones serve to check with only.
        others: ``[M, C, H, W]`` uint8, what the graph may be fitted to, such as int8's ranges: were it fitted to those
            that its threshold is set on, these would no longer be like all others. ``None``: ``images``.
    """

    images: npt.NDArray[np.uint8]
    real: bool
    others: npt.NDArray[np.uint8] | None = None

    @property
    def to_fit(self) -> npt.NDArray[np.uint8]:
        """Images that the graph may be fitted to."""
        return self.images if self.others is None else self.others

    def first(self, images: int, others: int) -> Sample:
        """A smaller one."""
        return replace(self, images=self.images[:images], others=self.to_fit[:others])


def sample_of(checkpoint: Checkpoint, folder: Path | None, say: Callable[[str], None]) -> Sample:
    """The data set's calibration and validation images; synthetic ones if nobody insists, and they cannot be had.

    Args:
        checkpoint: says which data set.
        folder: of the data set, which then must be there, except for timing sources, which have none; ``None``: what
            ``PENSTOCK_DATA`` says.
        say: told if they are synthetic.

    Raises:
        PenstockError: there are no images in ``folder``.
    """
    name = str(checkpoint.config.get("data", ""))
    try:
        if not name and (folder is None or "timing" in checkpoint.config):
            say(f"no images belong to this source: {MADE_UP}")
            return _made_up(checkpoint)
        splits = data.load(name, folder=folder)
        return Sample(splits.calibration.images, real=True, others=splits.validation.images)
    except (NotFoundError, UnsupportedError, InvalidArgumentError) as error:
        if folder is not None:
            raise
        say(f"no images of the data set ({error}): {MADE_UP}")
        return _made_up(checkpoint)


def _made_up(checkpoint: Checkpoint) -> Sample:
    return Sample(synthetic_images(SYNTHETIC_IMAGES, checkpoint.input_shape), real=False)


def synthetic_images(count: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Random squares of many sizes, colours and contrasts, ``[count, C, H, W]``.

    Noise of single pixels would do worse: its averages, which gates look at, are much the same in every image, so
    nearly all images would take nearly the same path.
    """
    draw = np.random.default_rng(0)
    channels, height, width = shape
    images = np.empty((count, *shape), np.uint8)
    for image in images:
        side = 2 ** int(draw.integers(0, 5))
        darkest, brightest = np.sort(draw.integers(0, 256, (2, channels, 1, 1)), axis=0)
        colours = (channels, -(-height // side), -(-width // side))
        squares = draw.integers(darkest, brightest + 1, colours)
        image[:] = squares.repeat(side, axis=1).repeat(side, axis=2)[:, :height, :width]
    return images
