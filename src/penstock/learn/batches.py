"""Batches from images in memory, the same in every run with the same seed, however often it was interrupted.

Order and augmentation of an epoch depend on the seed and the epoch's number alone, so a run that resumes at an
epoch's start sees exactly what the uninterrupted one saw.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from penstock.data import ImageSet


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of ``(images float32 [N, C, H, W] in 0..1, labels int64 [N])``.

    Args:
        images: where they come from.
        batch_size: images per batch; the last one may be smaller in evaluation and is left out in training.
        training: shuffle and augment.
        seed: of order and augmentation.
        padding: largest random shift in pixels.
        flip: mirror half of the images.
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
    ) -> None:
        self.images = torch.from_numpy(images.images)
        self.labels = torch.from_numpy(images.labels)
        self.batch_size = min(batch_size, len(images)) if training else batch_size
        self.training = training
        self.seed = seed
        self.padding = padding
        self.flip = flip
        self.epoch = 0

    def __len__(self) -> int:
        count = len(self.labels)
        return count // self.batch_size if self.training else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        count = len(self.labels)
        order = torch.randperm(count, generator=generator) if self.training else torch.arange(count)
        for which in torch.split(order, self.batch_size)[: len(self)]:
            images = self.images[which]
            if self.training:
                images = augment(images, padding=self.padding, flip=self.flip, generator=generator)
            yield images.float().div_(255), self.labels[which]


def augment(images: Tensor, *, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``padding`` pixels, filling with black, and mirror half of them.

    Args:
        images: uint8 ``[N, C, H, W]``.
        padding: largest shift.
        flip: whether to mirror.
        generator: source of randomness.
    """
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    shift = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    rows = shift[0] + torch.arange(height)
    columns = shift[1] + torch.arange(width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(count)[:, None, None]
    # Index arrays [N, H, 1] and [N, 1, W] with a slice between them put the channels last: [N, H, W, C].
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
