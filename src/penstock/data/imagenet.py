"""300 images of ImageNet, one for each of 300 classes: enough to see that a network and its preprocessing fit.

Most are training images of ILSVRC-2012 (O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge",
2015), so accuracies on them lie above the published ones and are no benchmark. There is nothing to learn from one
image a class: the sample has no splits, and `penstock.data.load` does not know it.
"""

from __future__ import annotations

from pathlib import Path

from penstock.data.decoding import centre_crop
from penstock.data.images import ImageSet
from penstock.data.location import locate
from penstock.data.parquet import read_parquet

FILE = "imagenet_sample.parquet"
SIZE = 224


def imagenet_sample(*, folder: Path | None = None) -> ImageSet:
    """The sample: ``[300, 3, 224, 224]``, centre crops of images whose shorter side is 256.

    Labels are 0..999 in the usual order (sorted WordNet ids), and there are 1,000 class names.

    Args:
        folder: where ``imagenet_sample.parquet`` lies; by default what ``PENSTOCK_DATA`` says.

    Raises:
        NotFoundError: the folder was not named, or it or the file is not there.
        InvalidArgumentError: the file is damaged.
        UnsupportedError: pyarrow or Pillow is not installed.
    """
    (file,) = locate("the ImageNet sample", (FILE,), folder)
    return read_parquet(file, SIZE, centre_crop)
