"""Batches from images in memory, the same in every run with the same seed, however often it was interrupted.

The order of an epoch depends on the seed and the epoch's number alone, so a run that resumes at an epoch's start sees
exactly what the uninterrupted one saw. Augmentation comes in *views*: view ``v`` shifts and mirrors every image in a
way that depends on ``v`` alone, and epoch ``e`` shows view ``e mod views``. All runs thus share their views, and what a
teacher says of a view needs to be computed only once (see `penstock.learn.teacher`). An odd view mirrors just those
images that the even one before it does not: in a short training, seeing either side equally often is worth some epochs
(Jordan, *94% on CIFAR-10 in 3.29 seconds on a single GPU*, 2024, https://arxiv.org/abs/2404.00498).

Under several devices each one takes its share of every batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.utils.data import IterableDataset

from penstock.data import ImageSet

VIEW_SEED = 104_729  # of all views of all runs
MIRROR_SEED = 1_299_709  # of which images every pair of views mirrors first


class Batch(NamedTuple):
    """What one step sees.

    Attributes:
        images: ``[N, C, H, W]`` float32 in 0..1.
        labels: ``[N]`` int64.
        which: ``[N]`` int64, place of each image in its set.
    """

    images: Tensor
    labels: Tensor
    which: Tensor


class Batches(IterableDataset[Batch]):
    """Batches of an image set.

    Args:
        images: where they come from.
        batch_size: images per batch, over all devices together; the last one may be smaller in evaluation and is
            left out in training.
        training: shuffle and augment.
        seed: of the order.
        padding: largest random shift in pixels.
        flip: mirror half of the images.
        cutout: side in pixels of a black square at a random place, DeVries and Taylor, 2017
            (https://arxiv.org/abs/1708.04552); its centre lies in the image, so some of it may not.
        views: number of different augmentations of each image.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        training: bool = False,
        seed: int = 0,
        padding: int = 0,
        flip: bool = False,
        cutout: int = 0,
        views: int = 16,
    ) -> None:
        self.images = torch.from_numpy(images.images)
        self.labels = torch.from_numpy(images.labels)
        self.classes = len(images.class_names)
        self.batch_size = min(batch_size, len(images)) if training else batch_size
        self.training = training
        self.seed = seed
        self.padding = padding
        self.flip = flip
        self.cutout = cutout
        self.views = views
        self.epoch = 0
        self._drawn: tuple[int, Tensor, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        count = len(self.labels)
        return count // self.batch_size if self.training else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.labels)
        order = torch.arange(count)
        if self.training:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(count, generator=generator)
        view = self.view if self.training else None
        rank, devices = _rank()
        for which in torch.split(order, self.batch_size)[: len(self)]:
            mine = which[rank::devices]
            yield Batch(self.show(view, mine), self.labels[mine], mine)

    def __deepcopy__(self, memo: dict[int, Any]) -> Batches:
        """A copy that counts epochs for itself; the images, which nobody writes to, are not doubled."""
        return copy.copy(self)

    @property
    def view(self) -> int:
        """The view that the current epoch shows."""
        return self.epoch % self.views

    def show(self, view: int | None, index: Tensor) -> Tensor:
        """Images as a network sees them, ``[N, C, H, W]`` float32 in 0..1.

        Args:
            view: which augmentation, or ``None`` for the images as they are.
            index: ``[N]`` which images.
        """
        images = self.images[index]
        if view is not None:
            shifts, mirrored, centres = self._variation(view)
            images = vary(images, shifts[:, index], mirrored[index], self.padding)
            if self.cutout:
                images = cut_out(images, centres[:, index], self.cutout)
        return images.float().div_(255)

    def _variation(self, view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Shifts ``[2, images]``, whether to mirror ``[images]``, and centres of squares, shares ``[2, images]``."""
        if self._drawn is None or self._drawn[0] != view:
            generator = torch.Generator().manual_seed(VIEW_SEED + view)
            count = len(self.labels)
            shifts = torch.randint(0, 2 * self.padding + 1, (2, count), generator=generator)
            centres = torch.rand(2, count, generator=generator)
            self._drawn = view, shifts, self._mirrored(view), centres
        return self._drawn[1:]

    def _mirrored(self, view: int) -> Tensor:
        count = len(self.labels)
        if not self.flip:
            return torch.zeros(count, dtype=torch.bool)
        pair, odd = divmod(view, 2)
        coins = torch.rand(count, generator=torch.Generator().manual_seed(MIRROR_SEED + pair)) < 0.5
        return coins ^ bool(odd)


def vary(images: Tensor, shifts: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Shift images, filling with black, and mirror some of them.

    Args:
        images: uint8 ``[N, C, H, W]``.
        shifts: ``[2, N]``, rows and columns, from 0 to ``2 * padding``; ``padding`` is no shift.
        mirrored: ``[N]`` bool.
        padding: largest shift to either side.
    """
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows = shifts[0, :, None] + torch.arange(height)
    columns = shifts[1, :, None] + torch.arange(width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    which = torch.arange(count)[:, None, None]
    # Index arrays [N, H, 1] and [N, 1, W] with a slice between them put the channels last: [N, H, W, C].
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cut_out(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Blacken a square of each image, as far as it lies in it.

    Args:
        images: uint8 ``[N, C, H, W]``.
        centres: float ``[2, N]``, rows and columns as shares of height and width, 0 to 1.
        side: of the square, in pixels.
    """
    first = [(centres[axis] * images.shape[2 + axis]).long() - side // 2 for axis in (0, 1)]
    places = [torch.arange(images.shape[2 + axis]) - first[axis][:, None] for axis in (0, 1)]
    rows, columns = ((place >= 0) & (place < side) for place in places)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _rank() -> tuple[int, int]:
    """This process's place among those that train together, and their number."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
