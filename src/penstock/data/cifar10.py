"""CIFAR-10 from Parquet files of lossless WebP images.

The data set is A. Krizhevsky's, "Learning Multiple Layers of Features from Tiny Images", 2009.

The folder holds ``cifar10_train_a.parquet``, ``cifar10_train_b.parquet`` and ``cifar10_test.parquet`` with
the columns ``image`` (an encoded 32 x 32 RGB image), ``label`` (0..9) and ``index`` (place in the original
order), and the names of the classes as a JSON list under ``class_names`` in the schema's metadata.

Validation is drawn from the training files. The test file is cut by index, not by chance, so that calibration
stays the same for every seed: a network that was chosen with one seed has not seen the calibration images of
another.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.data.cache import cached
from penstock.data.images import ImageSet, Splits
from penstock.data.splitting import stratified
from penstock.errors import InvalidArgumentError, NotFoundError, UnsupportedError

TRAIN_FILES = ("cifar10_train_a.parquet", "cifar10_train_b.parquet")
TEST_FILE = "cifar10_test.parquet"
VALIDATION = 2500
SHAPE = (3, 32, 32)


def load_cifar10(folder: Path | None, seed: int) -> Splits:
    """CIFAR-10 out of ``folder``, split with this seed.

    Raises:
        NotFoundError: the folder was not named, or it or a file in it is not there.
        InvalidArgumentError: a file is damaged.
        UnsupportedError: pyarrow or Pillow is not installed.
    """
    expected = f"set PENSTOCK_DATA to a folder with {', '.join((*TRAIN_FILES, TEST_FILE))}"
    if folder is None:
        raise NotFoundError(f"cifar10 is not part of Penstock: {expected}")
    for name in (*TRAIN_FILES, TEST_FILE):
        if not (folder / name).is_file():
            raise NotFoundError(f"no {name} in {folder}: {expected}")
    learning = _join([read_images(folder / name) for name in TRAIN_FILES])
    held_out = read_images(folder / TEST_FILE)
    (validation,) = stratified(learning.labels, (VALIDATION,), seed)
    train = np.ones(len(learning), dtype=np.bool_)
    train[validation] = False
    calibration = held_out.index % 10 <= 1
    return Splits(
        train=learning.take(train),
        validation=learning.take(validation),
        calibration=held_out.take(calibration),
        test=held_out.take(~calibration),
    )


def read_images(path: Path) -> ImageSet:
    """One Parquet file; its decoded images are cached, because decoding takes seconds.

    Raises:
        InvalidArgumentError: the file is damaged or has other columns.
        UnsupportedError: pyarrow or Pillow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UnsupportedError('cifar10 needs pyarrow: pip install "penstock[train]"') from error
    try:
        rows = parquet.read_table(path, columns=["label", "index"])
        names = json.loads(rows.schema.metadata[b"class_names"])

        def read_pixels() -> npt.NDArray[np.uint8]:
            return _decode(parquet.read_table(path, columns=["image"])["image"].to_pylist())

        return ImageSet(
            cached(path, read_pixels, (len(rows), *SHAPE)),
            rows["label"].to_numpy().astype(np.int64),
            tuple(names),
            rows["index"].to_numpy().astype(np.int64),
        )
    # pyarrow's and Pillow's errors are ValueError or OSError; a missing column or metadata is the rest.
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise InvalidArgumentError(
            f"{path} is damaged or not a CIFAR-10 file ({error}): copy it anew"
        ) from error


def _decode(encoded: Iterable[bytes]) -> npt.NDArray[np.uint8]:
    """``[N, 3, 32, 32]`` out of image files."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError('cifar10 needs Pillow: pip install "penstock[train]"') from error
    images = np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in encoded])
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # from [N, H, W, C]
    if images.shape[1:] != SHAPE:
        raise ValueError(f"its images have shape {images.shape[1:]} instead of {SHAPE}")
    return images


def _join(parts: list[ImageSet]) -> ImageSet:
    return ImageSet(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        parts[0].class_names,
        np.concatenate([part.index for part in parts]),
    )
