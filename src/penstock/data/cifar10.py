"""CIFAR-10 from Parquet files of lossless WebP images.

The data set is A. Krizhevsky's, "Learning Multiple Layers of Features from Tiny Images", 2009.

The folder holds ``cifar10_train_a.parquet``, ``cifar10_train_b.parquet`` and ``cifar10_test.parquet`` as
`penstock.data.parquet` says, with images of 32 x 32 and the column ``index``, the place in the original order.

Validation is drawn from the training files. The test file is cut by index, not by chance, so that calibration
stays the same for every seed: a network that was chosen with one seed has not seen the calibration images of
another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from penstock.data.images import ImageSet, Splits
from penstock.data.location import locate
from penstock.data.parquet import read_parquet
from penstock.data.splitting import draw

TRAIN_FILES = ("cifar10_train_a.parquet", "cifar10_train_b.parquet")
TEST_FILE = "cifar10_test.parquet"
VALIDATION = 2500
SIZE = 32


def load_cifar10(folder: Path | None, seed: int) -> Splits:
    """CIFAR-10 out of ``folder`` (by default what ``PENSTOCK_DATA`` says), split with this seed.

    Raises:
        NotFoundError: the folder was not named, or it or a file in it is not there.
        InvalidArgumentError: a file is damaged.
        UnsupportedError: pyarrow or Pillow is not installed.
    """
    *train_files, test_file = locate("cifar10", (*TRAIN_FILES, TEST_FILE), folder)
    validation, train = draw(_join([read_parquet(file, SIZE) for file in train_files]), VALIDATION, seed)
    held_out = read_parquet(test_file, SIZE)
    calibration = held_out.index % 10 <= 1
    return Splits(
        train=train,
        validation=validation,
        calibration=held_out.take(calibration),
        test=held_out.take(~calibration),
    )


def _join(parts: list[ImageSet]) -> ImageSet:
    return ImageSet(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        parts[0].class_names,
        np.concatenate([part.index for part in parts]),
    )
