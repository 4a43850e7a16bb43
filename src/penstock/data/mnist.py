"""MNIST's test images: grey digits of 28 x 28, for quick trials and as images from another distribution.

The data set is that of Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", 1998. Only its
10,000 test images are read, and all four parts are drawn from them, so figures on them cannot be compared with
published ones.

The files are IDX: two bytes of zero, the type of the values (8: uint8), the number of dimensions, each dimension as a
big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.data.images import ImageSet, Splits
from penstock.data.location import locate
from penstock.data.splitting import stratified
from penstock.errors import InvalidArgumentError

FILES = ("mnist/t10k-images-idx3-ubyte.gz", "mnist/t10k-labels-idx1-ubyte.gz")
# The calibration images are one fewer than a round number: `penstock.data.splitting.calibration_size` says why.
TRAIN, VALIDATION, CALIBRATION, TEST = 5500, 500, 1999, 2001
UINT8 = 8


def load_mnist(folder: Path | None, seed: int) -> Splits:
    """MNIST's test images out of ``folder`` (by default what ``PENSTOCK_DATA`` says), split with this seed.

    Raises:
        NotFoundError: the folder was not named, or it or a file in it is not there.
        InvalidArgumentError: a file is damaged.
    """
    image_file, label_file = locate("mnist", FILES, folder)
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    whole = ImageSet(
        images[:, None],
        labels.astype(np.int64),
        tuple("0123456789"),
        np.arange(len(images), dtype=np.int64),
    )
    parts = stratified(whole.labels, (TRAIN, VALIDATION, CALIBRATION, TEST), seed)
    return Splits(*(whole.take(part) for part in parts))


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array in a compressed IDX file of uint8.

    Raises:
        InvalidArgumentError: the file is damaged, or holds another type or number of dimensions.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        header, values = content[: 4 + 4 * dimensions], content[4 + 4 * dimensions :]
        if header[:4] != bytes((0, 0, UINT8, dimensions)):
            raise ValueError(f"it begins with {header[:4].hex(' ')}")
        shape = np.frombuffer(header, ">u4", offset=4).tolist()
        return np.frombuffer(values, np.uint8).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InvalidArgumentError(
            f"{path} is damaged or no IDX file of {dimensions} dimensions ({error}): copy it anew"
        ) from error
