"""Training images for each class's masks, every class drawn for itself.

What class ``c`` gets in step ``t``, images of its own and, where asked for, of other classes, depends on the seed, on
``c`` and on ``t`` alone: not on which other classes are searched beside it, nor on whether the run was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from penstock.data import ImageSet
from penstock.errors import InvalidArgumentError
from penstock.learn.batches import vary
from penstock.nn.mask_losses import ClassBatch

_OWN, _OTHERS = 1, 4  # what a generator is for; a search uses 2 and 3


def class_generator(seed: int, label: int, *place: int) -> torch.Generator:
    """A generator for one class and one place in the run, unlike that of any other."""
    mixed = np.random.SeedSequence([seed, label, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))


class ClassStreams:
    """An endless stream of varied images for each class.

    Every pass over a class's images has an order, shifts and mirrorings of its own.

    Args:
        images: the training set.
        batch: images of a class per step.
        others: images of other classes, any of them, that each class also gets per step.
        seed: of everything random.
        most: images of a class that are used, at most; ``None``: all. Those are drawn, too.
        padding: largest random shift in pixels.
        flip: mirror half of the images.

    Raises:
        InvalidArgumentError: a class has no image.
    """

    def __init__(
        self,
        images: ImageSet,
        batch: int,
        *,
        others: int = 0,
        seed: int = 0,
        most: int | None = None,
        padding: int = 0,
        flip: bool = False,
    ) -> None:
        self._images = torch.from_numpy(images.images)
        self._batch = batch
        self._others = others
        self._seed = seed
        self._padding = padding
        self._flip = flip
        self._members: list[Tensor] = []
        for label, name in enumerate(images.class_names):
            members = torch.from_numpy(np.flatnonzero(images.labels == label))
            if not len(members):
                raise InvalidArgumentError(f"no training image of class {name!r}: its mask cannot be learned")
            chosen = torch.randperm(len(members), generator=class_generator(seed, label))[:most]
            self._members.append(members[chosen])

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of images used of each class."""
        return tuple(len(members) for members in self._members)

    def step(self, step: int, classes: Sequence[int]) -> ClassBatch:
        """The images of one step.

        Args:
            step: its number, from 0.
            classes: the ``G`` classes asked for.

        Returns:
            for one class after the other its own images, then those of others; float32 in 0..1.
        """
        images, labels = [], []
        for label in classes:
            images.append(self._of_class(step, label))
            labels.append(torch.full((self._batch,), label))
            if self._others:
                images.append(self._of_others(step, label, labels))
        return ClassBatch(
            torch.cat(images),
            torch.cat(labels),
            torch.tensor(classes).repeat_interleave(self._batch + self._others),
            len(classes),
        )

    def plain(self, count: int) -> list[Tensor]:
        """For each class up to ``count`` images as they are, ``[N, C, H, W]`` float32 in 0..1."""
        return [self._images[members[:count]].float() / 255 for members in self._members]

    def _of_class(self, step: int, label: int) -> Tensor:
        """``[B, C, H, W]`` the next images of the class; every pass over them has an order of its own."""
        count = len(self._members[label])
        places = torch.arange(step * self._batch, (step + 1) * self._batch)
        pieces = []
        for lap in torch.unique(places // count).tolist():
            generator = class_generator(self._seed, label, _OWN, lap)
            order = torch.randperm(count, generator=generator)
            which = order[places[places // count == lap] % count]
            pieces.append(self._varied(self._members[label][which], generator))
        return torch.cat(pieces)

    def _of_others(self, step: int, label: int, labels: list[Tensor]) -> Tensor:
        """``[others, C, H, W]`` images of other classes, every class as likely; their labels go into ``labels``."""
        generator = class_generator(self._seed, label, _OTHERS, step)
        drawn = torch.randint(0, len(self._members) - 1, (self._others,), generator=generator)
        drawn += drawn >= label
        which = [
            self._members[other][torch.randint(0, len(self._members[other]), (), generator=generator)]
            for other in drawn.tolist()
        ]
        labels.append(drawn)
        return self._varied(torch.stack(which), generator)

    def _varied(self, which: Tensor, generator: torch.Generator) -> Tensor:
        shifts = torch.randint(0, 2 * self._padding + 1, (2, len(which)), generator=generator)
        mirrored = torch.rand(len(which), generator=generator) < (0.5 if self._flip else 0.0)
        return vary(self._images[which], shifts, mirrored, self._padding).float() / 255
