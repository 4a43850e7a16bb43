"""Labelled images as arrays, and the four sets that an experiment keeps apart."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from penstock.errors import InvalidArgumentError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        images: ``[N, C, H, W]`` uint8, 0..255.
        labels: ``[N]`` int64, each an index into ``class_names``.
        class_names: one name per class, also for classes of which no image is here.
        index: ``[N]`` int64, each image's place in the order of the source, so that a result can be traced
            back.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    index: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise InvalidArgumentError(
                f"images are {self.images.dtype} of shape {self.images.shape}; uint8 [N, C, H, W] is needed"
            )
        for name, values in (("labels", self.labels), ("index", self.index)):
            if values.shape != (len(self.images),) or values.dtype != np.int64:
                raise InvalidArgumentError(
                    f"{name} are {values.dtype} of shape {values.shape}; int64 [{len(self.images)}] is needed"
                )
        classes = len(self.class_names)
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise InvalidArgumentError(
                f"labels run from {self.labels.min()} to {self.labels.max()}; there are {classes} classes"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, which: npt.ArrayLike) -> ImageSet:
        """The chosen images, in the order chosen.

        Args:
            which: ``[M]`` integers, or a mask ``[N]`` of bool.

        Raises:
            InvalidArgumentError: an integer is out of range, a mask has another length, or it is neither.
        """
        chosen = np.asarray(which)
        if chosen.size == 0 and chosen.dtype != np.bool_:
            chosen = chosen.astype(np.intp)  # an empty list has no integers to be recognised by
        try:
            return replace(
                self, images=self.images[chosen], labels=self.labels[chosen], index=self.index[chosen]
            )
        except IndexError as error:
            raise InvalidArgumentError(f"cannot take these of {len(self)} images: {error}") from error

    def floats(self) -> npt.NDArray[np.float32]:
        """``[N, C, H, W]`` float32 in 0..1, four times the memory: meant for one batch at a time."""
        return self.images.astype(np.float32) / np.float32(255)


@dataclass(frozen=True, eq=False)
class Splits:
    """Four disjoint sets of one source.

    Attributes:
        train: what the network learns from.
        validation: what epochs, budgets and networks are chosen by.
        calibration: what thresholds are set on, a cascade's too; the network has neither learnt from it nor otherwise
            been chosen by it.
        test: what figures are quoted on.
    """

    train: ImageSet
    validation: ImageSet
    calibration: ImageSet
    test: ImageSet

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return self.train.class_names

    @property
    def held_out(self) -> ImageSet:
        """All that the network never saw, calibration and test, in the order of the source."""
        parts = (self.calibration, self.test)
        both = ImageSet(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
            self.class_names,
            np.concatenate([part.index for part in parts]),
        )
        return both.take(np.argsort(both.index))
